//! Fault injection at random moments: kill -9, or a SIGSTOP for a while, of a trainer, a worker or
//! the coordinator. Whatever happens, the job ends as if nothing had happened (A12), and nothing is
//! left behind.

mod checks;
mod round;

use std::time::Instant;

use tests::cluster::{Cluster, Serving};
use tests::history::History;
use tests::job::TinyJob;
use tests::soak;
use tests::wait::report;

use round::Round;

/// In `make test`.
const ROUNDS: usize = 10;
/// In `make soak`.
const SOAK_ROUNDS: usize = 120;

/// Two run the job, one is spare.
const WORKERS: usize = 3;

/// Shorter than some stops, longer than others.
const LEASE: &str = "2s";

fn job() -> TinyJob {
    // Many faults may hit one attempt after the other before the first checkpoint.
    let more = "[restart]\nwithout-progress = 20\nbackoff = \"100ms\"\n".to_owned();
    let checkpoint = "every-steps = 30".to_owned();
    TinyJob { max_steps: 900, checkpoint, more, ..TinyJob::default() }
}

fn job_toml() -> String {
    // Shorter than some stops of a trainer, too.
    job().toml().replace("[job]", "[job]\ncollective-timeout = \"2s\"")
}

/// Never fits; waits behind all others.
fn waiting_job_toml() -> String {
    TinyJob { world: 8, ..TinyJob::default() }.toml().replace("[job]", "[job]\npriority = -1000")
}

/// What all rounds share.
struct Scene {
    cluster: Cluster,
    job: String,
    waiting_job: String,
    expected: History,
    /// How long the undisturbed run took, from the submit to its end.
    undisturbed: std::time::Duration,
    /// Ids of all submits that were acknowledged.
    acknowledged: Vec<String>,
}

impl Scene {
    fn set() -> Self {
        let serving = Serving { flags: vec!["--lease", LEASE], ..Serving::default() };
        let cluster = Cluster::start_as(serving, &[1; WORKERS]);
        let job = cluster.write("job.toml", &job_toml());
        let waiting_job = cluster.write("waiting.toml", &waiting_job_toml());
        let began = Instant::now();
        let id = cluster.submit(&job);
        let done = cluster.wait_for_state(&id, "succeeded");
        let undisturbed = began.elapsed();
        let expected = History::of(&done);
        Self { cluster, job, waiting_job, expected, undisturbed, acknowledged: vec![id] }
    }
}

/// Tells how to have a failure again.
struct Replay<'a> {
    seed: u64,
    round: &'a Round,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&format!("RUSTSPEED_SOAK_SEED={} {:#?}", self.seed, self.round));
        }
    }
}

#[test]
fn soak_faults_at_random_moments_change_nothing_but_the_time() {
    let (seed, began) = (soak::seed(), Instant::now());
    let (count, most_faults) = if soak::is_on() { (SOAK_ROUNDS, 3) } else { (ROUNDS, 1) };
    let bound = soak::bound();
    report(&format!("chaos: {count} rounds, RUSTSPEED_SOAK_SEED={seed}"));
    let mut scene = Scene::set();
    let (mut played, mut hits, mut restarts) = (0, 0, 0);
    for round in round::plan(seed, count, most_faults) {
        if began.elapsed() > bound {
            break;
        }
        let _replay = Replay { seed, round: &round };
        let (hit, is_restarted) = scene.play(&round);
        hits += hit;
        restarts += usize::from(is_restarted);
        played += 1;
    }
    let told = format!("chaos: {played} of {count} rounds, {hits} hits, {restarts} restarts");
    report(&format!("{told}, in {:?}", began.elapsed()));
    assert!(restarts > 0, "no fault broke an attempt off");
}
