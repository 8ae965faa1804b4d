//! Fault injection: kill -9 of a trainer and of a worker ends the job cleanly, with its reason.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::process::is_alive;
use tests::wait::wait_for;

fn running_job(cluster: &Cluster) -> String {
    let endless = TinyJob { max_steps: 1_000_000, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &endless.toml()));
    cluster.wait_for_step(&id, 3);
    id
}

#[test]
fn kill_9_of_a_trainer_fails_the_job_and_names_the_rank() {
    let cluster = Cluster::start(&[1, 1]);
    let id = running_job(&cluster);
    let status = cluster.status(&id);
    let pid = status["ranks"][1]["pid"].as_u64().expect("pids are reported");
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();

    let failed = cluster.wait_for_state(&id, "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("rank 1"), "{reason}");
    assert!(reason.contains("signal 9") || reason.contains("SIGKILL"), "{reason}");
    assert_eq!(failed["failure"]["rank"], 1, "the guilty one, not its witness (A10)");
    wait_for("no trainer is left", Duration::from_secs(5), || {
        cluster.trainers().is_empty().then_some(())
    });
    // The cluster is whole: the next job runs.
    let next = cluster.submit(&cluster.write("next.toml", &TinyJob::default().toml()));
    cluster.wait_for_state(&next, "succeeded");
}

#[test]
fn kill_9_of_a_worker_ends_its_trainers_and_the_job() {
    let mut cluster = Cluster::start(&[1, 1]);
    let id = running_job(&cluster);
    let trainers = cluster.trainers();
    assert_eq!(trainers.len(), 2);
    let killed = cluster.workers.remove(1);
    killed.signal(Signal::SIGKILL);
    drop(killed);
    let failed = cluster.wait_for_state(&id, "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("w1"), "names the worker: {reason}");
    wait_for("the end of every trainer", Duration::from_secs(5), || {
        trainers.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn sigterm_drains_worker_and_coordinator() {
    let mut cluster = Cluster::start(&[2]);
    let id = running_job(&cluster);
    let trainers = cluster.trainers();
    let mut worker = cluster.workers.remove(0);
    worker.signal(Signal::SIGTERM);
    let ended = worker.wait(Duration::from_secs(20));
    assert!(ended.success(), "{ended}: {}", worker.output());
    assert!(trainers.iter().all(|pid| !is_alive(*pid)));
    cluster.wait_for_state(&id, "failed");

    let mut coordinator = cluster.coordinator.take().unwrap();
    coordinator.signal(Signal::SIGTERM);
    let ended = coordinator.wait(Duration::from_secs(10));
    assert!(ended.success(), "{ended}: {}", coordinator.output());
}
