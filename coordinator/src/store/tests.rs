//! Crashes, torn files, roll-backs, power cuts: what was acknowledged must be there, or the loss
//! must be told.

mod damage;
mod kill;
mod power_cut;

use std::path::Path;

use crate::store::guard::open_patiently;
use crate::store::snapshot::{Place, Written};
use crate::store::{Error, EventLog, Opened, frame, open};

fn payload(number: usize) -> Vec<u8> {
    format!("event {number} {}", "x".repeat(number % 300)).into_bytes()
}

fn append(log: &mut Box<dyn EventLog>, numbers: std::ops::Range<usize>) {
    for number in numbers {
        log.append_batch(&[payload(number)]).unwrap();
    }
}

/// As the writer does it, without its threads.
fn put_snapshot(log: &mut Box<dyn EventLog>, state: &[u8]) {
    let written = log.begin_snapshot().write(state).unwrap();
    log.adopt_snapshot(&written).unwrap();
    while log.prune().unwrap() {}
}

fn check(opened: &Opened, numbers: std::ops::Range<usize>) {
    let expected: Vec<Vec<u8>> = numbers.map(payload).collect();
    assert!(opened.events == expected, "{} events, not {}", opened.events.len(), expected.len());
}

/// Leaves as a crash does: no clean marker, no watermark.
fn crash(opened: Opened) {
    drop(opened);
}

#[test]
fn what_was_appended_is_there_after_a_clean_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    append(&mut opened.log, 0..50);
    opened.log.append_batch(&(50..80).map(payload).collect::<Vec<_>>()).unwrap();
    opened.log.close().unwrap();
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery, None);
    check(&opened, 0..80);
}

#[test]
fn what_was_appended_is_there_after_an_unclean_stop_and_the_copy_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    append(&mut opened.log, 0..50);
    crash(opened);
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery, None);
    check(&opened, 0..50);
    assert!(!folder.path().join("sled-before-open").exists());
}

/// Where threads read parts of the log, one part begins in the middle of an event.
#[test]
fn many_events_are_read_in_their_order_whatever_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    let mut payloads: Vec<Vec<u8>> = (0..2200).map(payload).collect();
    payloads.extend((0..41).map(|number| vec![number; 2 * frame::MAX_PIECE + 1]));
    payloads.extend((2200..4400).map(payload));
    for batch in payloads.chunks(500) {
        opened.log.append_batch(batch).unwrap();
    }
    crash(opened);
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery, None);
    assert!(opened.events == payloads);
}

#[test]
fn a_payload_of_any_size_is_one_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    let sizes = [0, 1, frame::MAX_PIECE - 1, frame::MAX_PIECE, frame::MAX_PIECE + 1, 1_000_000];
    let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
    opened.log.append_batch(&payloads).unwrap();
    crash(opened);
    let opened = open(folder.path()).unwrap();
    assert!(opened.events == payloads);
}

#[test]
fn a_replay_starts_at_the_snapshot_and_older_events_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    for round in 0..5 {
        append(&mut opened.log, round * 10..round * 10 + 10);
        put_snapshot(&mut opened.log, format!("after {round}").as_bytes());
    }
    append(&mut opened.log, 50..53);
    opened.log.close().unwrap();
    assert_eq!(snapshots(folder.path()).len(), 3);
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.snapshot.as_deref(), Some(&b"after 4"[..]));
    check(&opened, 50..53);
}

#[test]
fn pruning_that_a_crash_interrupted_is_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    for round in 0..5 {
        append(&mut opened.log, round * 10..round * 10 + 10);
        let written = opened.log.begin_snapshot().write(b"state").unwrap();
        opened.log.adopt_snapshot(&written).unwrap();
    }
    crash(opened);
    let mut opened = open(folder.path()).unwrap();
    while opened.log.prune().unwrap() {}
    crash(opened);
    let log = open_patiently(folder.path()).unwrap();
    assert_eq!(log.events().len(), 20, "what follows the oldest of three snapshots");
}

fn snapshots(folder: &Path) -> Vec<std::path::PathBuf> {
    let all = super::snapshot::list(folder).unwrap();
    all.into_iter().map(|(_, path)| path).collect()
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    append(&mut opened.log, 0..3);
    put_snapshot(&mut opened.log, b"state");
    opened.log.close().unwrap();
    // A snapshot as a later format would write it: whole, with its own checksum.
    let path = snapshots(folder.path()).pop().unwrap();
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[0] = 9;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..3]), &bytes[7..]);
    bytes[3..7].copy_from_slice(&crc.to_le_bytes());
    fs_err::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let error = open(folder.path()).err().unwrap();
        assert!(matches!(error, Error::Newer { found: 9, .. }), "{error}");
        assert!(path.exists() && folder.path().join("sled").exists());
    }
}

#[tokio::test]
async fn batches_that_wait_share_a_commit_and_all_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path()).unwrap();
    let writer = super::Writer::start(opened.log).unwrap();
    let appends = (0..10).map(|number| writer.append(vec![payload(number)]));
    for result in futures::future::join_all(appends).await {
        result.unwrap();
    }
    writer.snapshot(b"state".to_vec()).await.unwrap();
    writer.append(vec![payload(10)]).await.unwrap();
    writer.close().await.unwrap();
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state"[..]));
    check(&opened, 10..11);
}

#[tokio::test]
async fn appends_go_on_while_a_snapshot_is_made_and_come_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path()).unwrap();
    let writer = super::Writer::start(opened.log).unwrap();
    writer.append(vec![payload(0)]).await.unwrap();
    let (make, made) = std::sync::mpsc::channel();
    let end = writer.begin_snapshot(move || made.recv().unwrap()).unwrap();
    writer.append(vec![payload(1)]).await.unwrap();
    make.send(b"after 0".to_vec()).unwrap();
    end.await.unwrap().unwrap();
    writer.close().await.unwrap();
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.snapshot.as_deref(), Some(&b"after 0"[..]));
    check(&opened, 1..2);
}

/// Fails on demand, as a full disk does.
struct FullDisk;

impl EventLog for FullDisk {
    fn append_batch(&mut self, payloads: &[Vec<u8>]) -> Result<(), Error> {
        match payloads.len() {
            1 => Err(std::io::Error::from_raw_os_error(28).into()),
            _ => panic!("sled does panic"),
        }
    }

    fn begin_snapshot(&self) -> Place {
        Place { folder: std::path::PathBuf::new(), seq: 0 }
    }

    fn adopt_snapshot(&mut self, _: &Written) -> Result<(), Error> {
        Ok(())
    }

    fn prune(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    fn mark_acknowledged(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

#[tokio::test]
async fn after_a_failed_commit_nothing_more_is_acknowledged() {
    let writer = super::Writer::start(Box::new(FullDisk)).unwrap();
    let first = writer.append(vec![payload(0)]).await.unwrap_err();
    assert!(service::exit::chain(&first).contains("No space left"), "{first:?}");
    assert!(matches!(writer.append(vec![payload(1)]).await, Err(Error::Stopped)));
    assert!(matches!(writer.close().await, Err(Error::Stopped)));
    let writer = super::Writer::start(Box::new(FullDisk)).unwrap();
    let panicked = writer.append(vec![payload(0), payload(1)]).await.unwrap_err();
    assert!(matches!(panicked, Error::Panicked { .. }), "{panicked:?}");
}
