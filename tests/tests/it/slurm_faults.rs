//! Faults at random moments under jobs with an allocation of their own: of the coordinator, the
//! processes on the nodes, the nodes, SLURM's controller, and by people's hands. Whatever happens, the
//! job ends as it should (A12), SLURM has its nodes back, and no allocation is left dangling.

mod plan;
mod strike;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::history::History;
use tests::job::TinyJob;
use tests::soak;
use tests::wait::{report, wait_for};

use crate::slurm_site::{Site, is_over};

use plan::{Fault, Round};

/// That hit something, in `make test`.
const FAULTS: usize = 4;
/// In `make soak`.
const SOAK_FAULTS: usize = 55;

/// Of nodes whose coordinator stays away; the shortest that there is.
const LEASE: Duration = Duration::from_secs(5);

/// The coordinator closes its books within this time of the nodes' return.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// A job takes seconds, a crashed node half a minute; one that takes so long hangs.
const DEADLINE: Duration = Duration::from_secs(150);

const MAX_STEPS: u64 = 800;

fn job_toml() -> String {
    // One that is hit again and again before its first checkpoint is no failure of the job's.
    let more = "[restart]\nwithout-progress = 20\nbackoff = \"100ms\"\n".to_owned();
    let checkpoint = "every-steps = 50".to_owned();
    TinyJob { max_steps: MAX_STEPS, checkpoint, more, ..TinyJob::default() }.toml()
}

/// The same, which ends by itself at a step.
fn failing_job_toml(round: &Round) -> String {
    let (rank, step) = (round.which % 2, 1 + (round.after * (MAX_STEPS - 1) as f64) as u64);
    let how = ["panic", "abort", "exit"][round.which % 3];
    let fault = format!("env = {{ RUSTSPEED_FAULT = \"{how}:rank={rank},step={step}\" }}");
    job_toml()
        .replace("[job]\n", &format!("[job]\n{fault}\n"))
        .replace("[restart]\n", "[restart]\napplication = 0\n")
}

/// What all rounds share.
struct Scene {
    site: Site,
    expected: History,
    /// How long the undisturbed job took, from the submit to its end.
    undisturbed: Duration,
    /// Ids of all submits that were acknowledged.
    acknowledged: Vec<String>,
}

impl Scene {
    /// None, said, where no SLURM can be started.
    fn set() -> Option<Self> {
        let site = Site::start(&[("RUSTSPEED_SLURM_LEASE", "5s")])?;
        site.slurm.write("job.toml", &job_toml());
        let began = Instant::now();
        let job = site.submit(&["--nodes", "2"]);
        let done = site.wait_for_end(&job, DEADLINE);
        let undisturbed = began.elapsed();
        assert_eq!(done["state"], "succeeded", "{done:#}");
        site.expect_release();
        Some(Self { site, expected: History::of(&done), undisturbed, acknowledged: vec![job] })
    }

    /// Whether the fault hit something.
    fn play(&mut self, round: &Round) -> bool {
        let (asked, _) = self.site.allocations();
        let holder = (round.fault == Fault::CancelledInQueue).then(|| self.hold_all_nodes());
        self.site.slurm.write("fails.toml", &failing_job_toml(round));
        let file = if round.fault == Fault::JobFails { "fails.toml" } else { "job.toml" };
        let job = self.site.submit_file(file, &["--nodes", "2"]);
        self.acknowledged.push(job.clone());
        // The moment is the case's: there is no state to wait for.
        thread::sleep(self.undisturbed.mul_f64(round.after));
        let is_hit = self.strike(round, &job);
        let done = self.site.wait_for_end(&job, DEADLINE);
        if let Some(holder) = holder {
            self.site.slurm.succeed("scancel $job", &[("job", &holder)]);
        }
        self.end_all_others();
        let released = self.site.release();
        self.expect_closed_books();
        self.site.slurm.wait_until_idle();
        self.expect_acknowledged();
        self.expect_end(round, &done);
        let (attempts, allocations) =
            (done["attempts"].as_array().map_or(0, Vec::len), self.site.allocations().0 - asked);
        report(&format!(
            "round {}: {round}{}: {} after {attempts} attempts, {allocations} allocations, nodes back \
             after {:.1} s",
            round.number,
            if is_hit { "" } else { " (missed)" },
            done["state"].as_str().unwrap(),
            released.as_secs_f64(),
        ));
        is_hit
    }

    /// A job of somebody else, behind which ours wait in SLURM's queue.
    fn hold_all_nodes(&self) -> String {
        let line = "sbatch --exclusive --nodes=2 --output=/dev/null --wrap 'sleep 1000'";
        let holder = self.site.slurm.submit(line);
        self.site.slurm.wait_for_job(&holder, &["JobState=RUNNING"]);
        holder
    }

    /// A submit that nobody heard the answer of may have been taken, too.
    fn end_all_others(&self) {
        for row in self.jobs() {
            let id = row["job_id"].as_str().unwrap();
            if !is_over(&row) {
                self.site.cancel(id);
                self.site.wait_for_end(id, DEADLINE);
            }
        }
    }

    fn jobs(&self) -> Vec<Value> {
        let rows = self.site.rsctl().call(&["jobs", "--json"]).expect_code(0).json();
        rows.as_array().unwrap().clone()
    }

    /// The coordinator's own record holds no allocation that is not over.
    fn expect_closed_books(&self) {
        wait_for("closed books: every allocation is over", CLOSED_WITHIN, || {
            self.site.allocations().1.is_empty().then_some(())
        });
    }

    /// A14: no restart of the coordinator forgets a job.
    fn expect_acknowledged(&self) {
        let rows = self.jobs();
        let there: BTreeSet<&str> =
            rows.iter().map(|row| row["job_id"].as_str().unwrap()).collect();
        for id in &self.acknowledged {
            assert!(there.contains(id.as_str()), "{id} was acknowledged and is gone: {there:?}");
        }
    }

    fn expect_end(&self, round: &Round, done: &Value) {
        let state = done["state"].as_str().unwrap();
        let reason = done["reason"].as_str().unwrap();
        let has_begun = done["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty());
        let allowed: &[&str] = match round.fault {
            Fault::JobFails => &["failed"],
            // One that is in its last step ends by itself.
            Fault::JobIsCancelled | Fault::JobIsStopped => &["cancelled", "succeeded"],
            Fault::CancelledInQueue => &["cancelled"],
            Fault::CancelledWhileItRuns if !has_begun => &["cancelled"],
            _ => &["succeeded"],
        };
        assert!(allowed.contains(&state), "expected one of {allowed:?}: {done:#}");
        if state == "cancelled" && !round.fault.is_of_rsctl() {
            assert!(reason.contains("before the job had started: not by this"), "{reason}");
        }
        if state == "succeeded" {
            History::of(done).must_equal(&self.expected);
        }
    }
}

/// Tells how to have a failure again.
struct Replay<'a> {
    seed: u64,
    round: &'a Round,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            report(&format!("RUSTSPEED_SOAK_SEED={} {:#?}", self.seed, self.round));
        }
    }
}

#[test]
fn soak_no_fault_leaves_an_allocation_dangling() {
    let (seed, began, bound) = (soak::seed(), Instant::now(), soak::bound());
    let wanted = if soak::is_on() { SOAK_FAULTS } else { FAULTS };
    let Some(mut scene) = Scene::set() else { return };
    report(&format!("slurm faults: {wanted} faults, RUSTSPEED_SOAK_SEED={seed}"));
    let (mut rounds, mut hits) = (0, 0);
    for round in plan::plan(seed, soak::is_on()).take(3 * wanted) {
        if hits == wanted || began.elapsed() > bound {
            break;
        }
        let _replay = Replay { seed, round: &round };
        hits += usize::from(scene.play(&round));
        rounds += 1;
    }
    let (asked, open) = scene.site.allocations();
    let dangling = open.len();
    report(&format!(
        "slurm faults: {hits} of {wanted} faults hit in {rounds} rounds, {asked} allocations, {dangling} \
         dangling, in {:?}",
        began.elapsed()
    ));
    assert_eq!(dangling, 0, "{open:?}");
    assert!(asked > rounds, "the first job and each round's had one at least");
    assert!(hits == wanted || began.elapsed() > bound, "{hits} of {wanted} faults hit something");
}
