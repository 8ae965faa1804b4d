use std::collections::BTreeMap;

use prost::Message;

use proto::v1;

use super::journal::{Journal, Mark};
use super::{
    Archive, Changes, Histories, Kept, LOG_SEGMENT_BYTES, LOG_SEGMENTS, LogKey, OLD_LOG_BYTES,
    Reader, Thread, Written, thin,
};

fn mark(sequence: u64) -> Mark {
    Mark { life: ("worker".to_owned(), 1), sequence }
}

fn entry(sequence: u64, points: std::ops::Range<u64>) -> v1::BulkBatch {
    let point =
        |step| v1::MetricPoint { step, samples: step, value: 0.5, time_ms: 1_000_000 + step };
    let series = v1::MetricSeries {
        name: "train/loss".to_owned(),
        points: points.map(point).collect(),
        ..Default::default()
    };
    v1::BulkBatch {
        sequence,
        jobs: vec![v1::JobBulk { metrics: vec![series], ..Default::default() }],
        uuid: "worker".to_owned(),
        incarnation: 1,
    }
}

fn append(journal: &mut Journal, entry: &v1::BulkBatch) -> bool {
    journal.append(&mark(entry.sequence), &entry.encode_to_vec()).unwrap()
}

fn steps(reader: &mut Reader) -> Vec<u64> {
    let mut steps = Vec::new();
    loop {
        let entries = reader.next().unwrap();
        if entries.is_empty() {
            return steps;
        }
        let series = entries.into_iter().flat_map(|e| e.jobs).flat_map(|j| j.metrics);
        steps.extend(series.flat_map(|s| s.points).map(|p| p.step));
    }
}

#[test]
fn an_entry_that_a_crash_cut_is_gone_and_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let whole: u64 = {
        let mut journal = Journal::open(folder.path()).unwrap();
        (1..=3).for_each(|n| assert!(append(&mut journal, &entry(n, n..n + 1))));
        journal.sync().unwrap();
        journal.len()
    };
    let path = folder.path().join("00000001.bin");
    let last = entry(3, 3..4).encode_to_vec().len() as u64 + 8;
    for cut in 1..last {
        let copy = tempfile::tempdir().unwrap();
        fs_err::copy(&path, copy.path().join("00000001.bin")).unwrap();
        let file =
            fs_err::OpenOptions::new().write(true).open(copy.path().join("00000001.bin")).unwrap();
        file.set_len(whole - cut).unwrap();
        let mut journal = Journal::open(copy.path()).unwrap();
        assert!(!append(&mut journal, &entry(2, 2..3)), "it is there");
        assert!(append(&mut journal, &entry(3, 3..4)), "it was cut by {cut}");
        journal.sync().unwrap();
        assert_eq!(steps(&mut Reader::new(copy.path().to_owned())), [1, 2, 3]);
    }
}

#[test]
fn a_log_keeps_its_tail_and_a_reader_behind_it_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    let mut reader = Reader::new(folder.path().to_owned());
    append(&mut journal, &entry(1, 1..2));
    assert_eq!(steps(&mut reader), [1]);
    let mut sequence = 1;
    while sequence < 400 {
        sequence += 1;
        append(&mut journal, &entry(sequence, sequence * 1000..sequence * 1000 + 300));
        journal.keep_tail(LOG_SEGMENT_BYTES, LOG_SEGMENTS).unwrap();
        assert!(journal.len() < LOG_SEGMENT_BYTES * (LOG_SEGMENTS as u64 + 1));
    }
    journal.sync().unwrap();
    let seen = steps(&mut reader);
    assert!(seen[0] > 2000, "the oldest are gone");
    assert_eq!(seen.last(), Some(&400_299));
    let mut again = Journal::open(folder.path()).unwrap();
    assert!(!append(&mut again, &entry(400, 0..1)), "what it holds is known after a restart");
}

#[test]
fn thinning_halves_long_series_keeps_short_ones_and_forgets_no_mark() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    (0..40).for_each(|n| assert!(append(&mut journal, &entry(n + 1, n * 100..n * 100 + 100))));
    let mut short = entry(41, 7..8);
    short.jobs[0].metrics[0].name = "val/loss".to_owned();
    append(&mut journal, &short);
    let mut reader = Reader::new(folder.path().to_owned());
    journal.sync().unwrap();
    assert_eq!(reader.next().unwrap().len(), 41);
    let before = journal.len();
    thin::thin(&mut journal).unwrap();
    assert!(journal.len() < before * 6 / 10);
    let left = steps(&mut Reader::new(folder.path().to_owned()));
    let mut expected: Vec<u64> = (0..4000).step_by(2).collect();
    expected.push(3999);
    expected.push(7);
    assert_eq!(left, expected);
    let mut again = Journal::open(folder.path()).unwrap();
    assert!(!append(&mut again, &entry(41, 0..1)));
    assert!(append(&mut again, &entry(42, 4000..4001)));
    again.sync().unwrap();
    assert_eq!(steps(&mut reader).last(), Some(&4000), "a reader goes on in the thinned file");
}

#[tokio::test]
async fn a_forgotten_job_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::start(folder.path()).unwrap();
    let job_id: common::ids::JobId = "job-000000".parse().unwrap();
    let mut batch = entry(1, 1..2);
    batch.jobs[0].job_id = job_id.to_string();
    archive.keep(batch.clone()).await.unwrap();
    assert_eq!(steps(&mut archive.metrics(&job_id)), [1]);
    archive.forget(&job_id);
    // Served in order: when this is kept, the forgetting is done.
    batch.jobs[0].job_id = "other-000000".to_owned();
    archive.keep(batch).await.unwrap();
    assert!(!folder.path().join("metrics/job-000000").exists());
}

#[tokio::test]
async fn what_is_left_of_jobs_that_nobody_knows_goes_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["metrics/gone-000000", "logs/lost-000000", "logs/job-000000", "logs/No job"];
    for name in names {
        fs_err::create_dir_all(folder.path().join(name)).unwrap();
    }
    let archive = Archive::start(folder.path()).unwrap();
    archive.sweep(["job-000000".parse().unwrap()].into());
    // Served in order: when this is kept, the sweep is done.
    let mut batch = entry(1, 1..2);
    batch.jobs[0].job_id = "other-000000".to_owned();
    archive.keep(batch).await.unwrap();
    let left: Vec<_> = names.iter().filter(|name| folder.path().join(name).exists()).collect();
    assert_eq!(left, [&"logs/job-000000", &"logs/No job"]);
}

#[tokio::test]
async fn a_job_that_is_forgotten_while_the_archive_is_busy_goes_too() {
    let (requests, mut waiting) = tokio::sync::mpsc::channel(1);
    let folder = std::sync::Arc::from(std::path::Path::new("/nowhere"));
    let archive = Archive { requests, changes: Changes::default(), folder };
    for job in ["a-000000", "b-000000", "c-000000"] {
        archive.forget(&job.parse().unwrap());
    }
    for expected in ["a-000000", "b-000000", "c-000000"] {
        match waiting.recv().await {
            Some(super::Request::Forget(job_id)) => assert_eq!(job_id.as_str(), expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_a_failed_sync_may_have_lost_is_not_acknowledged_when_it_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::start(folder.path()).unwrap();
    let job_id: common::ids::JobId = "job-000000".parse().unwrap();
    let batch_of = |sequence| {
        let mut batch = entry(sequence, sequence..sequence + 1);
        batch.jobs[0].job_id = job_id.to_string();
        batch
    };
    // Takes every byte and cannot be synced, as a disk that fails.
    let segment = folder.path().join("metrics/job-000000/00000001.bin");
    fs_err::create_dir_all(segment.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/null", &segment).unwrap();
    for _ in 0..2 {
        assert!(archive.keep(batch_of(1)).await.is_err(), "it is nowhere");
    }
    // The disk is back.
    fs_err::remove_file(&segment).unwrap();
    fs_err::write(&segment, "").unwrap();
    for sequence in [1, 2] {
        let kept = archive.keep(batch_of(sequence)).await.unwrap();
        assert_eq!(kept, Kept { points: 1, lines: 0 });
    }
    assert_eq!(steps(&mut archive.metrics(&job_id)), [1, 2]);
}

#[test]
fn steps_that_a_later_attempt_makes_again_are_told_once() {
    let of_attempt = |generation, points: std::ops::Range<u64>| {
        let mut job = entry(1, points).jobs.remove(0);
        job.generation = generation;
        job
    };
    // Attempt 2 continued after step 4, attempt 3 after step 6, attempt 4 after step 2.
    let jobs = [(1, 1..8), (2, 5..7), (3, 7..10)].map(|(n, points)| of_attempt(n, points));
    let told = |jobs: &[v1::JobBulk]| {
        let mut histories = Histories::default();
        jobs.iter().for_each(|job| histories.see(job));
        let mut jobs = jobs.to_vec();
        jobs.iter_mut().for_each(|job| histories.cut(job));
        let series = jobs.into_iter().flat_map(|job| job.metrics);
        series.flat_map(|s| s.points).map(|point| point.step).collect::<Vec<_>>()
    };
    assert_eq!(told(&jobs), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let back = [jobs.to_vec(), vec![of_attempt(4, 3..5)]].concat();
    assert_eq!(told(&back), [1, 2, 3, 4]);
}

fn log_batch(sequence: u64, generation: u64, line: &str, count: usize) -> v1::BulkBatch {
    let line = v1::LogLine { time_ms: sequence, text: line.to_owned(), stderr: false };
    let logs = v1::LogLines { rank: 3, lines: vec![line; count], ..Default::default() };
    v1::BulkBatch {
        sequence,
        jobs: vec![v1::JobBulk {
            job_id: "job-000000".to_owned(),
            generation,
            logs: vec![logs],
            ..Default::default()
        }],
        uuid: "worker".to_owned(),
        incarnation: 1,
    }
}

fn numbers(mut reader: Reader) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let entries = reader.next().unwrap();
        if entries.is_empty() {
            return numbers;
        }
        let logs = entries.into_iter().flat_map(|e| e.jobs).flat_map(|j| j.logs);
        numbers.extend(logs.flat_map(|l| l.first..l.first + l.lines.len() as u64));
    }
}

#[tokio::test]
async fn of_earlier_attempts_the_tails_stay_and_of_many_the_first_and_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::start(folder.path()).unwrap();
    let job_id: common::ids::JobId = "job-000000".parse().unwrap();
    let line = "x".repeat(1000);
    let mut sequence = 0;
    for generation in 1..=20 {
        for _ in 0..4 {
            sequence += 1;
            archive.keep(log_batch(sequence, generation, &line, 50)).await.unwrap();
        }
    }
    let keys = archive.logs(&job_id).unwrap();
    let kept: Vec<u64> = keys.iter().map(|key| key.generation).collect();
    let expected: Vec<u64> = [1].into_iter().chain(6..=20).collect();
    assert_eq!(kept, expected, "sixteen attempts");
    assert!(keys.iter().all(|key| key.rank == 3));
    let of = |generation| numbers(archive.log(&job_id, LogKey { generation, rank: 3 }));
    assert_eq!(of(20), (0..200).collect::<Vec<_>>(), "the running attempt is whole");
    assert_eq!(of(1), (100..200).collect::<Vec<_>>(), "at least 64 KiB, with their numbers");
    // What comes late of an attempt that is gone is dropped, and the stream goes on.
    let late = archive.keep(log_batch(901, 3, "late", 1)).await.unwrap();
    assert_eq!(late, Kept::default());
    assert_eq!(archive.logs(&job_id).unwrap(), keys);
    // Lines that come late still find their place, also after a restart.
    drop(archive);
    let archive = Archive::start(folder.path()).unwrap();
    archive.keep(log_batch(1000, 1, "late", 1)).await.unwrap();
    let last = numbers(archive.log(&job_id, LogKey { generation: 1, rank: 3 })).pop();
    assert_eq!(last, Some(200));
}

#[tokio::test]
async fn an_old_log_is_written_anew_once_however_many_attempts_follow() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::start(folder.path()).unwrap();
    let line = "x".repeat(1000);
    let segments = || super::journal::indices(&folder.path().join("logs/job-000000/rank-3"));
    for sequence in 1..=4 {
        archive.keep(log_batch(sequence, 1, &line, 50)).await.unwrap();
    }
    assert_eq!(segments().unwrap(), [1]);
    for generation in 2..=6 {
        archive.keep(log_batch(3 + generation, generation, &line, 50)).await.unwrap();
        assert_eq!(segments().unwrap(), [2], "attempt {generation}");
    }
    let mut journal = Journal::open(&folder.path().join("logs/job-000000/rank-3")).unwrap();
    journal.cut_to_tail(OLD_LOG_BYTES).unwrap();
    assert_eq!(segments().unwrap(), [2], "nor when it is asked for");
}

#[test]
fn journals_that_were_not_used_for_long_are_closed_first() {
    let folder = tempfile::tempdir().unwrap();
    let changes = Changes::default();
    let data = folder.path().into();
    let mut thread = Thread { folder: data, journals: BTreeMap::new(), group: 0, changes };
    for job in ["z-000000", "y-000000", "a-000000"] {
        thread.group += 1;
        let mut batch = entry(1, 1..2);
        batch.jobs[0].job_id = job.to_owned();
        thread.write(batch, &mut Written::default()).unwrap();
    }
    thread.close_older_half();
    let open: Vec<_> = thread.journals.keys().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(open, ["a-000000"]);
}

#[tokio::test]
async fn one_batch_with_two_attempts_of_a_job_is_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::start(folder.path()).unwrap();
    let job_id: common::ids::JobId = "job-000000".parse().unwrap();
    let mut batch = entry(1, 1..3);
    batch.jobs[0].job_id = job_id.to_string();
    let mut second = entry(1, 3..5).jobs.remove(0);
    second.job_id = job_id.to_string();
    second.generation = 2;
    batch.jobs.push(second);
    let mut follow = archive.follow(&job_id);
    let kept = archive.keep(batch.clone()).await.unwrap();
    assert_eq!(kept, Kept { points: 4, lines: 0 });
    assert_eq!(archive.keep(batch).await.unwrap(), Kept::default(), "it adds nothing again");
    assert!(follow.changed().await);
    assert_eq!(follow.touched(), []);
    assert_eq!(steps(&mut archive.metrics(&job_id)), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_follower_is_woken_by_its_own_job_alone() {
    let folder = tempfile::tempdir().unwrap();
    let archive = Archive::start(folder.path()).unwrap();
    let mut other = archive.follow(&"other-000000".parse().unwrap());
    let mut follow = archive.follow(&"job-000000".parse().unwrap());
    archive.keep(log_batch(1, 1, "line", 1)).await.unwrap();
    assert!(follow.changed().await);
    assert_eq!(follow.touched(), [LogKey { generation: 1, rank: 3 }]);
    assert_eq!(follow.touched(), [], "told once");
    let waits = std::time::Duration::ZERO;
    assert!(tokio::time::timeout(waits, other.changed()).await.is_err());
}

#[test]
fn a_file_of_many_short_series_is_thinned_too_and_not_for_every_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(folder.path()).unwrap();
    let of_ranks = |sequence: u64| {
        let mut batch = entry(sequence, sequence..sequence + 1);
        let series = batch.jobs[0].metrics[0].clone();
        let of = |rank| v1::MetricSeries { rank, ..series.clone() };
        batch.jobs[0].metrics = (0..500).map(of).collect();
        batch
    };
    (1..=20).for_each(|sequence| assert!(append(&mut journal, &of_ranks(sequence))));
    let before = journal.len();
    thin::thin(&mut journal).unwrap();
    assert!(journal.len() < before * 6 / 10, "{} of {before}", journal.len());
    let limit = journal.len() - 1;
    assert!(!journal.has_outgrown(limit), "it was only just made smaller");
    (21..=40).for_each(|sequence| assert!(append(&mut journal, &of_ranks(sequence))));
    assert!(journal.has_outgrown(limit));
    assert!(!journal.has_outgrown(journal.len()), "and only beyond the limit");
}
