use std::io::Write;
use std::path::Path;

use crate::store::guard::open_patiently;
use crate::store::tests::{append, check, crash, payload, put_snapshot, snapshots};
use crate::store::watermark::Watermark;
use crate::store::{Opened, open};

/// A store of 200 events with a snapshot after 100, left by a crash.
fn crashed(folder: &Path) {
    let mut opened = open(folder).unwrap();
    append(&mut opened.log, 0..100);
    put_snapshot(&mut opened.log, b"state of 100");
    append(&mut opened.log, 100..200);
    opened.log.mark_acknowledged().unwrap();
    crash(opened);
}

/// Whatever is left is a prefix of what was written, from the snapshot on.
fn check_prefix(opened: &Opened) -> usize {
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state of 100"[..]));
    for (number, event) in (100..).zip(&opened.events) {
        assert!(*event == payload(number), "event {number} is not what was written");
    }
    100 + opened.events.len()
}

fn db(folder: &Path) -> std::path::PathBuf {
    folder.join("sled/db")
}

/// Events that still follow after a recovery can be written and read again.
fn check_usable(folder: &Path, mut opened: Opened, left: usize) {
    append(&mut opened.log, left..left + 5);
    opened.log.close().unwrap();
    let again = open(folder).unwrap();
    assert_eq!(again.recovery, None);
    assert_eq!(check_prefix(&again), left + 5);
}

#[test]
fn a_torn_end_is_a_whole_store_or_a_loud_recovery() {
    for cut in [1, 100, 4096, 64 << 10] {
        let folder = tempfile::tempdir().unwrap();
        crashed(folder.path());
        let file = fs_err::OpenOptions::new().write(true).open(db(folder.path())).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len - cut).unwrap();
        let opened = open(folder.path()).unwrap();
        let left = check_prefix(&opened);
        assert!(left == 200 || opened.recovery.is_some(), "cut {cut}: {left} left in silence");
        check_usable(folder.path(), opened, left);
    }
}

#[test]
fn flipped_bytes_never_give_a_wrong_event_and_never_a_silent_loss() {
    for seed in 0..12_u64 {
        let folder = tempfile::tempdir().unwrap();
        crashed(folder.path());
        let mut bytes = fs_err::read(db(folder.path())).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).unwrap_or(0) + 1;
        let at = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % used as u64) as usize;
        bytes[at] ^= 0x55;
        fs_err::write(db(folder.path()), &bytes).unwrap();
        let opened = open(folder.path()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let left = check_prefix(&opened);
        assert!(left == 200 || opened.recovery.is_some(), "seed {seed}: {left} left in silence");
        check_usable(folder.path(), opened, left);
    }
}

#[test]
fn a_silent_roll_back_is_noticed_by_the_watermark() {
    let folder = tempfile::tempdir().unwrap();
    crashed(folder.path());
    let mut watermark = Watermark::open(folder.path()).unwrap();
    watermark.write(500).unwrap();
    let opened = open(folder.path()).unwrap();
    let recovery = opened.recovery.clone().unwrap();
    assert_eq!(recovery.problem, "rolled back to 200; 500 was acknowledged");
    assert_eq!((recovery.last, recovery.acknowledged), (200, Some(500)));
    assert!(recovery.moved_to.join("sled/db").exists(), "the old store is kept");
    assert_eq!(check_prefix(&opened), 200, "what is there is used");
    check_usable(folder.path(), opened, 200);
}

#[test]
fn a_store_that_is_gone_starts_from_the_newest_whole_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    crashed(folder.path());
    fs_err::write(db(folder.path()), b"garbage").unwrap();
    let opened = open(folder.path()).unwrap();
    assert!(opened.recovery.is_some());
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state of 100"[..]));
    assert!(opened.events.is_empty());
    check_usable(folder.path(), opened, 100);
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    crashed(folder.path());
    let mut opened = open(folder.path()).unwrap();
    put_snapshot(&mut opened.log, b"state of 200");
    append(&mut opened.log, 200..210);
    opened.log.close().unwrap();
    let newest = snapshots(folder.path()).pop().unwrap();
    let mut file = fs_err::OpenOptions::new().append(true).open(newest).unwrap();
    file.write_all(b"more").unwrap();
    drop(file);
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery, None, "its events are still there");
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state of 100"[..]));
    check(&opened, 100..210);
}

#[test]
fn a_snapshot_that_is_not_the_one_that_was_written_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    crashed(folder.path());
    let mut opened = open(folder.path()).unwrap();
    put_snapshot(&mut opened.log, b"state of 200");
    opened.log.close().unwrap();
    let all = snapshots(folder.path());
    fs_err::copy(&all[0], &all[1]).unwrap();
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state of 100"[..]));
    check(&opened, 100..200);
}

#[test]
fn a_loss_in_what_the_snapshot_holds_is_told_where_an_older_one_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path()).unwrap();
    append(&mut opened.log, 0..10);
    put_snapshot(&mut opened.log, b"state of 10");
    append(&mut opened.log, 10..20);
    put_snapshot(&mut opened.log, b"state of 20");
    append(&mut opened.log, 20..25);
    opened.log.close().unwrap();
    let log = open_patiently(folder.path()).unwrap();
    assert!(log.events().remove(15_u64.to_be_bytes()).unwrap().is_some());
    drop(log);

    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.recovery, None, "nothing that counts is gone");
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state of 20"[..]));
    check(&opened, 20..25);
    opened.log.close().unwrap();

    let newest = snapshots(folder.path()).pop().unwrap();
    fs_err::write(newest, b"garbage").unwrap();
    let opened = open(folder.path()).unwrap();
    let recovery = opened.recovery.clone().unwrap();
    assert_eq!(recovery.problem, "the event before 16 is missing");
    assert_eq!(opened.snapshot.as_deref(), Some(&b"state of 10"[..]));
    check(&opened, 10..14);
}
