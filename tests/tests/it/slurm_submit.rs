//! A long-lived coordinator that asks a real SLURM for nodes: `docs/slurm.md`, "Nodes for one job".

use std::time::{Duration, Instant};

use tests::wait::{report, wait_for};

use crate::slurm::{DRY_RUN, SUBMIT, command, tiny};
use crate::slurm_site::{Site, allocations_of};

#[test]
fn a_job_gets_nodes_trains_on_them_and_gives_them_back() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    // Behind what is told on stderr.
    let script = site.line(&command(DRY_RUN));
    assert!(script.contains("#!/bin/sh\n#SBATCH --job-name=tiny-dryrun.1\n"), "{script}");
    assert!(script.contains(&format!("'{}'", site.master)), "{script}");
    assert_eq!(site.slurm.queue(), Vec::<String>::new());

    let told = site.line(&format!("{} --watch", command(SUBMIT)));
    site.expect_release();
    let job = told.lines().find(|line| line.starts_with("tiny-")).unwrap();
    let status = site.status(job);
    assert_eq!((&status["state"], &status["step"]), (&"succeeded".into(), &20.into()));
    let worker = |rank: usize| status["ranks"][rank]["worker"].as_str().unwrap();
    assert_eq!((worker(0), worker(1)), ("node1-1", "node2-1"));
    let story = site.rsctl().call(&["explain", job]).expect_code(0).stdout;
    assert!(story.contains("is SLURM job 1"), "{story}");
    assert!(story.contains("is given back: the job has ended"), "{story}");
    let left = fs_err::read_dir(site.slurm.work().join("runs/.slurm")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [format!("{job}.1.log").as_str()], "the log alone is kept");
}

#[test]
fn a_cancel_from_outside_is_noticed_and_the_job_goes_on_with_other_nodes() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    let job = site.submit(&["--nodes", "2", "--set", "checkpoint.every-steps=20"]);
    let first = allocations_of(&site.wait_for_step(&job, 50));
    let number = first[0].as_str();
    site.slurm.succeed("scancel $job", &[("job", number)]);
    let began = Instant::now();
    site.wait_for("that its nodes go", &job, |status| status["attempts"][0]["ended_at"].is_u64());
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    report(&format!("noticed after {:.1?}", began.elapsed()));
    let again = site.wait_until_it_goes_on(&job);
    assert_ne!(allocations_of(&again), first, "{again:#}");
    assert!(again["attempts"][1]["resumed_at_step"].as_u64().unwrap_or(0) >= 20, "{again:#}");
    site.cancel(&job);
    site.wait_for("its end", &job, |status| status["state"] == "cancelled");
    site.expect_release();
}

#[test]
fn a_job_that_waits_in_slurms_queue_says_so_and_can_be_cancelled_from_both_sides() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    let holder =
        site.slurm.submit("sbatch --exclusive --nodes=2 --output=/dev/null --wrap 'sleep 1000'");
    site.slurm.wait_for_job(&holder, &["JobState=RUNNING"]);
    let ours = site.submit(&["--nodes", "2"]);
    let theirs = site.submit(&["--nodes", "2"]);
    let status = site.wait_for_reason(&ours, "is PENDING (");
    assert_eq!(status["waiting"]["kind"], "allocation", "{status:#}");
    let number = site.wait_for_reason(&theirs, "is PENDING (")["waiting"]["slurm_job"].to_string();
    site.cancel(&ours);
    site.slurm.succeed("scancel $job", &[("job", &number)]);
    site.wait_for("its end", &ours, |status| status["state"] == "cancelled");
    let theirs = site.wait_for("its end", &theirs, |status| status["state"] == "cancelled");
    let reason = theirs["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("SLURM job {number} CANCELLED")), "{reason}");
    wait_for("the holder alone", Duration::from_secs(10), || {
        (site.slurm.queue().len() == 1).then_some(())
    });
    site.slurm.succeed("scancel $job", &[("job", &holder)]);
}

#[test]
fn what_slurm_does_not_give_is_told_with_what_to_do() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    let wrong = site.submit(&["--partition", "nowhere"]);
    let told = site.wait_for("its end", &wrong, |status| status["state"] == "failed");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("SLURM refuses") && reason.contains("partition"), "{reason}");
    let large = site.submit(&["--nodes", "3"]);
    let told = site.wait_for_reason(&large, "PartitionNodeLimit");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("the partition never gives this"), "{reason}");
    site.cancel(&large);
    let hostile = ["submit", "--slurm", "job.toml", "--partition", "a\n#SBATCH --uid=0"];
    site.rsctl().call(&hostile).expect_code(78).expect_stderr(&["slurm.partition", "blanks"]);
    site.expect_release();

    let Some(without) = Site::start(&[("PATH", "/nowhere")]) else { return };
    without.slurm.write("job.toml", &tiny(20));
    let job = without.submit(&[]);
    let told = without.wait_for("its end", &job, |status| status["state"] == "failed");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("is not in the coordinator's PATH"), "{reason}");
}

#[test]
fn a_coordinator_that_was_killed_comes_back_to_the_allocation_that_it_has() {
    let Some(mut site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    let job = site.submit(&["--nodes", "2"]);
    // At once: before, while or after SLURM is asked.
    site.kill_coordinator();
    site.start_coordinator();
    let first = site.wait_for_step(&job, 10);
    site.kill_coordinator();
    site.start_coordinator();
    let step = first["step"].as_u64().unwrap();
    let later = site.wait_for_step(&job, step + 50);
    assert_eq!(later["attempts"].as_array().unwrap().len(), 1, "{later:#}");
    assert_eq!(allocations_of(&later), allocations_of(&first));
    assert_eq!(site.slurm.queue().len(), 1, "asked for once");
    site.cancel(&job);
    site.wait_for("its end", &job, |status| status["state"] == "cancelled");
    site.expect_release();
}

#[test]
fn without_a_coordinator_nodes_go_back_by_themselves() {
    let Some(mut site) = Site::start(&[("RUSTSPEED_SLURM_LEASE", "5s")]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    let job = site.submit(&["--nodes", "2"]);
    site.wait_for_step(&job, 10);
    site.kill_coordinator();
    wait_for("an empty queue", Duration::from_secs(30), || {
        site.slurm.queue().is_empty().then_some(())
    });
    site.slurm.wait_until_empty();
}
