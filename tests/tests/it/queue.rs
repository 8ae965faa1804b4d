//! The queue with real workers: sweeps with a limit, jobs after others, drain and requeue.

use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::wait::wait_for;

fn job(cluster: &Cluster, name: &str, max_steps: u64) -> String {
    let job = TinyJob { world: 1, stage: 0, max_steps, ..TinyJob::default() };
    cluster.write(name, &job.toml())
}

fn endless(cluster: &Cluster, name: &str) -> String {
    job(cluster, name, 1_000_000)
}

/// Submits with these flags; gives the job's id.
fn submit(cluster: &Cluster, flags: &[&str]) -> String {
    let answer = cluster.rsctl().call(&[&["submit", "--json"], flags].concat()).expect_code(0);
    answer.json()["job_id"].as_str().expect("job_id is text").to_owned()
}

fn text<'a>(status: &'a Value, key: &str) -> &'a str {
    status[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {status:#}"))
}

/// When a job of one attempt began and ended.
fn times(status: &Value) -> (u64, u64) {
    let attempt = &status["attempts"][0];
    (attempt["started_at"].as_u64().unwrap(), attempt["ended_at"].as_u64().unwrap())
}

#[test]
fn a_sweep_runs_as_many_jobs_as_it_may_and_a_job_after_it_starts_last() {
    let cluster = Cluster::start(&[4]);
    let file = job(&cluster, "job.toml", 60);
    let sweep = ["submit", "--json", "--sweep", "model.hidden-size=8,16,24", "--max-running", "1"];
    let answer = cluster.rsctl().call(&[&sweep[..], &[&file]].concat()).expect_code(0).json();
    let group = text(&answer, "group");
    let jobs = answer["jobs"].as_array().unwrap();
    let sizes: Vec<&str> =
        jobs.iter().map(|j| j["set"]["model.hidden-size"].as_str().unwrap()).collect();
    assert_eq!(sizes, ["8", "16", "24"]);
    let ids: Vec<&str> = jobs.iter().map(|job| text(job, "job_id")).collect();
    let after = submit(&cluster, &["--after", ids[0], "--after", ids[2], &file]);

    // Slots are idle, and it is not for slots that they wait.
    let kind = |id: &str| cluster.status(id)["waiting"]["kind"].clone();
    assert!(kind(ids[2]) == "group_limit" || cluster.status(ids[2])["state"] != "queued");
    let waits = cluster.status(&after);
    if waits["state"] == "queued" {
        assert_eq!(waits["waiting"]["kind"], "after", "{waits:#}");
        let told = cluster.rsctl().call(&["explain", &after]).expect_code(0).stdout;
        assert!(told.contains("runs after job"), "{told}");
        assert!(told.contains("submitted to run after"), "{told}");
    }

    let mut runs: Vec<(u64, u64)> =
        ids.iter().map(|id| times(&cluster.wait_for_state(id, "succeeded"))).collect();
    runs.sort_unstable();
    assert!(runs.windows(2).all(|pair| pair[0].1 <= pair[1].0), "one at a time: {runs:?}");
    let last = times(&cluster.wait_for_state(&after, "succeeded"));
    assert!(last.0 >= runs[2].1, "{last:?} after {runs:?}");
    let rows = cluster.rsctl().call(&["jobs", "--json", "--group", group]).expect_code(0).json();
    assert_eq!(rows.as_array().unwrap().len(), 3, "{rows:#}");
}

#[test]
fn jobs_after_one_that_did_not_succeed_are_cancelled_or_run_as_they_asked() {
    let cluster = Cluster::start(&[1]);
    let long = endless(&cluster, "long.toml");
    let short = job(&cluster, "short.toml", 5);
    let first = submit(&cluster, &[&long]);
    let strict = submit(&cluster, &["--after", &format!("{first}:ok"), &short]);
    let chained = submit(&cluster, &["--after", &strict, &short]);
    let any = submit(&cluster, &["--after", &format!("{first}:any"), &short]);
    cluster.wait_for_step(&first, 3);
    cluster.rsctl().call(&["cancel", "--now", &first]).expect_code(0);
    cluster.wait_for_state(&first, "cancelled");
    for (id, before) in [(&strict, &first), (&chained, &strict)] {
        let reason = text(&cluster.wait_for_state(id, "cancelled"), "reason").to_owned();
        assert!(reason.contains(before.as_str()) && reason.contains("cancelled"), "{reason}");
    }
    cluster.wait_for_state(&any, "succeeded");

    // After one that has ended already.
    let late = submit(&cluster, &["--after", &first, &short]);
    assert_eq!(cluster.status(&late)["state"], "cancelled");
    let rsctl = cluster.rsctl();
    rsctl
        .call(&["submit", "--after", "nobody-aaaaaa", &short])
        .expect_code(1)
        .expect_stderr(&["nobody-aaaaaa"]);
    rsctl
        .call(&["submit", "--after", &format!("{first}:maybe"), &short])
        .expect_code(2)
        .expect_stderr(&["maybe", "ok", "any"]);
    rsctl.call(&["submit", "--max-running", "2", &short]).expect_code(2).expect_stderr(&["group"]);
}

#[test]
fn a_cancel_of_a_group_ends_all_of_it_and_starts_none_of_it() {
    let cluster = Cluster::start(&[1]);
    let file = endless(&cluster, "job.toml");
    let first = submit(&cluster, &["--group", "g", &file]);
    let second = submit(&cluster, &["--group", "g", "--after", &format!("{first}:any"), &file]);
    let third = submit(&cluster, &["--group", "g", &file]);
    cluster.wait_for_step(&first, 1);
    cluster.rsctl().call(&["cancel", "--now", "--group", "g"]).expect_code(0);
    for id in [&first, &second, &third] {
        let ended = cluster.wait_for_state(id, "cancelled");
        assert_eq!(ended["attempts"].as_array().unwrap().len(), usize::from(*id == first));
    }
    let again = cluster.rsctl().call(&["cancel", "--group", "g"]).expect_code(0);
    assert!(again.stderr.contains("has ended"), "{again:?}");
    cluster.rsctl().call(&["cancel", "--group", "h"]).expect_code(1).expect_stderr(&["`h`"]);
}

#[test]
fn a_drained_node_gives_its_job_up_and_stays_out_until_undo_and_a_requeued_job_goes_on() {
    let mut cluster = Cluster::start(&[1, 1]);
    let file = endless(&cluster, "long.toml");
    let id = submit(&cluster, &[&file]);
    cluster.wait_for_step(&id, 5);
    assert_eq!(cluster.status(&id)["ranks"][0]["worker"], "w0");
    let drain = ["drain", "w0", "--reason", "new-kernel", "--grace", "20s", "--wait", "--json"];
    let drained = cluster.rsctl().call(&drain).expect_code(0).json();
    assert_eq!(drained["state"], "drained");

    let moved = wait_for("a second attempt that trains", Duration::from_secs(30), || {
        let status = cluster.status(&id);
        let is_on = status["attempt"] == 2 && status["state"] == "running";
        (is_on && status["attempts"][1]["resumed_at_step"].is_u64()).then_some(status)
    });
    assert_eq!(moved["ranks"][0]["worker"], "w1");
    let first = &moved["attempts"][0];
    assert!(text(first, "reason").contains("drained: new-kernel"), "{first:#}");
    assert!(moved["attempts"][1]["resumed_at_step"].as_u64().unwrap() >= 5, "it saved: {moved:#}");

    // No restart brings it back.
    cluster.coordinator.as_ref().unwrap().signal(nix::sys::signal::Signal::SIGKILL);
    cluster.restart_coordinator();
    let pair = TinyJob { max_steps: 5, ..TinyJob::default() };
    let pair = submit(&cluster, &[&cluster.write("pair.toml", &pair.toml())]);
    wait_for("the reason of a job that does not fit", Duration::from_secs(15), || {
        let status = cluster.status(&pair);
        let is_right = status["waiting"]["kind"] == "too_large"
            && text(&status, "reason").ends_with("; 1 worker is drained");
        is_right.then_some(())
    });
    cluster.rsctl().call(&["cancel", &id]).expect_code(0);
    let ended = cluster.wait_for_state(&id, "cancelled");
    let undone = cluster.rsctl().call(&["drain", "w0", "--undo", "--json"]).expect_code(0).json();
    assert_eq!(undone["state"], "ready");
    cluster.wait_for_state(&pair, "succeeded");
    cluster.rsctl().call(&["drain", "w9"]).expect_code(1).expect_stderr(&["w9"]);

    let again = cluster.rsctl().call(&["requeue", "--json", &id]).expect_code(0).json();
    let again = text(&again, "job_id");
    let on = wait_for("the requeued job's first step", Duration::from_secs(30), || {
        let status = cluster.status(again);
        status["attempts"][0]["resumed_at_step"].as_u64()
    });
    assert_eq!(Some(on), ended["step"].as_u64(), "where the cancelled one stopped");
    cluster.rsctl().call(&["requeue", again]).expect_code(1).expect_stderr(&["has ended"]);
    cluster.rsctl().call(&["cancel", "--now", again]).expect_code(0);
    cluster.wait_for_state(again, "cancelled");
}

#[test]
fn a_job_whose_time_is_over_is_saved_and_goes_on_when_it_is_requeued() {
    let cluster = Cluster::start(&[1]);
    // Its time runs from the start of its processes, which must not take all of it.
    let id = submit(&cluster, &["--set", "job.time-limit=12s", &endless(&cluster, "job.toml")]);
    let failed = cluster.wait_for_state(&id, "failed");
    assert_eq!(text(&failed, "reason"), "its time limit of 12s is over");
    assert_eq!(failed["attempts"].as_array().unwrap().len(), 1, "{failed:#}");
    let again = cluster.rsctl().call(&["requeue", "--json", &id]).expect_code(0).json();
    let failed_again = cluster.wait_for_state(text(&again, "job_id"), "failed");
    assert_eq!(failed_again["attempts"][0]["resumed_at_step"], failed["step"]);
    assert!(failed_again["step"].as_u64() > failed["step"].as_u64(), "{failed_again:#}");
}
