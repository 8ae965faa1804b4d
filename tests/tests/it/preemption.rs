//! Making room: a job that is preempted, or whose node is announced to go, saves together and goes
//! on from that very step.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::job::TinyJob;

/// No checkpoint but the ones that a stop takes and the last.
fn long_job() -> TinyJob {
    let checkpoint = "every-steps = 1000000".to_owned();
    TinyJob { max_steps: 4000, checkpoint, ..TinyJob::default() }
}

/// The attempt ended by a preemption, and its successor made none of its steps again.
fn check_handover(status: &Value, attempt: usize, reason: &str) {
    let (left, next) = (&status["attempts"][attempt], &status["attempts"][attempt + 1]);
    assert_eq!(left["class"], "preemption", "{status:#}");
    assert!(left["reason"].as_str().unwrap().contains(reason), "{status:#}");
    assert_eq!(left["decision"], "restarts at once: a preemption costs no budget");
    let (last, resumed) = (left["last_step"].as_u64(), next["resumed_at_step"].as_u64());
    assert!(resumed >= last && resumed > Some(0), "{status:#}");
}

#[test]
fn a_preempted_job_and_one_whose_node_is_announced_to_go_lose_no_step() {
    let mut cluster = Cluster::start(&[1, 1, 1]);
    let id = cluster.submit(&cluster.write("job.toml", &long_job().toml()));
    cluster.wait_for_step(&id, 20);
    let arguments = ["preempt", &id, "--grace", "30s", "--reason", "a test", "--wait", "--json"];
    let answer = cluster.rsctl().call(&arguments).expect_code(0).json();
    assert_eq!((&answer["job_id"], &answer["attempt"]), (&Value::from(id.as_str()), &1.into()));
    let second = wait_for_attempt(&cluster, &id, 2);
    check_handover(&second, 0, "preempted: a test");

    let name = second["ranks"][1]["worker"].as_str().unwrap().to_owned();
    let index: usize = name.trim_start_matches('w').parse().unwrap();
    let mut leaving = cluster.workers.remove(index);
    leaving.signal(Signal::SIGUSR1);
    let ended = leaving.wait(Duration::from_secs(30));
    assert!(ended.success(), "{ended}: {}", leaving.output());
    check_handover(&wait_for_attempt(&cluster, &id, 3), 1, "(SIGUSR1)");

    let done = cluster.wait_for_state(&id, "succeeded");
    assert_eq!(done["attempts"].as_array().unwrap().len(), 3, "{done:#}");
    assert_eq!(done["time"]["recompute_seconds"], 0.0, "{done:#}");
    let steps = format!("{}/metrics/steps.csv", done["output_dir"].as_str().unwrap());
    let steps = fs_err::read_to_string(steps).unwrap();
    let step = |row: &str| row.split(',').next().unwrap().parse::<u64>().unwrap();
    let made: Vec<u64> = steps.lines().skip(1).map(step).collect();
    assert_eq!(made, (1..=4000).collect::<Vec<_>>(), "every step, once and in order");
}

/// Waits until this attempt has its state and makes steps.
fn wait_for_attempt(cluster: &Cluster, id: &str, attempt: u64) -> Value {
    tests::wait::wait_for(&format!("attempt {attempt}"), Duration::from_secs(60), || {
        let status = cluster.status(id);
        assert_ne!(status["state"], "failed", "{status:#}");
        let newest = status["attempts"].as_array().unwrap().last().unwrap().clone();
        let is_there = newest["attempt"] == attempt && !newest["resumed_at_step"].is_null();
        is_there.then_some(status)
    })
}
