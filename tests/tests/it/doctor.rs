//! `rsctl doctor` on this machine and on a real cluster.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::Cluster;
use tests::rsctl::{Answer, Rsctl};
use tests::wait::wait_for;

fn check<'a>(checks: &'a Value, id: &str) -> &'a Value {
    let all = checks.as_array().expect("an array");
    all.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id} in {checks:#}"))
}

/// Everything has an id, a status, what was found, and what to do where something is to be done.
fn is_well_formed(answer: &Answer) {
    let checks = answer.json();
    for check in checks.as_array().expect("an array") {
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        match check["status"].as_str().unwrap() {
            "ok" => assert!(check["hint"].is_null(), "{check}"),
            "warn" | "fail" => assert!(!check["hint"].as_str().unwrap().is_empty(), "{check}"),
            other => panic!("{other}: {check}"),
        }
    }
    let has_failed = checks.as_array().unwrap().iter().any(|check| check["status"] == "fail");
    assert_eq!(answer.code, i32::from(has_failed), "{checks:#}");
}

#[test]
fn this_machine_can_train_and_an_output_folder_that_cannot_be_written_fails() {
    let folder = tempfile::tempdir().unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    let answer = rsctl.call(&["doctor", "--json"]);
    is_well_formed(&answer);
    let checks = answer.json();
    for id in ["binaries", "libtorch", "port-loopback", "disk"] {
        assert_eq!(check(&checks, id)["status"], "ok", "{checks:#}");
    }
    assert!(check(&checks, "libtorch")["found"].as_str().unwrap().contains("starts on it"));
    assert!(!folder.path().join("runs").exists(), "it only looks");

    let text = rsctl.call(&["doctor", "--output-dir", "/proc/1/runs"]).expect_code(1);
    let line = text.stdout.lines().find(|line| line.contains("disk")).unwrap();
    assert!(line.starts_with("FAIL  disk") && line.contains(" -> "), "{line}");
    assert!(text.stderr.contains("1 of "), "{}", text.stderr);
}

#[test]
fn workers_reach_each_other_until_one_stands_still() {
    let cluster = Cluster::start(&[1, 1]);
    let rsctl = cluster.rsctl();
    let look = || {
        let answer = rsctl.call(&["doctor", "--json"]);
        is_well_formed(&answer);
        answer.json()
    };
    let mut checks = look();
    // Each worker has 3 s to reach the other: once more, where the machine had other work.
    if check(&checks, "peers")["status"] != "ok" {
        checks = look();
    }
    for id in ["coordinator", "clock", "worker:w0", "worker:w1", "peers"] {
        assert_eq!(check(&checks, id)["status"], "ok", "{checks:#}");
    }
    assert_eq!(check(&checks, "peers")["found"], "2 of 2 connections work");

    cluster.workers[1].signal(Signal::SIGSTOP);
    wait_for("a lost worker", Duration::from_secs(20), || {
        let rows = rsctl.read(&["workers", "--json"]);
        rows.as_array()?
            .iter()
            .any(|row| row["name"] == "w1" && row["state"] != "ready")
            .then_some(())
    });
    let answer = rsctl.call(&["doctor", "--json"]);
    cluster.workers[1].signal(Signal::SIGCONT);
    is_well_formed(&answer);
    assert_eq!(answer.code, 1);
    let checks = answer.json();
    assert_eq!(check(&checks, "worker:w1")["status"], "fail");
    assert_eq!(check(&checks, "worker:w0")["status"], "ok");
}

#[test]
fn a_coordinator_that_is_not_there_is_one_failed_check() {
    let folder = tempfile::tempdir().unwrap();
    // Port 1 of loopback: nothing listens there.
    let master = Some("127.0.0.1:1".to_owned());
    let rsctl = Rsctl { folder: folder.path().to_owned(), master };
    let answer = rsctl.call(&["doctor", "--json"]).expect_code(1);
    let checks = answer.json();
    let coordinator = check(&checks, "coordinator");
    assert_eq!(coordinator["status"], "fail");
    assert!(coordinator["hint"].as_str().unwrap().contains("coordinator serve"), "{coordinator}");
}
