//! Fault injection: kill -9 of a trainer and of a worker in the middle of a run; the job starts again
//! by itself and ends as if nothing had happened (A12), or stops with a reason.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::history::{History, told_losses};
use tests::job::TinyJob;
use tests::process::is_alive;
use tests::wait::wait_for;

fn running_job(cluster: &Cluster) -> String {
    let endless = TinyJob { max_steps: 1_000_000, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &endless.toml()));
    cluster.wait_for_step(&id, 3);
    id
}

/// With saves on the way, at which it can be held; all of them stay, for whoever looks late. Gives
/// the job file and where its checkpoints go.
fn long_job(cluster: &Cluster, name: &str) -> (String, PathBuf) {
    let root = cluster.path().join(name);
    let checkpoint = format!("every-steps = 20\nkeep-last = 100\ndir = {root:?}");
    let job = TinyJob { max_steps: 600, checkpoint, ..TinyJob::default() };
    (cluster.write(&format!("{name}.toml"), &job.toml()), root)
}

/// A job that cannot go on: commits wait for the lock of the checkpoint root, which is ours until this
/// is dropped. A save gives up after 15 s.
struct Held {
    _lock: File,
    status: Value,
}

/// Lets a job save once, and holds it at a later save.
fn hold(cluster: &Cluster, id: &str, root: &Path) -> Held {
    wait_for("the first checkpoint", Duration::from_secs(60), || {
        root.join("step-00000020/manifest.json").exists().then_some(())
    });
    let lock = File::open(root.join(".lock")).unwrap();
    lock.lock().unwrap();
    let status = cluster.status(id);
    assert_eq!(status["state"], "running", "there was time to hold it: {status:#}");
    Held { _lock: lock, status }
}

fn kill_rank(status: &Value, rank: usize) {
    let pid = status["ranks"][rank]["pid"].as_u64().expect("pids are reported");
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn kill_9_of_a_trainer_and_of_a_worker_change_nothing_but_the_time() {
    let mut cluster = Cluster::start(&[1, 1, 1]);
    let (job, _) = long_job(&cluster, "undisturbed");
    let undisturbed = cluster.submit(&job);
    let undisturbed = cluster.wait_for_state(&undisturbed, "succeeded");
    let (expected, losses) = (History::of(&undisturbed), told_losses(&cluster, &undisturbed));
    assert_eq!((expected.rows.len(), losses.len()), (601, 600));

    // A trainer.
    let (job, root) = long_job(&cluster, "killed");
    let id = cluster.submit(&job);
    let held = hold(&cluster, &id, &root);
    kill_rank(&held.status, 1);
    drop(held);
    let done = cluster.wait_for_state(&id, "succeeded");
    History::of(&done).must_equal(&expected);
    assert_eq!(told_losses(&cluster, &done), losses);
    assert_eq!(done["attempts"].as_array().unwrap().len(), 2, "{done:#}");
    let first = &done["attempts"][0];
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.contains("rank 1") && reason.contains("SIGKILL"), "{reason}");
    assert_eq!(
        first["decision"],
        "restarts at once: infrastructure failure 1 of 20 within 24 hours"
    );
    assert_eq!(done["failure"], Value::Null);
    assert_eq!(first["resumed_at_step"], 0);
    let resumed = done["attempts"][1]["resumed_at_step"].as_u64().unwrap();
    assert!(resumed >= 20 && resumed.is_multiple_of(20), "{done:#}");
    assert!(done["time"]["recompute_seconds"].is_number(), "{done:#}");

    // A worker; the spare takes its place.
    let (job, root) = long_job(&cluster, "lost");
    let id = cluster.submit(&job);
    let held = hold(&cluster, &id, &root);
    let trainers = cluster.trainers();
    assert_eq!(trainers.len(), 2);
    let killed = cluster.workers.remove(1);
    killed.signal(Signal::SIGKILL);
    drop((killed, held));
    let done = cluster.wait_for_state(&id, "succeeded");
    History::of(&done).must_equal(&expected);
    assert_eq!(told_losses(&cluster, &done), losses);
    assert!(done["attempts"][0]["reason"].as_str().unwrap().contains("w1"), "{done:#}");
    let workers = [&done["ranks"][0]["worker"], &done["ranks"][1]["worker"]];
    assert_eq!(workers, ["w0", "w2"]);
    wait_for("the end of every trainer", Duration::from_secs(5), || {
        trainers.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn a_job_that_breaks_in_the_same_way_again_stops_and_a_wrong_one_is_never_retried() {
    let cluster = Cluster::start(&[1]);
    let in_the_way = cluster.write("a-file", "not a folder");
    let monitor = format!(
        "[deepspeed.csv_monitor]\nenabled = true\noutput_path = \"{in_the_way}\"\njob_name = \"x\"\n"
    );
    let job = TinyJob { world: 1, more: monitor, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &job.toml()));
    let failed = cluster.wait_for_state(&id, "failed");
    assert_eq!(failed["attempts"].as_array().unwrap().len(), 2, "{failed:#}");
    let reason = failed["reason"].as_str().unwrap();
    let stop = "; not restarted: it ended twice in the same way (an error of the engine) before its \
                first step";
    assert!(reason.ends_with(stop), "{reason}");

    let job = TinyJob { world: 1, checkpoint: format!("dir = \"{in_the_way}\""), ..job };
    let id = cluster.submit(&cluster.write("job.toml", &job.toml()));
    let failed = cluster.wait_for_state(&id, "failed");
    assert_eq!(failed["failure"]["kind"], "configuration", "{failed:#}");
    assert_eq!(failed["attempts"].as_array().unwrap().len(), 1, "{failed:#}");
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
    let waiting = cluster.wait_for_state(&id, "restarting");
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.contains("was told to leave") && reason.contains("no worker"), "{reason}");

    let mut coordinator = cluster.coordinator.take().unwrap();
    coordinator.signal(Signal::SIGTERM);
    let ended = coordinator.wait(Duration::from_secs(10));
    assert!(ended.success(), "{ended}: {}", coordinator.output());
}
