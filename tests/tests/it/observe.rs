//! What operators and their tools see: probes, metrics, logs, explanations.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::binaries::run_python;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::wait::wait_for;

/// Scrapes as Prometheus does and reads both formats with Prometheus's own parsers.
const SCRAPE: &str = r#"
import json, sys, urllib.request
from prometheus_client.parser import text_string_to_metric_families as text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
def read(accept, parse):
    request = urllib.request.Request(f"http://{sys.argv[1]}/metrics", headers={"Accept": accept})
    body = urllib.request.urlopen(request, timeout=10).read().decode()
    return {s.name + json.dumps(s.labels): s.value for f in parse(body) for s in f.samples}
ready = urllib.request.urlopen(f"http://{sys.argv[1]}/readyz", timeout=10).status
print(json.dumps({"ready": ready, "text": read("*/*", text),
    "openmetrics": read("application/openmetrics-text; version=1.0.0", openmetrics)}))
"#;

const POINTS: &str = "rustspeed_metric_points_received_total{}";

#[test]
fn prometheus_reads_what_a_cluster_did() {
    let cluster = Cluster::start(&[2]);
    let id = cluster.submit(&cluster.write("job.toml", &TinyJob::default().toml()));
    cluster.wait_for_state(&id, "succeeded");
    // The last ones may come after the job's end.
    let scraped = wait_for("the points of all steps", Duration::from_secs(30), || {
        let scraped = run_python(SCRAPE, &[&cluster.master]);
        let scraped: serde_json::Value = serde_json::from_str(&scraped).unwrap();
        (scraped["text"][POINTS].as_f64()? > 20.0).then_some(scraped)
    });
    assert_eq!(scraped["ready"], 200);
    for format in ["text", "openmetrics"] {
        let value = |name: &str| scraped[format][name].as_f64().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(value(r#"rustspeed_jobs{"state": "succeeded"}"#), 1.0);
        assert_eq!(value(r#"rustspeed_slots{"state": "free"}"#), 2.0);
        assert_eq!(value(r#"rustspeed_trainers_ended_total{"end": "finished"}"#), 2.0);
        assert!(value("rustspeed_store_commit_seconds_count{}") >= 4.0);
        assert!(value(POINTS) > 20.0);
        assert!(value("process_resident_memory_bytes{}") > 1e6);
    }
}

/// Stops a process for most of the time, until told otherwise; it runs afterwards.
fn slow_down(pid: Pid, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for (signal, millis) in [(Signal::SIGSTOP, 60), (Signal::SIGCONT, 20)] {
            kill(pid, signal).unwrap();
            thread::sleep(Duration::from_millis(millis));
        }
    }
}

#[test]
fn explain_names_the_rank_that_holds_the_others_up() {
    let cluster = Cluster::start(&[1, 1]);
    let job = TinyJob { max_steps: 1_000_000, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &job.toml()));
    let pid = cluster.wait_for_step(&id, 5)["ranks"][1]["pid"].as_i64().unwrap();
    let (pid, is_over) = (Pid::from_raw(pid.try_into().unwrap()), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| slow_down(pid, &is_over));
        let named = catch_unwind(AssertUnwindSafe(|| {
            wait_for("the straggler's name", Duration::from_secs(30), || {
                let explained = cluster.rsctl().call(&["explain", "--json", &id]).json();
                let answers = explained["answers"].as_array().unwrap().iter();
                let slow = answers.clone().find(|answer| answer["question"] == "slow")?;
                let text = slow["text"].as_str().unwrap();
                text.starts_with("rank 1 on worker `w1` is a straggler, score 0.").then_some(())
            });
        }));
        // Before a failure is told, or the scope would wait for ever.
        is_over.store(true, Ordering::Relaxed);
        if let Err(failed) = named {
            resume_unwind(failed);
        }
    });
    let explained = cluster.rsctl().call(&["explain", "--json", &id]).json();
    assert_eq!(explained["pace"].as_array().unwrap().len(), 2, "{explained:#}");
}
