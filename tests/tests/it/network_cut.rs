//! A cable is cut: the workers' processes live in two network namespaces, joined by veth pairs. What
//! is cut off ends by itself and commits nothing beside its successor (A6); the job goes on where
//! the coordinator reaches, and ends as if nothing had happened (A12).

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::{Cluster, Serving};
use tests::history::History;
use tests::job::TinyJob;
use tests::network::{Network, with_network};
use tests::process::{children_of, is_stopped};
use tests::wait::{report, wait_for};

/// A silent worker is lost after the lease, a silent peer after the 15 s of the collectives.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);

const EVERY: u64 = 20;

fn job() -> TinyJob {
    let checkpoint = format!("every-steps = {EVERY}");
    TinyJob { max_steps: 1500, checkpoint, ..TinyJob::default() }
}

/// A coordinator at the near end of cable 0; no workers yet.
fn cluster_here() -> Cluster {
    let listen = "10.77.0.1:0".to_owned();
    Cluster::start_as(Serving { listen, ..Serving::default() }, &[])
}

/// Adds a worker to the side on which the thread is.
fn add_worker(cluster: &mut Cluster, name: &str, slots: u32, advertise: Option<&str>) {
    let mut command = cluster.worker_command(name, slots);
    command.args(advertise.into_iter().flat_map(|address| ["--advertise", address]));
    cluster.add_worker(name, command);
}

fn names_of_workers(status: &Value) -> Vec<&str> {
    let ranks = status["ranks"].as_array().unwrap();
    ranks.iter().map(|rank| rank["worker"].as_str().unwrap()).collect()
}

/// Waits until the job's first attempt is known to be over; gives the time since `cut`.
fn wait_for_the_notice(cluster: &Cluster, id: &str, cut: Instant) -> Duration {
    wait_for("the notice of the cut", NOTICED_WITHIN, || {
        let status = cluster.status(id);
        assert_ne!(status["state"], "failed", "{status:#}");
        status["attempts"][0]["ended_at"].as_u64()
    });
    cut.elapsed()
}

/// Waits until a worker has no trainers; gives the time since `cut`.
fn wait_for_the_end(worker: u32, cut: Instant) -> Duration {
    let left = NOTICED_WITHIN.saturating_sub(cut.elapsed());
    wait_for("the end of what is cut off", left, || children_of(worker).is_empty().then_some(()));
    cut.elapsed()
}

/// The worker is back, with room for others' ranks.
fn comes_back_empty(cluster: &Cluster, name: &str, pid: u32) {
    wait_for(&format!("{name} is back and idle"), Duration::from_secs(20), || {
        let rows = cluster.rsctl().read(&["workers", "--json"]);
        let row = rows.as_array()?.iter().find(|row| row["name"] == name)?.clone();
        (row["state"] == "ready" && row["free_slots"] == row["slots"]).then_some(())
    });
    assert_eq!(children_of(pid), [] as [u32; 0], "trainers of {name}");
}

#[test]
fn a_rank_that_is_cut_off_ends_and_the_job_goes_on_on_a_spare() {
    with_network(1, |network| {
        let mut cluster = cluster_here();
        add_worker(&mut cluster, "w0", 1, None);
        network.there(|| add_worker(&mut cluster, "w1", 1, None));
        cluster.wait_until_ready(2);
        let job = cluster.write("job.toml", &job().toml());
        let undisturbed = cluster.submit(&job);
        let expected = History::of(&cluster.wait_for_state(&undisturbed, "succeeded"));

        let id = cluster.submit(&job);
        let status = cluster.wait_for_step(&id, 50);
        assert_eq!(names_of_workers(&status), ["w0", "w1"]);
        add_worker(&mut cluster, "w2", 1, None);
        let far = cluster.workers[1].pid();
        assert_eq!(children_of(far).len(), 1);
        network.cut(0);
        let cut = Instant::now();
        let noticed = wait_for_the_notice(&cluster, &id, cut);
        let done = cluster.wait_for_state(&id, "succeeded");
        assert_eq!(names_of_workers(&done), ["w0", "w2"], "{done:#}");
        let reason = done["attempts"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("w1"), "{reason}");
        History::of(&done).must_equal(&expected);
        let ended = wait_for_the_end(far, cut);
        report(&format!("network cut: known after {noticed:.1?}, the far rank ended {ended:.1?}"));

        network.mend(0);
        comes_back_empty(&cluster, "w1", far);
        assert_eq!(cluster.status(&id)["state"], "succeeded", "A13");
    });
}

#[test]
fn an_attempt_that_is_cut_off_commits_nothing_beside_its_successor() {
    with_network(1, |network| {
        let mut cluster = cluster_here();
        network.there(|| add_worker(&mut cluster, "w0", 2, None));
        cluster.wait_until_ready(1);
        let job = cluster.write("job.toml", &job().toml());
        let undisturbed = cluster.submit(&job);
        let expected = History::of(&cluster.wait_for_state(&undisturbed, "succeeded"));

        let id = cluster.submit(&job);
        cluster.wait_for_step(&id, 50);
        add_worker(&mut cluster, "w1", 2, None);
        let far = cluster.workers[0].pid();
        let trainers = children_of(far);
        assert_eq!(trainers.len(), 2, "the whole attempt is there");
        // It has all that it needs and would go on to the job's end. It is held until its successor
        // has begun to save, so that it wakes beside it on every machine, fast or slow.
        network.cut(0);
        let cut = Instant::now();
        hold(&trainers, &cluster, &id);
        wait_for_the_notice(&cluster, &id, cut);
        let resumed = wait_for_the_successor(&cluster, &id);
        let woken = Instant::now();
        signal(&trainers, Signal::SIGCONT);
        wait_for_the_end(far, woken);
        let done = cluster.wait_for_state(&id, "succeeded");
        assert_eq!(names_of_workers(&done), ["w1", "w1"], "{done:#}");
        History::of(&done).must_equal(&expected);
        let run = Path::new(done["output_dir"].as_str().unwrap());
        let log = fs_err::read_to_string(run.join("logs/rank-0.log")).unwrap();
        assert!(log.contains("superseded"), "the far attempt came to its fence:\n{log}");
        all_is_of_the_successor(&cluster, &id, resumed);

        network.mend(0);
        comes_back_empty(&cluster, "w0", far);
        assert_eq!(cluster.status(&id)["summary"], done["summary"], "A13");
    });
}

/// Stops trainers where they do not hold the lock of the checkpoints' root, as no process that runs
/// does for long.
fn hold(trainers: &[u32], cluster: &Cluster, id: &str) {
    let lock = cluster.path().join("runs").join(id).join("checkpoints/.lock");
    wait_for("the trainers stand still without the lock", Duration::from_secs(5), || {
        signal(trainers, Signal::SIGSTOP);
        let all_stand = || trainers.iter().all(|pid| is_stopped(*pid)).then_some(());
        wait_for("the trainers stand still", Duration::from_secs(5), all_stand);
        let is_free = fs_err::File::open(&lock).unwrap().file().try_lock().is_ok();
        if !is_free {
            signal(trainers, Signal::SIGCONT);
        }
        is_free.then_some(())
    });
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids {
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }
}

/// Waits until the second attempt has saved; gives the step from which it went on.
fn wait_for_the_successor(cluster: &Cluster, id: &str) -> u64 {
    wait_for("a checkpoint of the second attempt", Duration::from_secs(40), || {
        let status = cluster.status(id);
        assert_ne!(status["state"], "failed", "{status:#}");
        let resumed = status["attempts"][1]["resumed_at_step"].as_u64()?;
        let rows = cluster.rsctl().read(&["checkpoints", "list", "--json", id]);
        let newest = rows[0]["step"].as_u64()?;
        (newest > resumed).then_some(resumed)
    })
}

/// What lies under the root beyond `resumed` is the second generation's, whole, and all there is.
fn all_is_of_the_successor(cluster: &Cluster, id: &str, resumed: u64) {
    let rsctl = cluster.rsctl();
    let rows = rsctl.call(&["checkpoints", "list", "--json", id]).expect_code(0).json();
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let path = row["path"].as_str().unwrap();
        let report = rsctl.call(&["checkpoints", "verify", "--json", path]).expect_code(0).json();
        assert_eq!(report["unlisted"], serde_json::json!([]), "{report:#}");
        let manifest = fs_err::read(Path::new(path).join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let generation = if row["step"].as_u64().unwrap() > resumed { 2 } else { 1 };
        assert_eq!(manifest["generation"], generation, "{path}");
    }
    let root = Path::new(rows[0]["path"].as_str().unwrap()).parent().unwrap();
    let folders = fs_err::read_dir(root).unwrap().flatten();
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut saves: Vec<String> = names.filter(|name| name.contains("step-")).collect();
    let mut tags: Vec<&str> = rows.iter().map(|row| row["tag"].as_str().unwrap()).collect();
    saves.sort();
    tags.sort_unstable();
    assert_eq!(saves, tags, "no other folder lies there");
}

#[test]
fn ranks_that_lose_each_other_go_on_when_they_meet_again() {
    with_network(2, |network| {
        let mut cluster = cluster_here();
        add_worker(&mut cluster, "w0", 1, Some("10.77.1.1"));
        network.there(|| add_worker(&mut cluster, "w1", 1, Some("10.77.1.2")));
        cluster.wait_until_ready(2);
        let job = cluster.write("job.toml", &job().toml());
        let undisturbed = cluster.submit(&job);
        let expected = History::of(&cluster.wait_for_state(&undisturbed, "succeeded"));

        let id = cluster.submit(&job);
        cluster.wait_for_step(&id, 50);
        // Both workers go on speaking with the coordinator over the other cable.
        network.cut(1);
        let cut = Instant::now();
        let noticed = wait_for_the_notice(&cluster, &id, cut);
        report(&format!("network cut between ranks: known after {noticed:.1?}"));
        let status = cluster.status(&id);
        assert_eq!(status["attempts"][0]["class"], "infrastructure", "{status:#}");
        network.mend(1);
        History::of(&cluster.wait_for_state(&id, "succeeded")).must_equal(&expected);
    });
}

/// The others prove nothing where this does not hold.
#[test]
fn a_cut_cable_carries_nothing_until_it_is_mended() {
    with_network(1, |network| {
        let listener = std::net::TcpListener::bind("10.77.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let reaches = |network: &Network| {
            network.there(|| {
                std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
            })
        };
        wait_for("the cable carries", Duration::from_secs(20), || reaches(network).then_some(()));
        network.cut(0);
        assert!(!reaches(network));
        network.mend(0);
        wait_for("the cable carries again", Duration::from_secs(20), || {
            reaches(network).then_some(())
        });
    });
}
