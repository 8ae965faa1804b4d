use tonic::Code;

use proto::v1;

use super::cluster::{Cluster, DEADLINE, submit_request};

async fn submit(cluster: &Cluster, change: impl Fn(&mut v1::SubmitRequest)) -> String {
    let mut request = submit_request("job", 1, cluster.folder.path());
    change(&mut request);
    cluster.client().await.submit(request).await.unwrap().into_inner().job_id
}

async fn list(cluster: &Cluster, request: v1::ListJobsRequest) -> v1::ListJobsResponse {
    cluster.client().await.list_jobs(request).await.unwrap().into_inner()
}

fn ids(answer: &v1::ListJobsResponse) -> Vec<&str> {
    answer.jobs.iter().map(|row| row.job_id.as_str()).collect()
}

#[tokio::test]
async fn a_list_comes_in_pages_and_is_filtered_by_the_coordinator() {
    let cluster = Cluster::start().await;
    let mut submitted = Vec::new();
    for number in 0..5 {
        let group = if number % 2 == 0 { "even" } else { "" };
        submitted.push(submit(&cluster, |request| request.group = group.to_owned()).await);
    }
    let mut found: Vec<String> = Vec::new();
    let mut page = String::new();
    loop {
        let request = v1::ListJobsRequest { limit: 2, page, ..Default::default() };
        let answer = list(&cluster, request).await;
        assert!(answer.jobs.len() <= 2);
        found.extend(ids(&answer).into_iter().map(str::to_owned));
        page = answer.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(
        {
            found.sort();
            &found
        },
        {
            submitted.sort();
            &submitted
        }
    );
    let group = "even".to_owned();
    let even = list(&cluster, v1::ListJobsRequest { group, ..Default::default() }).await;
    assert_eq!(even.jobs.len(), 3);
    assert!(even.jobs.iter().all(|row| row.group == "even"));
    let prefix = submitted[1].clone();
    let one = list(&cluster, v1::ListJobsRequest { prefix, ..Default::default() }).await;
    assert_eq!(ids(&one), [submitted[1].as_str()]);
    let states = vec!["running".to_owned()];
    let none = list(&cluster, v1::ListJobsRequest { states, ..Default::default() }).await;
    assert!(none.jobs.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn what_the_queue_cannot_do_is_refused_with_what_would_be_right() {
    let cluster = Cluster::start().await;
    let mut client = cluster.client().await;
    let mut check = async |change: fn(&mut v1::SubmitRequest), code: Code, text: &str| {
        let mut request = submit_request("job", 1, cluster.folder.path());
        change(&mut request);
        let status = client.submit(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    };
    let after = |job: &str| v1::After { job_id: job.to_owned(), in_any_way: true };
    check(|r| r.group = "a b".to_owned(), Code::InvalidArgument, "letters").await;
    check(|r| r.max_running = 2, Code::InvalidArgument, "group").await;
    let nobody: fn(&mut v1::SubmitRequest) = |r| {
        r.after.push(v1::After { job_id: "nobody-000000".to_owned(), in_any_way: false });
    };
    check(nobody, Code::NotFound, "nobody-000000").await;
    let many: fn(&mut v1::SubmitRequest) = |r| {
        r.after = vec![v1::After { job_id: "nobody-000000".to_owned(), in_any_way: true }; 65];
    };
    check(many, Code::InvalidArgument, "at most 64").await;

    let open = submit(&cluster, |_| ()).await;
    let waits = submit(&cluster, |request| request.after.push(after(&open))).await;
    let mut client = cluster.client().await;
    let requeue = |job: &str, request: &str| v1::RequeueRequest {
        job_id: job.to_owned(),
        request_id: request.to_owned(),
        ..Default::default()
    };
    let refused = client.requeue_job(requeue(&open, "one")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = client.requeue_job(requeue("nobody-000000", "one")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let drain = |worker: &str, grace_ms| v1::DrainRequest {
        worker: worker.to_owned(),
        grace_ms,
        ..Default::default()
    };
    let refused = client.drain_worker(drain("nobody", 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let refused = client.drain_worker(drain("nobody", 3_600_001)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = client.drain_worker(drain(&"n".repeat(1 << 16), 0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let page = "what".to_owned();
    let request = v1::ListJobsRequest { page, ..Default::default() };
    assert_eq!(client.list_jobs(request).await.unwrap_err().code(), Code::InvalidArgument);
    let states = vec!["happy".to_owned()];
    let request = v1::ListJobsRequest { states, ..Default::default() };
    assert_eq!(client.list_jobs(request).await.unwrap_err().code(), Code::InvalidArgument);

    // A retried requeue gives the same job.
    let cancel = v1::CancelRequest { job_id: open.clone(), now: true };
    client.cancel_job(cancel).await.unwrap();
    let first = client.requeue_job(requeue(&open, "one")).await.unwrap().into_inner();
    let second = client.requeue_job(requeue(&open, "one")).await.unwrap().into_inner();
    assert_eq!(first, second);
    let row = cluster.status(&waits).await.row.unwrap();
    assert_eq!(row.state, "queued", "it waited for the end, however that was");
    assert!(row.reason.contains("no worker is connected"), "{}", row.reason);
    cluster.stop().await;
}

#[tokio::test]
async fn a_watcher_of_a_job_that_waits_hears_why_whenever_that_changes() {
    let cluster = Cluster::start().await;
    let job_id = submit(&cluster, |_| ()).await;
    let wide = {
        let request = submit_request("wide", 4, cluster.folder.path());
        cluster.client().await.submit(request).await.unwrap().into_inner().job_id
    };
    let request = v1::JobRequest { job_id: wide };
    let mut updates = cluster.client().await.watch_job(request).await.unwrap().into_inner();
    let reason = |status: &v1::JobStatus| status.row.as_ref().unwrap().reason.clone();
    let first = updates.message().await.unwrap().unwrap();
    assert!(reason(&first).ends_with("no worker is connected"), "{}", reason(&first));
    let _peer = cluster.join("a", 2).await;
    let hears = async {
        while let Some(status) = updates.message().await.unwrap() {
            if reason(&status).contains("the cluster has 2 slots on 1 worker") {
                return;
            }
        }
        panic!("the watch of {job_id} ended");
    };
    tokio::time::timeout(DEADLINE, hears).await.expect("the new reason is told");
    cluster.stop().await;
}
