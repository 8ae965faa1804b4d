//! An elastic job goes on with fewer ranks when a worker is gone for good, with the same global
//! batches, and grows back when it returns.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::wait::wait_for;

const STEPS: u64 = 6000;

/// Two to three ranks; so many steps that a restart pays.
fn job() -> String {
    let job = TinyJob {
        max_steps: STEPS,
        checkpoint: "every-steps = 50".to_owned(),
        more: "[restart]\ngrow-after = \"1s\"\n".to_owned(),
        ..TinyJob::default()
    };
    job.toml().replace("world-size = 2", "min-ranks = 2\nmax-ranks = 3")
}

/// Waits until an attempt of so many ranks trains.
fn wait_for_world(cluster: &Cluster, id: &str, attempt: u64, world: u64) -> Value {
    wait_for(&format!("{world} ranks of attempt {attempt}"), Duration::from_secs(60), || {
        let status = cluster.status(id);
        let state = status["state"].as_str().unwrap();
        assert!(!["failed", "succeeded"].contains(&state), "{status:#}");
        let newest = status["attempts"].as_array()?.last()?.clone();
        let is_there = newest["attempt"] == attempt && !newest["resumed_at_step"].is_null();
        assert!(!is_there || status["world_size"] == world, "{status:#}");
        is_there.then_some(status)
    })
}

fn why_world(cluster: &Cluster, id: &str) -> String {
    let explained = cluster.rsctl().call(&["explain", "--json", id]).expect_code(0).json();
    let answers = explained["answers"].as_array().unwrap();
    let answer = answers.iter().find(|answer| answer["question"] == "world").unwrap();
    answer["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_job_shrinks_and_grows_back_with_the_same_global_batches() {
    let mut cluster = Cluster::start(&[1, 1, 1]);
    let id = cluster.submit(&cluster.write("job.toml", &job()));
    cluster.wait_for_step(&id, 100);
    assert_eq!(why_world(&cluster, &id), "3 ranks of 2 to 3: as many as it may have");

    let killed = cluster.workers.remove(2);
    killed.signal(Signal::SIGKILL);
    drop(killed);
    let smaller = wait_for_world(&cluster, &id, 2, 2);
    let reason = smaller["reason"].as_str().unwrap();
    assert!(reason.contains("it may have 2 to 3, and no more fit now"), "{reason}");
    let resumed = smaller["attempts"][1]["resumed_at_step"].as_u64().unwrap();
    assert!(resumed >= 50, "{smaller:#}");
    cluster.wait_for_step(&id, resumed + 50);

    let worker = cluster.worker_command("w2", 1);
    cluster.add_worker("w2", worker);
    let larger = wait_for_world(&cluster, &id, 3, 3);
    let (before, now) = (&larger["attempts"][1], &larger["attempts"][2]);
    assert_eq!(larger["attempts"][0]["class"], "infrastructure");
    assert_eq!(before["class"], "growth");
    let reason = before["reason"].as_str().unwrap();
    assert!(reason.starts_with("grows from 2 to 3 ranks"), "{larger:#}");
    assert!(now["resumed_at_step"].as_u64() >= before["last_step"].as_u64(), "{larger:#}");

    let done = cluster.wait_for_state(&id, "succeeded");
    assert_eq!((&done["step"], &done["world_size"]), (&STEPS.into(), &3.into()));
    let steps = format!("{}/metrics/steps.csv", done["output_dir"].as_str().unwrap());
    let steps = fs_err::read_to_string(steps).unwrap();
    let row = |row: &str| {
        let mut cells = row.split(',').map(|cell| cell.parse::<u64>().ok());
        (cells.next().unwrap().unwrap(), cells.next().unwrap().unwrap())
    };
    let made: Vec<(u64, u64)> = steps.lines().skip(1).map(row).collect();
    let expected: Vec<(u64, u64)> = (1..=STEPS).map(|step| (step, 32 * step)).collect();
    assert_eq!(made, expected, "every step once, each of 32 samples");
}
