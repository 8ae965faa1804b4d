use proto::v1::MetricPoint;

use super::*;

fn key() -> Key {
    ("a-1".to_owned(), 1)
}

fn point(step: u64) -> Vec<MetricSeries> {
    let point = MetricPoint { step, samples: step, value: 0.5, time_ms: 1 };
    let name = "train/loss".to_owned();
    vec![MetricSeries { name, points: vec![point], ..Default::default() }]
}

fn line(text: &str) -> LogLine {
    LogLine { time_ms: 1, text: text.to_owned(), stderr: false }
}

fn steps(batch: &BulkBatch) -> Vec<u64> {
    let series = batch.jobs.iter().flat_map(|job| &job.metrics);
    series.flat_map(|series| &series.points).map(|point| point.step).collect()
}

fn small() -> Bounds {
    Bounds { memory_bytes: 100, total_bytes: 1000 }
}

#[test]
fn a_batch_stays_until_it_is_acknowledged_and_keeps_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    spool.push_metrics(&key(), point(1));
    spool.push_metrics(&key(), point(2));
    spool.push_line(&key(), 0, line("hello"));
    let first = spool.next_after(0).unwrap();
    assert_eq!((first.sequence, steps(&first)), (1, vec![1, 2]));
    assert_eq!(first.jobs[0].logs[0].lines[0].text, "hello");
    spool.push_metrics(&key(), point(3));
    let second = spool.next_after(first.sequence).unwrap();
    assert_eq!((second.sequence, steps(&second)), (2, vec![3]));
    assert_eq!(spool.next_after(0).unwrap(), first, "a new connection starts again");
    spool.acknowledge(1);
    assert_eq!(spool.next_after(0).unwrap(), second);
    spool.acknowledge(2);
    assert!(spool.is_empty() && spool.next_after(0).is_none());
}

#[test]
fn beyond_memory_batches_go_to_disk_and_come_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), small()).unwrap();
    let mut last = 0;
    for step in 1..=9 {
        spool.push_metrics(&key(), point(step));
        last = spool.next_after(last).unwrap().sequence;
    }
    assert!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count() > 3);
    let mut seen = Vec::new();
    let mut at = 0;
    while let Some(batch) = spool.next_after(at) {
        at = batch.sequence;
        seen.extend(steps(&batch));
    }
    assert_eq!(seen, (1..=9).collect::<Vec<_>>());
    spool.acknowledge(last);
    assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 0);
}

#[test]
fn beyond_the_total_bound_the_oldest_are_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), small()).unwrap();
    let mut at = 0;
    for step in 1..=100 {
        spool.push_metrics(&key(), point(step));
        at = spool.next_after(at).unwrap().sequence;
    }
    let (mut kept, mut told, mut at) = (0, 0, 0);
    while let Some(batch) = spool.next_after(at) {
        at = batch.sequence;
        kept += steps(&batch).len() as u64;
        told += batch.jobs[0].dropped;
    }
    assert!(kept > 5, "{kept}");
    assert_eq!(kept + told, 100, "every point is either here or counted");
}

#[test]
fn what_one_life_left_the_next_one_sends_first() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    spool.push_metrics(&key(), point(1));
    assert_eq!(spool.next_after(0).unwrap().sequence, 1);
    spool.acknowledge(1);
    spool.push_metrics(&key(), point(2));
    assert_eq!(spool.next_after(1).unwrap().sequence, 2);
    spool.push_metrics(&key(), point(3));
    spool.persist();
    drop(spool);
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    spool.push_metrics(&key(), point(4));
    let mut at = 0;
    let mut seen = Vec::new();
    while let Some(batch) = spool.next_after(at) {
        assert_eq!(batch.sequence, at + 1, "numbers have no gaps");
        at = batch.sequence;
        seen.extend(steps(&batch));
    }
    assert_eq!(seen, [2, 3, 4]);
}

#[test]
fn a_batch_that_cannot_be_kept_takes_no_other_one_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    let mut at = 0;
    for step in 1..=3 {
        spool.push_metrics(&key(), point(step));
        at = spool.next_after(at).unwrap().sequence;
    }
    // The second one's file cannot be written.
    let path = batch_path(&folder.path().join(FOLDER), 2);
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    spool.persist();
    assert!(!path.is_symlink(), "nothing is left of it");
    drop(spool);
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    let (mut at, mut seen, mut told) = (0, Vec::new(), 0);
    while let Some(batch) = spool.next_after(at) {
        at = batch.sequence;
        seen.extend(steps(&batch));
        told += batch.jobs[0].dropped;
    }
    assert_eq!((seen, told), (vec![1, 3], 1));
}

#[test]
fn values_left_out_upstream_are_told_even_when_nothing_follows() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    spool.count_dropped(&key(), 0);
    assert!(spool.is_empty());
    spool.count_dropped(&key(), 7);
    assert_eq!(spool.next_after(0).unwrap().jobs[0].dropped, 7);
}

#[test]
fn what_was_dropped_is_told_by_one_batch_alone() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    spool.count_dropped(&key(), 7);
    let first = spool.next_after(0).unwrap();
    spool.push_metrics(&key(), point(1));
    assert_eq!(spool.next_after(1).unwrap().jobs[0].dropped, 0);
    spool.count_dropped(&key(), 2);
    // The attempt's last end is acknowledged before the count has left.
    spool.forget_job(&key());
    assert_eq!(spool.next_after(2).unwrap().jobs[0].dropped, 2);
    assert_eq!(spool.next_after(0).unwrap(), first, "and again where it did not arrive");
}

#[tokio::test]
async fn waiting_for_arrival_ends_with_the_acknowledgement_or_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path(), Bounds::default()).unwrap();
    let within = Duration::from_millis(50);
    let began = Instant::now();
    spool.arrived(within).await;
    assert!(began.elapsed() < within, "nothing is on its way");

    spool.push_metrics(&key(), point(1));
    spool.arrived(within).await;
    assert!(began.elapsed() >= within, "nobody acknowledged");

    let began = Instant::now();
    let arrived = async {
        spool.arrived(Duration::from_secs(60)).await;
        began.elapsed()
    };
    let acknowledged = async {
        tokio::time::sleep(within).await;
        // What comes later does not prolong the wait.
        spool.push_metrics(&key(), point(2));
        spool.acknowledge(1);
    };
    let (took, ()) = tokio::join!(arrived, acknowledged);
    assert!(took >= within && took < Duration::from_secs(30), "{took:?}");
    assert!(!spool.is_empty());
}
