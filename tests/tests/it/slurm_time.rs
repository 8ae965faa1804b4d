//! The end of an allocation's time: SLURM announces it, the job saves, leaves, and goes on in the next
//! one as if nothing had happened. SLURM counts in minutes: in `make test` the same signal comes from
//! `scancel`, at once.

use std::time::Duration;

use serde_json::Value;
use tests::history::History;
use tests::job::TinyJob;
use tests::rsctl::Rsctl;
use tests::slurm::Slurm;
use tests::soak;
use tests::wait::{report, wait_for};

use crate::slurm::{AT_ONCE, NOTICE, SBATCH, command, status_in, tiny, undisturbed};
use crate::slurm_site::{Site, allocations_of};

/// Of the short form, where the notice comes with the first steps.
const STEPS: u64 = 3000;

/// With a limit of two minutes the notice comes after 46 to 55 s; then there must be a rest.
const TRAINS_FOR: Duration = Duration::from_secs(80);

/// As often as that again, and some minutes of SLURM's.
const DEADLINE: Duration = Duration::from_secs(500);

/// So many that this machine trains long enough.
fn steps(slurm: &Slurm) -> u64 {
    if !soak::is_on() {
        return STEPS;
    }
    slurm.write("short.toml", &tiny(STEPS));
    let rsctl = Rsctl { folder: slurm.work(), master: None };
    let run = ["run", "--json", "--workers", "2", "--set", "job.output-dir=short", "short.toml"];
    let done = rsctl.call_within(DEADLINE, &run).expect_code(0).json();
    let seconds = done["summary"]["duration_seconds"].as_f64().unwrap();
    (STEPS as f64 * TRAINS_FOR.as_secs_f64() / seconds) as u64
}

/// Every attempt but the first goes on where the one before has left; there was at least one such, and
/// no other save than that of a notice.
fn expect_no_step_lost(done: &Value) {
    let attempts = done["attempts"].as_array().unwrap();
    let resumed: Vec<u64> =
        attempts.iter().map(|attempt| attempt["resumed_at_step"].as_u64().unwrap()).collect();
    report(&format!("attempts began at steps {resumed:?} of {}", done["step"]));
    assert!(resumed.len() > 1 && resumed[0] == 0, "{done:#}");
    assert!(resumed.windows(2).all(|pair| pair[0] < pair[1]), "{done:#}");
}

#[test]
fn soak_a_batch_job_outlives_its_time_limit() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &tiny(steps(&slurm)));
    let expected = undisturbed(&slurm, DEADLINE);
    let limits = "sbatch --time=2 --signal=B:USR1@60 --requeue ";
    let job = slurm.submit(&format!("{} --json", command(SBATCH).replacen("sbatch ", limits, 1)));
    let this = [("job", job.as_str())];
    slurm.wait_for_output(&job, "\nstep ");
    if !soak::is_on() {
        slurm.succeed(&command(NOTICE), &this);
    }
    let mut lives = 0;
    wait_for("the end of its last life", DEADLINE, || {
        let told = slurm.job(&job);
        let is = |state: &str| told.split_whitespace().any(|word| word == state);
        let is_queued_again = is("JobState=PENDING") && is(&format!("Restarts={}", lives + 1));
        if is_queued_again {
            slurm.succeed(&command(AT_ONCE), &this);
            lives += 1;
        }
        let is_lost = ["TIMEOUT", "FAILED", "CANCELLED"].map(|end| is(&format!("JobState={end}")));
        assert!(!is_lost.contains(&true), "{told}\n{}", slurm.output(&job));
        is("JobState=COMPLETED").then_some(())
    });
    let done = status_in(&slurm.output(&job));
    expect_no_step_lost(&done);
    assert_eq!(done["attempts"].as_array().unwrap().len(), lives + 1, "{done:#}");
    History::of(&done).must_equal(&expected);
    slurm.wait_until_empty();
}

#[test]
fn soak_a_job_outlives_the_time_limit_of_its_allocation() {
    let Some(site) = Site::start(&[]) else { return };
    let more = "[slurm]\ntime = \"2\"\nnodes = 2\n".to_owned();
    let checkpoint = "every-steps = 1000000".to_owned();
    let max_steps = steps(&site.slurm);
    let job = TinyJob { max_steps, checkpoint, more, ..TinyJob::default() };
    site.slurm.write("job.toml", &job.toml());
    let expected = undisturbed(&site.slurm, DEADLINE);
    let job = site.submit(&[]);
    let first = allocations_of(&site.wait_for_step(&job, 10));
    if !soak::is_on() {
        site.slurm.succeed("scancel --signal=USR1 $job", &[("job", &first[0])]);
    }
    let done = site.wait_for_end(&job, DEADLINE);
    site.expect_release();
    assert_eq!(done["state"], "succeeded", "{done:#}");
    expect_no_step_lost(&done);
    let (asked, _) = site.allocations();
    assert_eq!(done["attempts"].as_array().unwrap().len(), asked, "{done:#}");
    History::of(&done).must_equal(&expected);
}
