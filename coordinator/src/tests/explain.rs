use tonic::Code;

use common::ids::Rank;
use common::metric;
use common::status::{Explanation, Question};
use proto::v1;

use super::bulk::Bulk;
use super::cluster::{Cluster, killed, uuid};

async fn explain(cluster: &Cluster, job_id: &str) -> Explanation {
    let request = v1::JobRequest { job_id: job_id.to_owned() };
    let answer = cluster.client().await.explain(request).await.unwrap().into_inner();
    serde_json::from_str(&answer.explanation_json).unwrap()
}

/// What a rank of a generation measured: so many seconds of computing in a step, at this time.
fn measured(job_id: &str, sequence: u64, generation: u64, seconds: f64, at: u64) -> v1::BulkBatch {
    let series = |name: &str| v1::MetricSeries {
        name: name.to_owned(),
        points: vec![v1::MetricPoint { step: 1, samples: 1, value: seconds, time_ms: at }],
        ..Default::default()
    };
    v1::BulkBatch {
        sequence,
        jobs: vec![v1::JobBulk {
            job_id: job_id.to_owned(),
            generation,
            metrics: [metric::COMPUTE_SECONDS, metric::WAIT_SECONDS].map(|m| series(m.name)).into(),
            ..Default::default()
        }],
        uuid: uuid("a"),
        incarnation: 1,
    }
}

#[tokio::test]
async fn a_restarted_job_is_explained_with_the_last_lines_of_the_rank_that_broke_it_off() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit_restarting("job", 1).await;
    let start = a.start_order().await;
    a.train(&start).await;
    a.end(&start, 0, killed()).await;
    let start = a.start_order().await;
    a.train(&start).await;
    cluster.wait_for(&job_id, "running").await;
    let explained = explain(&cluster, &job_id).await;
    let [first, second] = explained.attempts.as_slice() else { panic!("{explained:#?}") };
    let guilty = first.guilty.as_ref().unwrap();
    assert_eq!((guilty.rank, guilty.worker.as_str()), (Rank(0), "a"));
    assert_eq!(guilty.last_lines, ["last line of rank 0"]);
    assert_eq!(second.ended, "");
    let questions: Vec<_> = explained.answers.iter().map(|answer| answer.question).collect();
    assert_eq!(questions, [Question::Restarted]);
    let unknown = v1::JobRequest { job_id: "stranger-000000".to_owned() };
    let status = cluster.client().await.explain(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    cluster.stop().await;
}

#[tokio::test]
async fn the_pace_is_of_the_newest_attempt_whatever_the_workers_clocks_say() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit_restarting("job", 1).await;
    let mut bulk = Bulk::open(&cluster).await;
    let start = a.start_order().await;
    a.train(&start).await;
    // A year ahead of the coordinator.
    bulk.send(measured(&job_id, 1, 1, 9.0, 4_000_000_000_000)).await;
    a.end(&start, 0, killed()).await;
    let start = a.start_order().await;
    a.train(&start).await;
    assert_eq!(explain(&cluster, &job_id).await.pace, [], "nothing is known of this attempt");
    // Far behind it.
    bulk.send(measured(&job_id, 2, 2, 0.5, 1000)).await;
    let explained = explain(&cluster, &job_id).await;
    assert_eq!(explained.pace.len(), 1, "{explained:#?}");
    assert_eq!(explained.pace[0].compute_seconds.to_bits(), 0.5_f64.to_bits());
    assert!(explained.answers.iter().any(|answer| answer.question == Question::Slow));
    cluster.stop().await;
}
