//! Nodes of a real SLURM for whatever waits: `docs/slurm.md`, "Nodes for a queue".

use std::time::Duration;

use serde_json::Value;
use tests::wait::{report, wait_for};

use crate::slurm::{POOL_ADD, POOL_LIST, POOL_REMOVE, POOL_SUBMIT, command, tiny};
use crate::slurm_site::Site;

fn pool(site: &Site) -> Option<Value> {
    let all = site.rsctl().read(&["slurm", "pool", "list", "--json"]);
    all.as_array().unwrap().first().cloned()
}

fn submit(site: &Site, flags: &[&str]) -> String {
    let arguments = [&["submit", "--json", "job.toml"], flags].concat();
    let answer = site.rsctl().call(&arguments).expect_code(0);
    answer.json()["job_id"].as_str().unwrap().to_owned()
}

/// Longer than a test takes from one job to the next, on a machine with other work, too.
const IDLE: Duration = Duration::from_secs(15);

/// The page's pool, but for how long its nodes may be idle.
fn add(site: &Site, idle: &str) {
    site.line(&format!("{} --idle-timeout {idle}", command(POOL_ADD)));
}

#[test]
fn waiting_jobs_pull_nodes_in_and_idle_nodes_go_back() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    add(&site, &format!("{}s", IDLE.as_secs()));
    assert!(site.line(&command(POOL_LIST)).contains("small"));
    assert!(site.slurm.queue().is_empty(), "nobody waits");
    let told = site.line(&command(POOL_SUBMIT));
    let job = told.lines().find(|line| line.starts_with("tiny-")).unwrap();
    let status = site.status(job);
    assert_eq!((&status["state"], &status["step"]), (&"succeeded".into(), &20.into()));
    let worker = |rank: usize| status["ranks"][rank]["worker"].as_str().unwrap();
    assert_eq!((worker(0), worker(1)), ("node1-1", "node2-1"), "a gang's nodes come together");
    // The next one finds them.
    let next = submit(&site, &[]);
    let status = site.wait_for("its end", &next, |status| status["state"] == "succeeded");
    assert_eq!(status["ranks"][0]["worker"], "node1-1");
    std::thread::sleep(IDLE);
    site.expect_release();
    let closed = || pool(&site).filter(|pool| pool["nodes"] == 0);
    let pool = wait_for("closed books", Duration::from_secs(30), closed);
    assert_eq!(pool["state"], "open", "{pool:#}");
    assert!(site.line(&command(POOL_REMOVE)).contains("removed"));
    // Under a name that SLURM still knows.
    add(&site, "2s");
    let again = submit(&site, &[]);
    let status = site.wait_for("its end", &again, |status| status["state"] == "succeeded");
    assert_eq!(status["ranks"][0]["worker"], "node1-2");
}

#[test]
fn a_pool_that_goes_and_nodes_that_are_taken_cost_a_job_nothing_but_time() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    add(&site, "1m");
    let job = submit(&site, &["--set", "checkpoint.every-steps=20"]);
    site.wait_for_step(&job, 50);
    site.slurm.succeed("scancel 1", &[]);
    let again = site.wait_for("a second attempt that goes on", &job, |status| {
        status["attempts"][1]["resumed_at_step"].is_u64() && status["state"] == "running"
    });
    assert_eq!(again["ranks"][0]["worker"], "node1-2", "{again:#}");
    assert!(again["attempts"][1]["resumed_at_step"].as_u64().unwrap() >= 20);
    assert_eq!(pool(&site).unwrap()["failures"], 0, "it was of use");
    site.rsctl().call(&["slurm", "pool", "remove", "small", "--now"]).expect_code(0);
    site.expect_release();
    let status = site.wait_for_reason(&job, "");
    assert_ne!(status["state"], "failed", "it waits: {status:#}");
    wait_for("a pool that is gone", Duration::from_secs(10), || {
        pool(&site).is_none().then_some(())
    });
    site.rsctl().call(&["cancel", &job]).expect_code(0);
}

#[test]
fn a_coordinator_that_was_killed_finds_the_nodes_of_its_pools() {
    let Some(mut site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    add(&site, "1m");
    let job = submit(&site, &[]);
    // At once: before, while or after SLURM is asked.
    site.kill_coordinator();
    site.start_coordinator();
    let step = site.wait_for_step(&job, 10)["step"].as_u64().unwrap();
    site.kill_coordinator();
    site.start_coordinator();
    let later = site.wait_for_step(&job, step + 50);
    assert_eq!(later["attempts"].as_array().unwrap().len(), 1, "{later:#}");
    assert_eq!(site.slurm.queue().len(), 1, "asked for once");
    site.rsctl().call(&["cancel", &job]).expect_code(0);
    site.wait_for("its end", &job, |status| status["state"] == "cancelled");
    site.rsctl().call(&["slurm", "pool", "remove", "small"]).expect_code(0);
    // Idle ones of a pool that goes do not wait for their minute; after a restart workers may come back.
    wait_for("an empty queue", Duration::from_secs(60), || {
        site.slurm.queue().is_empty().then_some(())
    });
}

#[test]
fn without_a_coordinator_a_pools_nodes_go_back_by_themselves() {
    let Some(mut site) = Site::start(&[("RUSTSPEED_SLURM_LEASE", "5s")]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    add(&site, "1h");
    let job = submit(&site, &[]);
    site.wait_for("its end", &job, |status| status["state"] == "succeeded");
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(site.slurm.queue().len(), 1, "idle, and its coordinator is there: they stay");
    site.kill_coordinator();
    let began = std::time::Instant::now();
    wait_for("an empty queue", Duration::from_secs(30), || {
        site.slurm.queue().is_empty().then_some(())
    });
    report(&format!(
        "nodes were back {:.1} s after the coordinator",
        began.elapsed().as_secs_f64()
    ));
}

#[test]
fn what_slurm_refuses_a_pool_is_told_to_the_jobs_that_wait_for_it() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    let add = ["slurm", "pool", "add", "wrong", "--cpus-per-task", "1", "--max-workers", "2"];
    let wrong = [&add[..], &["--partition", "nowhere"]].concat();
    site.rsctl().call(&wrong).expect_code(0);
    let job = submit(&site, &[]);
    let told = site.wait_for("SLURM's words", &job, |status| {
        status["waiting"]["estimate"]
            .as_str()
            .is_some_and(|text| text.contains("invalid partition"))
    });
    assert_eq!(told["state"], "queued", "{told:#}");
    assert_eq!(pool(&site).unwrap()["state"], "resting");
    let other = [&add[..], &["--partition", "main"]].concat();
    site.rsctl().call(&other).expect_code(1).expect_stderr(&["`wrong`", "other settings"]);
    let hostile = [&add[..], &["--partition", "a\n#SBATCH --uid=0"]].concat();
    site.rsctl().call(&hostile).expect_code(78).expect_stderr(&["--partition", "blanks"]);
    site.rsctl()
        .call(&["slurm", "pool", "resume", "right"])
        .expect_code(1)
        .expect_stderr(&["`right`"]);
    let script = site.rsctl().call(&[&add[..], &["--dry-run"]].concat()).expect_code(0).stdout;
    assert!(script.starts_with("#!/bin/sh\n#SBATCH --job-name=pool@wrong.1\n"), "{script}");
    site.rsctl().call(&["slurm", "pool", "remove", "wrong"]).expect_code(0);
    site.expect_release();
}
