//! Opening with suspicion: a copy first when the last stop was not clean, panics and hangs caught,
//! every record that counts checked. What fails the checks is moved aside, never deleted, and the
//! best that is left starts a new store.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

use crate::store::frame;
use crate::store::reading::{Salvaged, read_events};
use crate::store::sled_log::{self, SledLog, sled_folder, take_clean_marker};
use crate::store::snapshot::{self, Newest, Snapshot};
use crate::store::watermark::Watermark;
use crate::store::{Error, EventLog, Opened, Recovery};

/// A million events open in 0.2 s; longer than this is a hang.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// After a close in the same process sled's lock may linger for a moment.
const LOCK_RETRY_FOR: Duration = Duration::from_secs(3);
const LOCK_RETRY_EVERY: Duration = Duration::from_millis(20);

/// The copy of sled's folder that is made before a risky opening.
const COPY: &str = "sled-before-open";

/// What an opening gave.
enum Outcome {
    Whole { log: SledLog, snapshot: Option<Snapshot>, events: Vec<Vec<u8>> },
    Damaged { problem: String, snapshot: Option<Snapshot>, salvaged: Salvaged },
}

/// Opens the store in `folder`, or creates it. Blocking.
pub(crate) fn open(folder: &Path) -> Result<Opened, Error> {
    fs::create_dir_all(folder)?;
    // Tokens of attempts and the environments of jobs are in it.
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    if let Some(parent) = folder.parent() {
        service::files::sync_folder(parent)?;
    }
    let sled_at = sled_folder(folder);
    let was_clean = take_clean_marker(folder)?;
    let copy = folder.join(COPY);
    if sled_at.exists() && !was_clean {
        // A copy that is still here belongs to an opening that did not end: it is nearer to the
        // truth than what that opening left.
        if !copy.exists() {
            copy_folder(&sled_at, &copy)?;
        }
    }
    match open_with_timeout(folder)? {
        Outcome::Whole { mut log, snapshot, events } => {
            if copy.exists() {
                fs::remove_dir_all(&copy)?;
            }
            log.mark_acknowledged()?;
            let snapshot = snapshot.map(|s| s.state);
            Ok(Opened { log: Box::new(log), snapshot, events, recovery: None })
        }
        Outcome::Damaged { problem, snapshot, salvaged } => {
            recover(folder, problem, snapshot, salvaged)
        }
    }
}

/// sled can panic, and other versions of it hang, on what a crash has left.
fn open_with_timeout(folder: &Path) -> Result<Outcome, Error> {
    let (done, opened) = mpsc::sync_channel(1);
    let path = folder.to_owned();
    let opening = thread::Builder::new().name("store-open".to_owned());
    opening.spawn(move || {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| open_and_check(&path)));
        // Nobody waits any more after the time-out.
        let _ = done.send(outcome);
    })?;
    match opened.recv_timeout(OPEN_TIMEOUT) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(payload)) => {
            let message = service::telemetry::panic_message(payload.as_ref());
            let problem = format!("the engine panicked while opening: {message}");
            let snapshot = any_snapshot(folder)?;
            Ok(Outcome::Damaged { problem, snapshot, salvaged: Vec::new() })
        }
        Err(_) => {
            Err(Error::OpenTimeout { folder: folder.to_owned(), seconds: OPEN_TIMEOUT.as_secs() })
        }
    }
}

fn open_and_check(folder: &Path) -> Result<Outcome, Error> {
    let acknowledged = Watermark::read(folder)?;
    let damaged = |problem: String, salvaged: Salvaged| {
        let snapshot = any_snapshot(folder)?;
        Ok(Outcome::Damaged { problem, snapshot, salvaged })
    };
    let mut log = match open_patiently(folder) {
        Ok(log) => log,
        Err(Error::Open { source: source @ sled::Error::Corruption { .. }, .. }) => {
            return damaged(source.to_string(), Vec::new());
        }
        Err(error) => return Err(error),
    };
    let head = log.head()?;
    let known = |seq, state: &[u8]| log.knows_snapshot(seq, state);
    let snapshot = usable(folder, snapshot::newest(folder, head.unwrap_or(u64::MAX), known)?)?;
    // What the snapshot holds is not read again: it may be most of the log.
    let start = snapshot.as_ref().map_or(0, |s| s.seq);
    let (events, problem) = read_events(folder, log.events(), start)?;
    let first = events.first().map(|(seq, event)| seq - pieces(event) + 1);
    let last = events.last().map(|(seq, _)| *seq);
    if let Some(problem) = problem {
        return damaged(problem, events);
    }
    let Some(head) = head else {
        return damaged("the head record is malformed".to_owned(), events);
    };
    // Without events the head stands for what the snapshot holds.
    let last = last.unwrap_or(head);
    if last != head {
        return damaged(format!("events end at {last}, the head says {head}"), events);
    }
    if let Some(acknowledged) = acknowledged.filter(|a| *a > last) {
        let problem = format!("rolled back to {last}; {acknowledged} was acknowledged");
        return damaged(problem, events);
    }
    if let Some((seq, _)) = snapshot::list(folder)?.pop().filter(|(seq, _)| *seq > last) {
        return damaged(format!("rolled back to {last}; a snapshot of {seq} exists"), events);
    }
    if start < last && first.is_none_or(|first| first > start + 1) {
        return damaged(format!("events from {} are missing", start + 1), events);
    }
    log.set_last(last);
    if let Some((oldest, _)) = snapshot::list(folder)?.first() {
        log.set_prunable(start.min(*oldest));
    }
    let events = after(events, start);
    Ok(Outcome::Whole { log, snapshot, events })
}

/// The engine lets go of its lock a moment after it is dropped.
pub(super) fn open_patiently(folder: &Path) -> Result<SledLog, Error> {
    let tries = LOCK_RETRY_FOR.as_millis() / LOCK_RETRY_EVERY.as_millis();
    for _ in 0..tries {
        match SledLog::open(folder) {
            Err(Error::Open { source: sled::Error::Io(error), .. })
                if error.to_string().contains("could not acquire lock") =>
            {
                thread::sleep(LOCK_RETRY_EVERY);
            }
            result => return result,
        }
    }
    SledLog::open(folder)
}

/// Values that an event takes.
fn pieces(event: &[u8]) -> u64 {
    event.len().div_ceil(frame::MAX_PIECE).max(1) as u64
}

fn after(events: Salvaged, start: u64) -> Vec<Vec<u8>> {
    events.into_iter().filter(|(seq, _)| *seq > start).map(|(_, event)| event).collect()
}

/// The newest whole snapshot, when there is no engine to ask about it.
fn any_snapshot(folder: &Path) -> Result<Option<Snapshot>, Error> {
    usable(folder, snapshot::newest(folder, u64::MAX, |_, _| true)?)
}

fn usable(folder: &Path, newest: Newest) -> Result<Option<Snapshot>, Error> {
    match newest {
        Newest::Found(snapshot) => Ok(Some(snapshot)),
        Newest::None => Ok(None),
        Newest::Newer(found) => Err(Error::Newer { folder: folder.to_owned(), found }),
    }
}

/// Moves the damaged store aside and starts a new one from the newest snapshot and the whole events
/// that follow it.
fn recover(
    folder: &Path,
    problem: String,
    snapshot: Option<Snapshot>,
    salvaged: Salvaged,
) -> Result<Opened, Error> {
    let moved_to = move_aside(folder)?;
    let acknowledged = Watermark::read(folder)?;
    let start = snapshot.as_ref().map_or(0, |s| s.seq);
    let follows = salvaged.first().is_some_and(|(seq, event)| seq - pieces(event) <= start);
    let events = if follows { after(salvaged, start) } else { Vec::new() };
    let mut log = open_patiently(folder)?;
    log.begin_after(start)?;
    if !events.is_empty() {
        log.append_batch(&events)?;
        log.mark_acknowledged()?;
    }
    let last = start + events.iter().map(|event| pieces(event)).sum::<u64>();
    let recovery = Some(Recovery { problem, moved_to, last, acknowledged });
    let snapshot = snapshot.map(|s| s.state);
    Ok(Opened { log: Box::new(log), snapshot, events, recovery })
}

fn move_aside(folder: &Path) -> Result<PathBuf, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let aside = folder.join(format!("damaged-{now}"));
    fs::create_dir(&aside)?;
    for (from, name) in [(sled_log::sled_folder(folder), "sled"), (folder.join(COPY), COPY)] {
        if from.exists() {
            fs::rename(&from, aside.join(name))?;
        }
    }
    for (seq, path) in snapshot::list(folder)? {
        // Copies: the newest is still in use.
        fs::copy(&path, aside.join(format!("snapshot-{seq:020}.bin")))?;
    }
    service::files::sync_folder(folder)?;
    Ok(aside)
}

/// sled's folder is flat but for `blobs/`.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    let partial = to.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    copy_tree(from, &partial)?;
    fs::rename(&partial, to)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
