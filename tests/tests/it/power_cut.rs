//! A power cut of the coordinator's machine: what the page cache holds is gone, and every job and
//! every cancel that rsctl had an answer to is there (A14). The store's own test cuts the power of
//! the store alone; this one of the whole daemon, under several clients.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tests::cluster::{Cluster, Serving};
use tests::job::TinyJob;
use tests::mount::Mount;
use tests::process::is_stopped;
use tests::rsctl::Rsctl;
use tests::soak;
use tests::wait::{report, wait_for};

/// Of one disk, in `make test`.
const CUTS: usize = 4;
/// In `make soak`: as many as the jobs leave room for, on so many disks one after the other.
const SOAK_CUTS: usize = 15;
const SOAK_DISKS: usize = 4;

const CLIENTS: usize = 3;

const IMAGE_BYTES: u64 = 96 << 20;

/// Between two cuts, in milliseconds.
const PAUSE: std::ops::Range<u64> = 100..900;

/// What rsctl had an answer to.
#[derive(Debug, Clone, Default)]
struct Acknowledged {
    submitted: BTreeSet<String>,
    cancelled: BTreeSet<String>,
}

/// Submits, and cancels two of three, until told to stop. Nothing ever runs: there is no worker.
fn keep_submitting(rsctl: &Rsctl, job: &str, told: &Mutex<Acknowledged>, is_over: &AtomicBool) {
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let answer = rsctl.call(&["submit", "--json", job]).expect_code(0).json();
        let id = answer["job_id"].as_str().unwrap().to_owned();
        told.lock().unwrap().submitted.insert(id.clone());
        if number % 3 != 0 {
            rsctl.call(&["cancel", &id]).expect_code(0);
            told.lock().unwrap().cancelled.insert(id);
        }
    }
}

/// A coordinator on this disk that forgets no job, however many there will be.
fn serving_on(disk: &Mount) -> Serving {
    let data_dir = Some(disk.path().join("coordinator"));
    Serving { data_dir, through: vec!["env", "RUSTSPEED_KEEP_JOBS=1000000"], ..Serving::default() }
}

/// What a coordinator on the disk as it was must know.
fn must_be_there(disk: &Mount, known: &Acknowledged) {
    let cluster = Cluster::start_as(serving_on(disk), &[]);
    let rows = cluster.rsctl().call(&["jobs", "--json"]).expect_code(0).json();
    let rows = rows.as_array().unwrap();
    let state = |id: &String| {
        let row = rows.iter().find(|row| row["job_id"] == id.as_str());
        row.map(|row| row["state"].as_str().unwrap().to_owned())
    };
    for id in &known.submitted {
        assert!(state(id).is_some(), "{id} was acknowledged; {} jobs are left", rows.len());
    }
    for id in &known.cancelled {
        assert_eq!(state(id).as_deref(), Some("cancelled"), "{id}");
    }
    let said = cluster.coordinator.as_ref().unwrap().output();
    assert!(!said.contains("DAMAGED"), "{said}");
}

#[test]
fn soak_what_was_acknowledged_survives_a_power_cut_of_the_coordinator() {
    let seed = soak::seed();
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let (disks, cuts) = if soak::is_on() { (SOAK_DISKS, SOAK_CUTS) } else { (1, CUTS) };
    report(&format!("power cuts: {cuts} on each of {disks} disks, RUSTSPEED_SOAK_SEED={seed}"));
    let began = Instant::now();
    for _ in 0..disks {
        if soak::is_on() && began.elapsed() > soak::bound() {
            break;
        }
        cut_again_and_again(cuts, &mut chance);
    }
}

fn cut_again_and_again(cuts: usize, chance: &mut ChaCha8Rng) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    let Some(disk) = Mount::fresh(&image, IMAGE_BYTES, &folder.path().join("live")) else { return };
    let cluster = Cluster::start_as(serving_on(&disk), &[]);
    let job = cluster.write("job.toml", &TinyJob::default().toml());
    let (told, is_over) = (Mutex::new(Acknowledged::default()), AtomicBool::new(false));
    thread::scope(|scope| {
        // However this ends: the clients stop, and the scope with them.
        let _over = Over(&is_over);
        let rsctl = cluster.rsctl();
        for _ in 0..CLIENTS {
            let (rsctl, job, told, is_over) = (rsctl.clone(), &job, &told, &is_over);
            scope.spawn(move || keep_submitting(&rsctl, job, told, is_over));
        }
        for cut in 0..cuts {
            // The moment is chance's: there is no state to wait for.
            thread::sleep(Duration::from_millis(chance.random_range(PAUSE)));
            let copy = folder.path().join(format!("disk-{cut}"));
            let known = cut_the_power(&cluster, &told, &image, &copy);
            let after = Mount::of(&copy, &folder.path().join(format!("after-{cut}"))).unwrap();
            must_be_there(&after, &known);
            drop(after);
            fs_err::remove_file(&copy).unwrap();
        }
    });
    let all = told.into_inner().unwrap();
    report(&format!("power cuts: {cuts} with {} submits in all", all.submitted.len()));
    assert!(all.submitted.len() > cuts, "{} submits in {cuts} cuts", all.submitted.len());
}

/// The disk at one moment, and what had been acknowledged by then.
fn cut_the_power(
    cluster: &Cluster,
    told: &Mutex<Acknowledged>,
    image: &std::path::Path,
    copy: &std::path::Path,
) -> Acknowledged {
    let coordinator = cluster.coordinator.as_ref().unwrap();
    coordinator.signal(Signal::SIGSTOP);
    wait_for("the coordinator stands still", Duration::from_secs(5), || {
        is_stopped(coordinator.pid()).then_some(())
    });
    let known = told.lock().unwrap().clone();
    fs_err::copy(image, copy).unwrap();
    coordinator.signal(Signal::SIGCONT);
    known
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
