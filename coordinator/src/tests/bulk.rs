use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use proto::v1;

use super::cluster::{Cluster, finished, killed, soon, uuid};

/// A worker's bulk stream.
pub(super) struct Bulk {
    outgoing: mpsc::Sender<v1::BulkBatch>,
    acks: Streaming<v1::BulkAck>,
}

impl Bulk {
    pub(super) async fn open(cluster: &Cluster) -> Self {
        let (outgoing, batches) = mpsc::channel(64);
        let mut client = cluster.worker_client().await;
        let acks = client.bulk(ReceiverStream::new(batches)).await.unwrap().into_inner();
        Self { outgoing, acks }
    }

    pub(super) async fn send(&mut self, batch: v1::BulkBatch) {
        let sequence = batch.sequence;
        self.outgoing.send(batch).await.unwrap();
        let ack = soon("an acknowledgement", self.acks.message()).await.unwrap().unwrap();
        assert_eq!(ack.sequence, sequence);
    }
}

/// Batch `sequence` of a worker: one point and one line with that number.
fn batch(job_id: &str, sequence: u64) -> v1::BulkBatch {
    let point = v1::MetricPoint {
        step: sequence,
        samples: sequence * 32,
        value: 1.0 / sequence as f64,
        time_ms: 1000 + sequence,
    };
    let series = |name: &str| v1::MetricSeries {
        name: name.to_owned(),
        points: vec![point],
        ..Default::default()
    };
    let line =
        v1::LogLine { time_ms: 1000 + sequence, text: format!("line {sequence}"), stderr: false };
    v1::BulkBatch {
        sequence,
        jobs: vec![v1::JobBulk {
            job_id: job_id.to_owned(),
            generation: 1,
            metrics: vec![series("train/loss"), series("train/lr")],
            logs: vec![v1::LogLines { rank: 0, lines: vec![line], ..Default::default() }],
            dropped: 0,
        }],
        uuid: uuid("a"),
        incarnation: 1,
    }
}

async fn steps(cluster: &Cluster, job_id: &str, name: &str) -> Vec<u64> {
    let request = v1::ReadMetricsRequest {
        job_id: job_id.to_owned(),
        names: vec![name.to_owned()],
        ..Default::default()
    };
    let mut stream = cluster.client().await.read_metrics(request).await.unwrap().into_inner();
    let mut steps = Vec::new();
    while let Some(series) = soon("metrics", stream.message()).await.unwrap() {
        assert_eq!(series.name, name);
        steps.extend(series.points.iter().map(|point| point.step));
    }
    steps
}

async fn lines(cluster: &Cluster, job_id: &str, tail: u32) -> Vec<String> {
    let request = v1::ReadLogsRequest { job_id: job_id.to_owned(), tail, ..Default::default() };
    let mut stream = cluster.client().await.read_logs(request).await.unwrap().into_inner();
    let mut lines = Vec::new();
    while let Some(more) = soon("logs", stream.message()).await.unwrap() {
        lines.extend(more.lines.into_iter().map(|line| line.text));
    }
    lines
}

#[tokio::test]
async fn batches_that_are_sent_again_leave_neither_gap_nor_double() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 1).await;
    let mut bulk = Bulk::open(&cluster).await;
    for sequence in 1..=20 {
        bulk.send(batch(&job_id, sequence)).await;
    }
    // The last acknowledgements were lost with the stream, and then with the coordinator.
    let mut again = Bulk::open(&cluster).await;
    for sequence in 11..=30 {
        again.send(batch(&job_id, sequence)).await;
    }
    let cluster = cluster.restart().await;
    let mut again = Bulk::open(&cluster).await;
    for sequence in 21..=40 {
        again.send(batch(&job_id, sequence)).await;
    }
    let expected: Vec<u64> = (1..=40).collect();
    assert_eq!(steps(&cluster, &job_id, "train/loss").await, expected);
    assert_eq!(steps(&cluster, &job_id, "train/lr").await, expected);
    let all: Vec<String> = (1..=40).map(|n| format!("line {n}")).collect();
    assert_eq!(lines(&cluster, &job_id, 0).await, all);
    assert_eq!(lines(&cluster, &job_id, 3).await, all[37..]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_new_life_of_a_worker_counts_from_one_again() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 1).await;
    let mut bulk = Bulk::open(&cluster).await;
    bulk.send(batch(&job_id, 1)).await;
    let mut reborn = batch(&job_id, 1);
    reborn.incarnation = 2;
    reborn.jobs[0].metrics[0].points[0].step = 2;
    reborn.jobs[0].metrics[0].points[0].time_ms += 1;
    bulk.send(reborn).await;
    assert_eq!(steps(&cluster, &job_id, "train/loss").await, [1, 2]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_gets_everything_and_ends_with_the_job() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit("job", 1).await;
    let start = a.start_order().await;
    a.train(&start).await;
    let mut client = cluster.client().await;
    let request = v1::ReadMetricsRequest {
        job_id: job_id.clone(),
        follow: true,
        since_step: 5,
        ..Default::default()
    };
    let mut metrics = client.read_metrics(request).await.unwrap().into_inner();
    let request = v1::ReadLogsRequest {
        job_id: job_id.clone(),
        rank: Some(0),
        follow: true,
        ..Default::default()
    };
    let mut logs = client.read_logs(request).await.unwrap().into_inner();
    let mut bulk = Bulk::open(&cluster).await;
    for sequence in 1..=10 {
        bulk.send(batch(&job_id, sequence)).await;
    }
    a.end(&start, 0, finished()).await;
    // The last batch comes after the end, as it does.
    bulk.send(batch(&job_id, 11)).await;
    let mut points: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while let Some(series) = soon("the follower's end", metrics.message()).await.unwrap() {
        points.entry(series.name).or_default().extend(series.points.iter().map(|p| p.step));
    }
    assert_eq!(points["train/loss"], [5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(points["train/lr"], points["train/loss"]);
    let mut seen = 0;
    while let Some(more) = soon("the follower's end", logs.message()).await.unwrap() {
        seen += more.lines.len();
    }
    assert_eq!(seen, 11);
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_of_a_final_job_ends_while_other_jobs_go_on() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit("job", 1).await;
    let other = cluster.submit("other", 9).await;
    let start = a.start_order().await;
    a.train(&start).await;
    a.end(&start, 0, finished()).await;
    let request =
        v1::ReadMetricsRequest { job_id: job_id.clone(), follow: true, ..Default::default() };
    let mut stream = cluster.client().await.read_metrics(request).await.unwrap().into_inner();
    let mut bulk = Bulk::open(&cluster).await;
    let busy = async {
        for sequence in 1.. {
            bulk.send(batch(&other, sequence)).await;
        }
    };
    tokio::select! {
        () = busy => {}
        end = soon("the follower's end", stream.message()) => assert_eq!(end.unwrap(), None),
    }
    cluster.stop().await;
}

#[tokio::test]
async fn streams_end_with_the_coordinator_and_say_so() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 1).await;
    let mut client = cluster.client().await;
    let request = v1::JobRequest { job_id: job_id.clone() };
    let mut watch = client.watch_job(request).await.unwrap().into_inner();
    assert!(soon("the status", watch.message()).await.unwrap().is_some());
    let request = v1::ReadMetricsRequest { job_id, follow: true, ..Default::default() };
    let mut metrics = client.read_metrics(request).await.unwrap().into_inner();
    cluster.stop().await;
    assert_eq!(watch.message().await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(metrics.message().await.unwrap_err().code(), tonic::Code::Unavailable);
}

/// The value of a counter without labels.
async fn counter(cluster: &Cluster, name: &str) -> u64 {
    let (_, text) = super::health::get(&cluster.address, "/metrics", "*/*").await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn what_comes_again_after_a_reconnect_is_not_counted_again() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 1).await;
    let with_drops = |sequence, dropped| {
        let mut batch = batch(&job_id, sequence);
        batch.jobs[0].dropped = dropped;
        batch
    };
    for last in 1..=3 {
        // The acknowledgements of the streams before were lost.
        let mut bulk = Bulk::open(&cluster).await;
        for sequence in 1..=last {
            bulk.send(with_drops(sequence, 7)).await;
        }
    }
    assert_eq!(counter(&cluster, "rustspeed_worker_spool_dropped_total").await, 21);
    assert_eq!(counter(&cluster, "rustspeed_metric_points_received_total").await, 6);
    assert_eq!(counter(&cluster, "rustspeed_log_lines_received_total").await, 3);
    cluster.stop().await;
}

#[tokio::test]
async fn a_rank_whose_clock_is_behind_that_of_its_last_place_loses_no_point() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit_restarting("job", 1).await;
    let mut bulk = Bulk::open(&cluster).await;
    for generation in 1..=2 {
        let start = a.start_order().await;
        a.train(&start).await;
        for step in 1..=5 {
            // The second place is 30 s behind, and goes on where the first ended.
            let mut batch = batch(&job_id, (generation - 1) * 5 + step);
            batch.jobs[0].generation = generation;
            for point in batch.jobs[0].metrics.iter_mut().flat_map(|series| &mut series.points) {
                point.time_ms = 100_000 - 30_000 * generation + step;
            }
            bulk.send(batch).await;
        }
        a.end(&start, 0, if generation == 1 { killed() } else { finished() }).await;
    }
    assert_eq!(steps(&cluster, &job_id, "train/loss").await, (1..=10).collect::<Vec<_>>());
    cluster.stop().await;
}

#[tokio::test]
async fn data_of_an_attempt_that_never_was_is_acknowledged_and_left_out() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit("job", 1).await;
    let start = a.start_order().await;
    a.train(&start).await;
    let mut bulk = Bulk::open(&cluster).await;
    bulk.send(batch(&job_id, 1)).await;
    for (sequence, generation) in [(2, u64::MAX), (3, 2)] {
        let mut made_up = batch(&job_id, sequence);
        made_up.jobs[0].generation = generation;
        bulk.send(made_up).await;
    }
    bulk.send(batch(&job_id, 4)).await;
    assert_eq!(steps(&cluster, &job_id, "train/loss").await, [1, 4]);
    assert_eq!(lines(&cluster, &job_id, 0).await, ["line 1", "line 4"]);
    let files = super::cluster::files_below(&cluster.folder.path().join("logs"));
    assert_eq!(files.len(), 1, "{files:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn batches_of_unknown_jobs_are_acknowledged_and_leave_nothing() {
    let cluster = Cluster::start().await;
    let mut bulk = Bulk::open(&cluster).await;
    bulk.send(batch("stranger-000000", 1)).await;
    bulk.send(batch("../../escape", 2)).await;
    let folder = cluster.stop().await;
    for kind in ["metrics", "logs"] {
        assert!(super::cluster::files_below(&folder.path().join(kind)).is_empty());
    }
}
