use tonic::Code;

use proto::v1;

use super::cluster::{Cluster, finished, killed, settings, soon, submit_request};
use crate::daemon::Coordinator;
use crate::settings::Settings;

#[tokio::test]
async fn a_job_goes_from_submit_to_succeeded_and_its_watcher_sees_the_end() {
    let cluster = Cluster::start().await;
    let (mut a, mut b) = (cluster.join("a", 1).await, cluster.join("b", 1).await);
    let job_id = cluster.submit("My Job", 2).await;
    assert!(job_id.starts_with("my-job-") && job_id.len() == "my-job-".len() + 6, "{job_id}");
    let (start_a, start_b) = (a.start_order().await, b.start_order().await);
    assert_eq!((start_a.world, start_a.ranks.len(), start_b.ranks.len()), (2, 1, 1));
    let (table_a, table_b) = tokio::join!(a.train(&start_a), b.train(&start_b));
    assert_eq!(table_a, table_b);
    assert_eq!((table_a.peers.len(), table_a.token.len()), (2, 16));
    let ids: Vec<_> = table_b.peers.iter().map(|peer| peer.nccl_id.as_slice()).collect();
    assert_eq!(ids, [&[9; 128][..], &[]], "rank 0's place for NCCL reaches every node");
    let running = cluster.wait_for(&job_id, "running").await;
    assert_eq!(running.ranks.iter().map(|r| r.pid.unwrap()).collect::<Vec<_>>(), [100, 101]);
    a.end(&start_a, 0, finished()).await;
    b.end(&start_b, 1, finished()).await;
    let status = cluster.wait_for(&job_id, "succeeded").await;
    assert_eq!(status.attempts.len(), 1);
    assert!(status.output_dir.ends_with(&job_id));
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_trainer_fails_the_job_with_its_last_lines() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 2).await;
    let job_id = cluster.submit("job", 2).await;
    let start = a.start_order().await;
    a.train(&start).await;
    a.end(&start, 1, killed()).await;
    match a.next().await {
        v1::coordinator_message::Kind::Stop(stop) => assert!(!stop.gracefully),
        other => panic!("not a stop: {other:?}"),
    }
    let stopped = v1::TrainerEnd { kind: Some(v1::trainer_end::Kind::Stopped(v1::Empty {})) };
    a.end(&start, 0, stopped).await;
    let failure = cluster.wait_for(&job_id, "failed").await.failure.unwrap();
    assert_eq!(failure.message, "rank 1 on worker `a` was killed by signal 9 (SIGKILL)");
    assert_eq!(failure.last_lines, ["last line of rank 1"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_variable_that_loads_a_library_is_for_those_who_know_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("command-secret"), "a secret").unwrap();
    let cluster = Cluster::start_in(folder).await;
    let mut client = cluster.client().await;
    let mut submit = async |variable: &str, secret: &str| {
        let mut request = submit_request("job", 1, cluster.folder.path());
        let mut spec: serde_json::Value = serde_json::from_str(&request.spec_json).unwrap();
        spec["job"]["env"] = serde_json::json!({ variable: "/tmp/mine.so" });
        request.spec_json = spec.to_string();
        request.command_secret = secret.to_owned();
        client.submit(request).await
    };
    let refused = submit("LD_PRELOAD", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().starts_with("job.env.LD_PRELOAD: "), "{refused}");
    // Known, but nobody here runs such jobs.
    let refused = submit("LD_PRELOAD", "a secret").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    submit("NCCL_DEBUG", "").await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn who_runs_an_ended_program_again_must_know_the_secret_too() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("command-secret"), "a secret").unwrap();
    let allowing = Settings { allow_commands: true, ..settings(folder.path()) };
    let coordinator = Coordinator::build(&allowing).await.unwrap();
    let cluster = Cluster::run(folder, coordinator);
    let mut client = cluster.client().await;
    let mut request = submit_request("job", 1, cluster.folder.path());
    let mut spec: serde_json::Value = serde_json::from_str(&request.spec_json).unwrap();
    spec["job"]["env"] = serde_json::json!({ "LD_PRELOAD": "/tmp/mine.so" });
    request.spec_json = spec.to_string();
    let ours = client.submit(request.clone()).await.unwrap_err();
    request.command_secret = "a secret".to_owned();
    let job_id = client.submit(request).await.unwrap().into_inner().job_id;
    let cancel = v1::CancelRequest { job_id: job_id.clone(), now: true };
    client.cancel_job(cancel).await.unwrap();
    let requeue = |secret: &str| v1::RequeueRequest {
        job_id: job_id.clone(),
        request_id: "again".to_owned(),
        command_secret: secret.to_owned(),
        ..Default::default()
    };
    // A client of an earlier build sends none.
    for secret in ["", "a guess"] {
        let refused = client.requeue_job(requeue(secret)).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (ours.code(), ours.message()));
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let jobs = client.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1);
    client.requeue_job(requeue("a secret")).await.unwrap();
    // What brings no code asks for none.
    let job_id = cluster.submit("plain", 1).await;
    let cancel = v1::CancelRequest { job_id: job_id.clone(), now: true };
    client.cancel_job(cancel).await.unwrap();
    let request_id = "plain-again".to_owned();
    let requeue = v1::RequeueRequest { job_id, request_id, ..Default::default() };
    client.requeue_job(requeue).await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn a_retried_submit_gives_the_same_job() {
    let cluster = Cluster::start().await;
    let request = submit_request("job", 1, cluster.folder.path());
    let mut client = cluster.client().await;
    let first = client.submit(request.clone()).await.unwrap().into_inner();
    let second = client.submit(request).await.unwrap().into_inner();
    assert_eq!(first, second);
    let jobs = client.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1);
    assert_eq!(
        jobs[0].reason, "needs 1 rank of 1 slot; no worker is connected",
        "a queued job says why"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_cancel_of_a_queued_job_is_done_when_it_is_answered() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 1).await;
    let request = v1::CancelRequest { job_id: job_id.clone(), now: false };
    let answer = cluster.client().await.cancel_job(request).await.unwrap().into_inner();
    assert_eq!(answer.state, "cancelled");
    assert_eq!(cluster.status(&job_id).await.row.unwrap().state, "cancelled");
    cluster.stop().await;
}

#[tokio::test]
async fn requests_that_mean_nothing_are_refused_with_what_would_be_right() {
    let cluster = Cluster::start().await;
    let mut client = cluster.client().await;
    let good = || submit_request("job", 1, cluster.folder.path());
    let mut check = async |change: fn(&mut v1::SubmitRequest), code: Code, text: &str| {
        let mut request = good();
        change(&mut request);
        let status = client.submit(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    };
    check(|r| r.request_id.clear(), Code::InvalidArgument, "request_id").await;
    check(|r| r.spec_json = "{".to_owned(), Code::InvalidArgument, "spec_json").await;
    check(|r| r.spec_json = " ".repeat(1 << 20), Code::InvalidArgument, "512 KiB").await;
    let missing = |r: &mut v1::SubmitRequest| {
        r.uploads.insert("/x.csv".to_owned(), "0".repeat(64));
    };
    check(missing, Code::FailedPrecondition, "`/x.csv` was not uploaded").await;
    let wrong = |r: &mut v1::SubmitRequest| {
        r.uploads.insert("/x.csv".to_owned(), "../../etc/passwd".to_owned());
    };
    check(wrong, Code::InvalidArgument, "is not a blake3 hash").await;
    let relative = |r: &mut v1::SubmitRequest| {
        r.spec_json = super::cluster::spec_json("job", 1, std::path::Path::new("runs"));
    };
    check(relative, Code::InvalidArgument, "output-dir").await;
    let nobody = |r: &mut v1::SubmitRequest| {
        r.spec_json = super::cluster::spec_json("job", 0, std::path::Path::new("/runs"));
    };
    check(nobody, Code::InvalidArgument, "world-size").await;
    for job_id in ["nobody-000000", "../etc", ""] {
        let request = v1::JobRequest { job_id: job_id.to_owned() };
        let code = client.get_job(request).await.unwrap_err().code();
        assert!(matches!(code, Code::NotFound | Code::InvalidArgument), "{job_id}: {code}");
    }
    assert!(
        client
            .list_jobs(v1::ListJobsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .jobs
            .is_empty()
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_slows_nobody() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit("job", 1).await;
    let request = v1::JobRequest { job_id: job_id.clone() };
    let slow = cluster.client().await.watch_job(request).await.unwrap().into_inner();
    let start = a.start_order().await;
    a.train(&start).await;
    for step in 0..5000 {
        let progress = v1::Progress { step, ..v1::Progress::default() };
        a.say(v1::worker_message::Kind::Progress(v1::JobProgress {
            job_id: job_id.clone(),
            generation: start.generation,
            progress: Some(progress),
        }))
        .await;
    }
    a.end(&start, 0, finished()).await;
    let status = cluster.wait_for(&job_id, "succeeded").await;
    assert_eq!(status.row.unwrap().step, 4999);
    let mut slow = slow;
    let mut last = None;
    while let Some(status) = soon("the slow watcher's next", slow.message()).await.unwrap() {
        last = status.row;
    }
    assert_eq!(last.unwrap().state, "succeeded", "it misses steps, never the end");
    cluster.stop().await;
}
