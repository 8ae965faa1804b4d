//! Nodes of a real SLURM that fail under a job: what `docs/slurm.md` promises of them.

use std::time::Duration;

use tests::history::History;
use tests::job::TinyJob;
use tests::slurm::Slurm;
use tests::wait::wait_for;

use crate::slurm::{AT_ONCE, SBATCH, checkpoints, command, only_run, status_in, undisturbed};
use crate::slurm_site::{Site, allocations_of};

/// Of a job that takes seconds.
const DEADLINE: Duration = Duration::from_secs(90);

/// Long enough for a node to fail before the end, with checkpoints on the way.
fn job() -> String {
    let checkpoint = "every-steps = 100".to_owned();
    TinyJob { max_steps: 3000, checkpoint, ..TinyJob::default() }.toml()
}

#[test]
fn a_job_whose_node_fails_gets_other_nodes_and_goes_on_from_its_checkpoint() {
    let Some(slurm) = Slurm::with_nodes(3) else { return };
    slurm.write("job.toml", &job());
    let expected = undisturbed(&slurm, DEADLINE);
    let site = Site::beside(slurm, &[]);
    let job = site.submit(&["--nodes", "2"]);
    let before = site.wait_for_step(&job, 150);
    let node = before["ranks"][1]["worker"].as_str().unwrap().rsplit_once('-').unwrap().0;
    site.slurm.set_down(node);
    let again = site.wait_until_it_goes_on(&job);
    let from = again["attempts"][1]["resumed_at_step"].as_u64();
    assert!(from >= Some(100), "{again:#}");
    assert_ne!(allocations_of(&again), allocations_of(&before), "{again:#}");
    let workers = again["ranks"].as_array().unwrap().iter();
    let workers: Vec<&str> = workers.map(|rank| rank["worker"].as_str().unwrap()).collect();
    assert!(!workers.iter().any(|worker| worker.starts_with(&format!("{node}-"))), "{workers:?}");
    let done = site.wait_for("its end", &job, |status| status["state"] == "succeeded");
    site.expect_release();
    History::of(&done).must_equal(&expected);
    let story = site.rsctl().call(&["explain", &job]).expect_code(0).stdout;
    assert!(story.contains("is over: SLURM job 1 NODE_FAIL (NodeDown)"), "{story}");
    wait_for("that no allocation is open", Duration::from_secs(10), || {
        site.allocations().1.is_empty().then_some(())
    });
}

#[test]
fn a_batch_job_whose_node_fails_is_queued_again_by_slurm_and_goes_on_from_its_checkpoint() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &job());
    let expected = undisturbed(&slurm, DEADLINE);
    let job = slurm.submit(&format!("{} --json", command(SBATCH)));
    let this = [("job", job.as_str())];
    // The second node takes the coordinator and the script along.
    for (lives, node) in [(1, "node2"), (2, "node1")] {
        wait_for(&format!("a checkpoint in life {lives}"), Duration::from_secs(40), || {
            let told = slurm.output(&job);
            let life = told.split("goes on from its newest checkpoint").nth(lives - 1)?;
            (life.contains("\ncheckpoint ") && life.contains("\nstep ")).then_some(())
        });
        slurm.set_down(node);
        slurm.wait_for_job(&job, &["JobState=PENDING", &format!("Restarts={lives}")]);
        slurm.wait_until_empty();
        assert!(checkpoints(&slurm) > 0, "there is something to go on from");
        slurm.resume(node);
        slurm.succeed(&command(AT_ONCE), &this);
    }
    slurm.wait_for_job(&job, &["JobState=COMPLETED", "ExitCode=0:0", "Restarts=2"]);
    let done = status_in(&slurm.output(&job));
    let attempts = done["attempts"].as_array().unwrap();
    let resumed: Vec<u64> =
        attempts.iter().map(|attempt| attempt["resumed_at_step"].as_u64().unwrap()).collect();
    assert!(resumed.len() == 3 && resumed[0] == 0, "{done:#}");
    assert!(resumed[1] >= 100 && resumed[2] >= resumed[1], "{done:#}");
    History::of(&done).must_equal(&expected);
    only_run(&slurm);
    slurm.wait_until_empty();
}
