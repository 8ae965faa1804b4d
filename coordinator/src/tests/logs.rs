use tonic::Code;

use proto::v1;

use super::bulk::Bulk;
use super::cluster::{Cluster, ended, killed, soon, uuid};

/// Lines of ranks at given times; the text tells rank and time.
fn batch(job_id: &str, sequence: u64, ranks: &[u32], times: std::ops::Range<u64>) -> v1::BulkBatch {
    let logs = ranks.iter().map(|rank| {
        let text = |time| match time % 10 {
            0 => format!("WARN rank {rank} at {time}"),
            _ => format!("rank {rank} at {time}"),
        };
        let line = |time| v1::LogLine { time_ms: time, text: text(time), stderr: false };
        v1::LogLines { rank: *rank, lines: times.clone().map(line).collect(), ..Default::default() }
    });
    v1::BulkBatch {
        sequence,
        jobs: vec![v1::JobBulk {
            job_id: job_id.to_owned(),
            generation: 1,
            logs: logs.collect(),
            ..Default::default()
        }],
        uuid: uuid("a"),
        incarnation: 1,
    }
}

async fn read(cluster: &Cluster, request: v1::ReadLogsRequest) -> Vec<v1::LogLines> {
    let mut stream = cluster.client().await.read_logs(request).await.unwrap().into_inner();
    let mut messages = Vec::new();
    while let Some(message) = soon("logs", stream.message()).await.unwrap() {
        messages.push(message);
    }
    messages
}

fn texts(messages: &[v1::LogLines]) -> Vec<&str> {
    messages.iter().flat_map(|message| &message.lines).map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn a_reader_gets_the_lines_that_it_asks_for() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 3).await;
    let job_id = cluster.submit("job", 3).await;
    let start = a.start_order().await;
    a.train(&start).await;
    Bulk::open(&cluster).await.send(batch(&job_id, 1, &[0, 1, 2], 1..31)).await;
    let all = v1::ReadLogsRequest { job_id, ..Default::default() };
    let lines = async |request: v1::ReadLogsRequest| read(&cluster, request).await;
    let found = lines(all.clone()).await;
    assert_eq!(texts(&found).len(), 90);
    assert!(found.iter().all(|message| message.attempt == 1 && message.next == 30));
    let two = v1::ReadLogsRequest { ranks: vec![0, 2], since_ms: 30, ..all.clone() };
    assert_eq!(texts(&lines(two).await), ["WARN rank 0 at 30", "WARN rank 2 at 30"]);
    let warned = v1::ReadLogsRequest {
        ranks: vec![1],
        grep: "^WARN .* (10|20|30)$".to_owned(),
        tail: 2,
        ..all.clone()
    };
    assert_eq!(texts(&lines(warned).await), ["WARN rank 1 at 20", "WARN rank 1 at 30"]);
    let attempt = |attempt| v1::ReadLogsRequest { attempt, tail: 1, ..all.clone() };
    assert_eq!(texts(&lines(attempt(1)).await).len(), 3);
    assert!(lines(attempt(2)).await.is_empty());
    let broken = v1::ReadLogsRequest { grep: "(".to_owned(), ..all };
    let status = cluster.client().await.read_logs(broken).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("grep: "), "{status}");
    cluster.stop().await;
}

#[tokio::test]
async fn the_guilty_rank_comes_first() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 2).await;
    let job_id = cluster.submit("job", 2).await;
    let start = a.start_order().await;
    a.train(&start).await;
    Bulk::open(&cluster).await.send(batch(&job_id, 1, &[0, 1], 1..3)).await;
    let peer_gone = v1::trainer_end::Kind::Stopped(v1::Empty {});
    a.say(v1::worker_message::Kind::TrainerEnded(ended(&start, 1, killed()))).await;
    let stopped = v1::TrainerEnd { kind: Some(peer_gone) };
    a.say(v1::worker_message::Kind::TrainerEnded(ended(&start, 0, stopped))).await;
    cluster.wait_for(&job_id, "failed").await;
    let found = read(&cluster, v1::ReadLogsRequest { job_id, ..Default::default() }).await;
    assert_eq!(texts(&found), ["rank 1 at 1", "rank 1 at 2", "rank 0 at 1", "rank 0 at 2"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was_after_a_restart() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 2).await;
    let job_id = cluster.submit("job", 2).await;
    let start = a.start_order().await;
    a.train(&start).await;
    let mut bulk = Bulk::open(&cluster).await;
    bulk.send(batch(&job_id, 1, &[0, 1], 1..4)).await;
    let request =
        v1::ReadLogsRequest { job_id: job_id.clone(), follow: true, ..Default::default() };
    let mut stream = cluster.client().await.read_logs(request.clone()).await.unwrap().into_inner();
    let mut positions = Vec::new();
    for _ in 0..2 {
        let message = soon("lines", stream.message()).await.unwrap().unwrap();
        assert_eq!(message.lines.len(), 3);
        let v1::LogLines { attempt, rank, next, .. } = message;
        positions.push(v1::LogPosition { attempt, rank, next });
    }
    let cluster = cluster.restart().await;
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    let mut again = v1::ReadLogsRequest { positions, ..request };
    let mut stream = cluster.client().await.read_logs(again.clone()).await.unwrap().into_inner();
    Bulk::open(&cluster).await.send(batch(&job_id, 2, &[1], 4..6)).await;
    let message = soon("the new lines alone", stream.message()).await.unwrap().unwrap();
    assert_eq!(texts(std::slice::from_ref(&message)), ["rank 1 at 4", "rank 1 at 5"]);
    assert_eq!((message.first, message.next, message.skipped), (3, 5, 0));
    again.follow = false;
    let found = read(&cluster, again).await;
    assert_eq!(texts(&found), ["rank 1 at 4", "rank 1 at 5"]);
    cluster.stop().await;
}

/// A megabyte and more, beyond what is kept, passes a reader that takes nothing meanwhile.
#[tokio::test]
async fn what_was_gone_before_a_slow_reader_came_to_it_is_counted() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 1).await;
    let mut bulk = Bulk::open(&cluster).await;
    let long = |sequence: u64| {
        let mut batch = batch(&job_id, sequence, &[0], 1..101);
        for line in &mut batch.jobs[0].logs[0].lines {
            line.text = "x".repeat(1000);
        }
        batch
    };
    bulk.send(long(1)).await;
    let positions = vec![v1::LogPosition { attempt: 0, rank: 0, next: 100 }];
    for sequence in 2..=30 {
        bulk.send(long(sequence)).await;
    }
    let request = v1::ReadLogsRequest { job_id: job_id.clone(), positions, ..Default::default() };
    let found = read(&cluster, request).await;
    let skipped: u64 = found.iter().map(|message| message.skipped).sum();
    let lines = texts(&found).len() as u64;
    assert!(skipped > 1000 && lines > 700, "{skipped} {lines}");
    assert_eq!(skipped + lines, 2900, "nothing is lost silently");
    cluster.stop().await;
}
