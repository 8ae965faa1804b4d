//! A coordinator and two workers started by hand: submit, watch, cancel, resume, restart.

use std::time::Duration;

use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::process::Running;
use tests::wait::wait_for;

/// The steps of which `rsctl metrics` tells the loss, once it tells that of the last one: it may come
/// after the job's end.
fn told_steps(cluster: &Cluster, id: &str, last: u64) -> Vec<u64> {
    wait_for("the loss of the last step", Duration::from_secs(20), || {
        let ask = ["metrics", id, "--tag", "train/loss", "--format", "json"];
        let losses = cluster.rsctl().read(&ask);
        let steps = losses.as_array().unwrap().iter().map(|point| point["step"].as_u64().unwrap());
        let steps: Vec<u64> = steps.collect();
        (steps.last() == Some(&last)).then_some(steps)
    })
}

#[test]
fn a_job_runs_across_two_workers_and_watch_shows_it_to_the_end() {
    let cluster = Cluster::start(&[1, 1]);
    let job = cluster.write("job.toml", &TinyJob::default().toml());
    let answer = cluster.rsctl().call(&["submit", "--watch", "--json", &job]).expect_code(0);
    let last = answer.stdout.lines().last().expect("watch prints lines");
    let status: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(status["state"], "succeeded");
    let ranks = status["ranks"].as_array().unwrap();
    let workers: Vec<_> = ranks.iter().map(|rank| rank["worker"].as_str().unwrap()).collect();
    assert!(workers.contains(&"w0") && workers.contains(&"w1"), "{workers:?}");

    let rows = cluster.rsctl().call(&["jobs", "--json"]).expect_code(0).json();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    let id = rows[0]["job_id"].as_str().unwrap();
    assert_eq!(told_steps(&cluster, id, 20).len(), 20);
    let logs = cluster.rsctl().call(&["logs", id]).expect_code(0);
    assert!(!logs.stdout.is_empty() || !logs.stderr.is_empty());
}

#[test]
fn a_job_that_does_not_fit_waits_with_a_reason_and_starts_when_a_worker_joins() {
    let mut cluster = Cluster::start(&[1]);
    let job = cluster.write("job.toml", &TinyJob::default().toml());
    let id = cluster.submit(&job);
    let status = cluster.status(&id);
    assert_eq!(status["state"], "queued");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains('2') && reason.contains('1'), "reason names the numbers: {reason}");
    let worker = cluster.worker_command("late", 1);
    cluster.add_worker("late", worker);
    cluster.wait_for_state(&id, "succeeded");
}

#[test]
fn a_cancelled_job_is_saved_and_resumes_where_it_stopped() {
    let cluster = Cluster::start(&[2]);
    let endless = TinyJob { max_steps: 100_000, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &endless.toml()));
    cluster.wait_for_step(&id, 5);
    cluster.rsctl().call(&["cancel", &id]).expect_code(0);
    let cancelled = cluster.wait_for_state(&id, "cancelled");
    let stopped_at = cancelled["step"].as_u64().unwrap();

    let goal = format!("training.max-steps={}", stopped_at + 10);
    let resumed = cluster
        .rsctl()
        .call(&[
            "submit",
            "--json",
            "--resume",
            &id,
            "--set",
            &goal,
            &format!("{}/job.toml", cluster.path().display()),
        ])
        .expect_code(0)
        .json();
    let resumed = resumed["job_id"].as_str().unwrap().to_owned();
    let done = cluster.wait_for_state(&resumed, "succeeded");
    assert_eq!(done["step"], stopped_at + 10);
    let steps = format!("{}/metrics/steps.csv", done["output_dir"].as_str().unwrap());
    let first = fs_err::read_to_string(steps).unwrap().lines().nth(1).unwrap().to_owned();
    assert!(first.starts_with(&format!("{},", stopped_at + 1)), "{first}");
}

#[test]
fn a_queued_job_is_cancelled_at_once() {
    let cluster = Cluster::start(&[]);
    let id = cluster.submit(&cluster.write("job.toml", &TinyJob::default().toml()));
    cluster.rsctl().call(&["cancel", &id]).expect_code(0);
    assert_eq!(cluster.status(&id)["state"], "cancelled");
}

#[test]
fn a_coordinator_restart_stops_no_step_and_watch_reattaches() {
    let mut cluster = Cluster::start(&[1, 1]);
    let long = TinyJob { max_steps: 3000, ..TinyJob::default() };
    let id = cluster.submit(&cluster.write("job.toml", &long.toml()));
    cluster.wait_for_step(&id, 5);
    let before = cluster.trainers();
    assert_eq!(before.len(), 2);

    let log = cluster.path().join("watch.log");
    let mut watch = Running::start(&mut cluster.rsctl().command(&["watch", &id]), &log);
    wait_for("watch shows steps", Duration::from_secs(20), || {
        watch.output().contains("step ").then_some(())
    });
    cluster.coordinator.as_ref().unwrap().signal(nix::sys::signal::Signal::SIGKILL);
    cluster.restart_coordinator();
    let done = wait_for("the job's end", Duration::from_secs(60), || {
        let status = cluster.status(&id);
        assert_ne!(status["state"], "failed", "{status:#}");
        (status["state"] == "succeeded").then_some(status)
    });
    assert_eq!(done["attempt"], 1, "A11: the coordinator's death stops no running step");
    assert_eq!(watch.wait(Duration::from_secs(20)).code(), Some(0), "{}", watch.output());
    let steps = told_steps(&cluster, &id, 3000);
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "no doubles, in order");
}

#[test]
fn an_uploaded_input_need_not_lie_on_the_worker() {
    let cluster = Cluster::start(&[2]);
    let rows: String = (0..400).map(|i| format!("{i},{}\n", (f64::from(i) / 9.0).sin())).collect();
    let data = cluster.write("series.csv", &format!("t,value\n{rows}"));
    let job = "[job]\nname = \"up\"\n[resources]\nworld-size = 2\n[model]\nkind = \"gru\"\nhidden-size = 16\n\
               [data]\nkind = \"csv\"\npath = \"series.csv\"\ncolumns = [\"value\"]\nwindow = 16\n\
               [training]\nepochs = 2\nbatch-size = 32\n";
    let job = cluster.write("up.toml", job);
    let answer =
        cluster.rsctl().call(&["submit", "--json", "--upload", &job]).expect_code(0).json();
    fs_err::remove_file(&data).unwrap();
    cluster.wait_for_state(answer["job_id"].as_str().unwrap(), "succeeded");

    cluster.write("series.csv", "t,value\n");
    fs_err::remove_file(&data).unwrap();
    let id = {
        // Checked on the worker: the file was there when rsctl looked, and is gone at start.
        cluster.write("series.csv", &format!("t,value\n{rows}"));
        let text = fs_err::read_to_string(&job).unwrap();
        let moved = text.replace("series.csv", "moved.csv");
        fs_err::write(cluster.path().join("moved.csv"), format!("t,value\n{rows}")).unwrap();
        let waiting = moved.replace("world-size = 2", "world-size = 3");
        let id = cluster.submit(&cluster.write("moved.toml", &waiting));
        fs_err::remove_file(cluster.path().join("moved.csv")).unwrap();
        id
    };
    let mut cluster = cluster;
    let worker = cluster.worker_command("third", 1);
    cluster.add_worker("third", worker);
    let failed = cluster.wait_for_state(&id, "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("moved.csv"), "names the file: {reason}");
}
