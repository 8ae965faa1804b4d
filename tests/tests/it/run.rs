//! `rsctl run`: a private cluster that leaves nothing behind.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::job::TinyJob;
use tests::process::{Running, children_of, is_alive, processes_with};
use tests::rsctl::Rsctl;
use tests::wait::wait_for;

fn folder_with(job: &TinyJob) -> (tempfile::TempDir, Rsctl) {
    let folder = tempfile::Builder::new().prefix("rustspeed-run-").tempdir().unwrap();
    fs_err::write(folder.path().join("job.toml"), job.toml()).unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    (folder, rsctl)
}

#[test]
fn run_trains_on_two_ranks_and_leaves_results_where_the_contract_says() {
    let job = TinyJob { max_steps: 45, ..TinyJob::default() };
    let (folder, rsctl) = folder_with(&job);
    let answer = rsctl.call(&["run", "--json", "job.toml"]).expect_code(0);
    let status = answer.json();
    assert_eq!(status["state"], "succeeded");
    assert_eq!(status["world_size"], 2);
    assert_eq!(status["step"], 45);
    let summary = &status["summary"];
    let (initial, last) = (summary["initial_loss"].as_f64(), summary["final_loss"].as_f64());
    assert!(last < initial, "the loss must fall: {summary:#}");

    let out = folder.path().join("runs").join(status["job_id"].as_str().unwrap());
    assert_eq!(status["output_dir"].as_str(), out.to_str());
    for file in ["job.toml", "effective.toml", "summary.json", "logs/rank-0.log", "logs/rank-1.log"]
    {
        assert!(out.join(file).is_file(), "{file} is missing in {}", out.display());
    }
    let steps = fs_err::read_to_string(out.join("metrics/steps.csv")).unwrap();
    let mut lines = steps.lines();
    let header = "step,samples,epoch,train_loss,lr,grad_norm,step_seconds,samples_per_second";
    assert_eq!(lines.next(), Some(header));
    assert_eq!(lines.count(), 45, "a row for every optimizer step");
    assert!(out.join("checkpoints/step-00000045/manifest.json").is_file());
    assert_eq!(
        status["latest_checkpoint"].as_str(),
        out.join("checkpoints/step-00000045").to_str()
    );
}

#[test]
fn a_world_of_one_and_a_second_worker_work_too() {
    let (_folder, rsctl) = folder_with(&TinyJob { world: 1, stage: 0, ..TinyJob::default() });
    let one = rsctl.call(&["run", "--json", "job.toml"]).expect_code(0).json();
    assert_eq!(one["world_size"], 1);

    let (_folder, rsctl) = folder_with(&TinyJob { stage: 1, ..TinyJob::default() });
    let two = rsctl.call(&["run", "--json", "--workers", "2", "job.toml"]).expect_code(0).json();
    let workers: std::collections::BTreeSet<_> =
        two["ranks"].as_array().unwrap().iter().map(|r| r["worker"].to_string()).collect();
    assert_eq!(workers.len(), 2, "{two:#}");
}

#[test]
fn the_transport_does_not_change_a_bit() {
    let losses = |transport: &str| {
        let (_folder, rsctl) = folder_with(&TinyJob::default());
        let set = format!("resources.transport={transport}");
        let status =
            rsctl.call(&["run", "--json", "--set", &set, "job.toml"]).expect_code(0).json();
        let steps = format!("{}/metrics/steps.csv", status["output_dir"].as_str().unwrap());
        let text = fs_err::read_to_string(steps).unwrap();
        text.lines().skip(1).map(|l| l.split(',').nth(3).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let shared_memory = losses("shared-memory");
    assert_eq!(shared_memory.len(), 20);
    assert_eq!(shared_memory, losses("tcp"), "A12: same bits wherever the ranks are placed");
}

#[test]
fn a_cluster_smaller_than_the_world_is_refused_at_once() {
    let (_folder, rsctl) = folder_with(&TinyJob::default());
    rsctl.call(&["run", "--slots", "1", "job.toml"]).expect_code(78).expect_stderr(&[
        "2 ranks",
        "1 slot",
        "--slots 2",
    ]);
}

fn start_long_run(rsctl: &Rsctl) -> Running {
    let log = rsctl.folder.join("rsctl.log");
    let mut command = rsctl.command(&["run", "job.toml"]);
    // Meant for a cluster of the user's own.
    command.env("RUSTSPEED_ALLOW_COMMANDS", "true").env("RUSTSPEED_COMMAND_SECRET", "a secret");
    let running = Running::start(&mut command, &log);
    wait_for("steps in the log", Duration::from_secs(30), || {
        running.output().contains("step ").then_some(())
    });
    running
}

#[test]
fn ctrl_c_cancels_saves_and_exits_with_4() {
    let (folder, rsctl) = folder_with(&TinyJob { max_steps: 100_000, ..TinyJob::default() });
    let mut running = start_long_run(&rsctl);
    running.signal(Signal::SIGINT);
    let status = running.wait(Duration::from_secs(20));
    assert_eq!(status.code(), Some(4), "{}", running.output());
    let job = fs_err::read_dir(folder.path().join("runs")).unwrap().next().unwrap().unwrap();
    let saved = fs_err::read_dir(job.path().join("checkpoints")).unwrap().flatten();
    let whole = saved.filter(|entry| entry.path().join("manifest.json").is_file()).count();
    assert!(whole >= 1, "a checkpoint is always saved at the end");
    nothing_is_left_of(folder.path().to_str().unwrap());
}

#[test]
fn kill_9_of_rsctl_leaves_nothing_within_seconds() {
    let (folder, rsctl) = folder_with(&TinyJob { max_steps: 100_000, ..TinyJob::default() });
    let running = start_long_run(&rsctl);
    let daemons = children_of(running.pid());
    let trainers: Vec<u32> = daemons.iter().flat_map(|pid| children_of(*pid)).collect();
    assert!(daemons.len() >= 2 && trainers.len() == 2, "{daemons:?} {trainers:?}");
    for pid in &daemons {
        let environment = fs_err::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        for variable in ["RUSTSPEED_ALLOW_COMMANDS", "RUSTSPEED_COMMAND_SECRET"] {
            assert!(!environment.contains(variable), "{environment}");
        }
    }
    running.signal(Signal::SIGKILL);
    let all: Vec<u32> = daemons.into_iter().chain(trainers).collect();
    wait_for("the end of daemons and trainers", Duration::from_secs(20), || {
        all.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
    drop(running);
    nothing_is_left_of(folder.path().to_str().unwrap());
}

/// No process mentions the test's own folder in its command line or environment.
fn nothing_is_left_of(folder: &str) {
    wait_for("no process of this test", Duration::from_secs(20), || {
        processes_with(folder).is_empty().then_some(())
    });
}
