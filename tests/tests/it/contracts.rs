//! The contracts that scripts rely on: exit codes, JSON keys, first lines.

use std::process::Command;
use std::time::Duration;

use tests::binaries::binary;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::rsctl::Rsctl;
use tests::wait::wait_for;

fn has_keys(value: &serde_json::Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "no `{key}` in {value:#}");
    }
}

#[test]
fn json_has_the_keys_that_scripts_read() {
    let cluster = Cluster::start(&[2]);
    let rsctl = cluster.rsctl();
    let id = cluster.submit(&cluster.write("job.toml", &TinyJob::default().toml()));
    cluster.wait_for_state(&id, "succeeded");
    let row = [
        "job_id",
        "name",
        "state",
        "reason",
        "attempt",
        "step",
        "max_steps",
        "world_size",
        "submitted_at",
    ];
    let jobs = rsctl.call(&["jobs", "--json"]).expect_code(0).json();
    has_keys(&jobs[0], &row);
    let status = cluster.status(&id);
    has_keys(&status, &row);
    has_keys(&status, &["attempts", "ranks", "goodput"]);
    // They may come after the job's end.
    let point = wait_for("a validation loss", Duration::from_secs(20), || {
        rsctl.read(&["metrics", "--json", &id, "--tag", "val/loss"]).as_array()?.first().cloned()
    });
    has_keys(&point, &["step", "samples", "value", "time"]);
    let checkpoints = rsctl.call(&["checkpoints", "list", "--json", &id]).expect_code(0).json();
    has_keys(
        &checkpoints[0],
        &["tag", "step", "path", "world_size", "zero_stage", "loss", "bytes", "durable", "pinned"],
    );
    let run = rsctl.call(&["run", "--json", "job.toml"]).expect_code(0).json();
    has_keys(&run, &["summary", "output_dir", "latest_checkpoint"]);
    has_keys(
        &run["summary"],
        &[
            "initial_loss",
            "final_loss",
            "loss_reduction_percent",
            "best_val_loss",
            "best_val_step",
            "samples_per_second",
            "duration_seconds",
        ],
    );
}

#[test]
fn exit_codes_are_the_documented_ones() {
    let folder = tempfile::tempdir().unwrap();
    // Port 1 of loopback: nothing listens there.
    let alone = Rsctl { folder: folder.path().to_owned(), master: Some("127.0.0.1:1".to_owned()) };
    alone.call(&["jobs"]).expect_code(3).expect_stderr(&["error:", "127.0.0.1:1", "hint:"]);
    alone.call(&["no-such-verb"]).expect_code(2);
    fs_err::write(folder.path().join("bad.toml"), "[model]\nkind = \"lstm\"\nhiden-size = 3\n")
        .unwrap();
    alone
        .call(&["config", "check", "bad.toml"])
        .expect_code(78)
        .expect_stderr(&["hiden-size", "hidden-size"]);
    // No coordinator to join: a usage error, and a configuration that is checked lacks it.
    for (flags, code) in [(&["join"][..], 2), (&["join", "--check-config"][..], 78)] {
        let mut worker = Command::new(binary("worker"));
        let said = worker.args(flags).env_remove("RUSTSPEED_MASTER").output().unwrap();
        assert_eq!(said.status.code(), Some(code), "{flags:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains("--master"), "{said:?}");
    }
    let cluster = Cluster::start(&[]);
    cluster
        .rsctl()
        .call(&["status", "nobody-123456"])
        .expect_code(1)
        .expect_stderr(&["nobody-123456"]);
}

#[test]
fn set_is_applied_last_and_explain_says_where_values_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    fs_err::write(folder.path().join("job.toml"), TinyJob::default().toml()).unwrap();
    let explained = rsctl
        .call(&["config", "explain", "--set", "model.hidden-size=48", "job.toml"])
        .expect_code(0);
    let line = explained.stdout.lines().find(|line| line.contains("hidden-size")).unwrap();
    assert!(line.contains("48") && line.contains("--set"), "{line}");
}

#[test]
fn init_writes_jobs_that_run_at_once() {
    for kind in ["timeseries", "sine", "csv"] {
        let folder = tempfile::tempdir().unwrap();
        let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
        rsctl.call(&["init", kind, "new"]).expect_code(0);
        let short = ["--set", "training.max-steps=3", "--set", "training.epochs=1"];
        let arguments = [&["run", "--json", "new/job.toml"], short.as_slice()].concat();
        let status = rsctl.call(&arguments).expect_code(0).json();
        assert_eq!(status["state"], "succeeded", "{kind}");
    }
}
