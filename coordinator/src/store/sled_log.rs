//! The event log on sled: tree `events` (number -> frame), tree `snap` (`head`, and which snapshot
//! files exist), one transaction over both per batch.

use std::path::{Path, PathBuf};

use fs_err as fs;
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sled::{Db, Tree};

use crate::store::snapshot::{Place, Written, proof};
use crate::store::watermark::Watermark;
use crate::store::{Error, EventLog, frame, snapshot};

/// sled's default is 1 GB; our live data is a few MB.
const CACHE_BYTES: u64 = 8 << 20;

/// Its thread also collects garbage; durability does not depend on it.
const BACKGROUND_FLUSH_MS: u64 = 500;

/// Events that go at once: an append that comes meanwhile waits for a few milliseconds.
const PRUNED_AT_ONCE: usize = 1000;

const HEAD: &[u8] = b"head";
const STATE: &str = "state/";

/// Set only by a clean stop, taken away before sled touches anything.
const CLEAN: &str = "clean";

pub(super) struct SledLog {
    /// Holds `sled/`, the snapshots, the watermark and the marker of a clean stop.
    folder: PathBuf,
    db: Db,
    events: Tree,
    snap: Tree,
    /// sled's data file, for our own fdatasync. Its name is private to sled; 0.34 is frozen.
    file: fs::File,
    watermark: Watermark,
    last: u64,
    /// Events up to this one may go.
    prunable: u64,
}

/// sled's own folder inside the store's.
pub(super) fn sled_folder(folder: &Path) -> PathBuf {
    folder.join("sled")
}

impl SledLog {
    /// Opens or creates sled. `last` is found later, by whoever has read the events.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let path = sled_folder(folder);
        let open_failed = |source| Error::Open { folder: folder.to_owned(), source };
        let db = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(BACKGROUND_FLUSH_MS))
            .open()
            .map_err(open_failed)?;
        let events = db.open_tree("events").map_err(open_failed)?;
        let snap = db.open_tree("snap").map_err(open_failed)?;
        db.flush().map_err(open_failed)?;
        let file = fs::OpenOptions::new().write(true).open(path.join("db"))?;
        file.sync_data()?;
        service::files::sync_folder(&path)?;
        service::files::sync_folder(folder)?;
        let watermark = Watermark::open(folder)?;
        snapshot::remove_partial(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            db,
            events,
            snap,
            file,
            watermark,
            last: 0,
            prunable: 0,
        })
    }

    pub(super) fn events(&self) -> &Tree {
        &self.events
    }

    /// The last number according to the second tree; 0: nothing was ever written.
    pub(super) fn head(&self) -> Result<Option<u64>, Error> {
        let head = self.snap.get(HEAD).map_err(|source| Error::Commit { source })?;
        let Some(head) = head else { return Ok(Some(0)) };
        Ok(head.as_ref().try_into().ok().map(u64::from_be_bytes))
    }

    pub(super) fn set_last(&mut self, last: u64) {
        self.last = last;
    }

    /// Up to which event pruning may go, which a crash may have interrupted.
    pub(super) fn set_prunable(&mut self, oldest: u64) {
        self.prunable = oldest;
    }

    /// Whether a snapshot file is the one that was written. After a recovery the engine knows none
    /// of the older ones; then a file's own checksum must do.
    pub(super) fn knows_snapshot(&self, seq: u64, state: &[u8]) -> bool {
        let known = self.snap.get(state_key(seq)).ok().flatten();
        known.is_none_or(|known| known.as_ref() == proof(state))
    }

    /// Starts a new, empty log whose next event is `last + 1`.
    pub(super) fn begin_after(&mut self, last: u64) -> Result<(), Error> {
        self.last = last;
        self.append_frames(&[])?;
        self.watermark.write(last)?;
        Ok(())
    }

    /// sled's flush moves its buffers to the file; only the sync makes them durable.
    fn sync(&self) -> Result<(), Error> {
        self.db.flush().map_err(|source| Error::Commit { source })?;
        self.file.sync_data()?;
        Ok(())
    }

    fn append_frames(&mut self, frames: &[Vec<u8>]) -> Result<(), Error> {
        let first = self.last + 1;
        let last = self.last + frames.len() as u64;
        let result = (&self.events, &self.snap).transaction(|(events, snap)| {
            for (number, frame) in (first..).zip(frames) {
                events.insert(&number.to_be_bytes(), frame.as_slice())?;
            }
            snap.insert(HEAD, &last.to_be_bytes())?;
            Ok::<_, ConflictableTransactionError<std::convert::Infallible>>(())
        });
        match result {
            Ok(()) => {}
            Err(TransactionError::Storage(source)) => return Err(Error::Commit { source }),
            Err(TransactionError::Abort(never)) => match never {},
        }
        self.sync()?;
        self.last = last;
        Ok(())
    }

    /// Forgets how to tell snapshots that are gone.
    fn forget_snapshots(&self) -> Result<(), Error> {
        let failed = |source| Error::Commit { source };
        let mut batch = sled::Batch::default();
        for key in self.snap.scan_prefix(STATE).keys() {
            let key = key.map_err(failed)?;
            if key.as_ref() < state_key(self.prunable).as_bytes() {
                batch.remove(key);
            }
        }
        self.snap.apply_batch(batch).map_err(failed)
    }
}

fn state_key(seq: u64) -> String {
    format!("{STATE}{seq:020}")
}

impl EventLog for SledLog {
    fn append_batch(&mut self, payloads: &[Vec<u8>]) -> Result<(), Error> {
        let frames: Vec<Vec<u8>> = payloads.iter().flat_map(|p| frame::encode(p)).collect();
        self.append_frames(&frames)
    }

    fn begin_snapshot(&self) -> Place {
        Place { folder: self.folder.clone(), seq: self.last }
    }

    fn adopt_snapshot(&mut self, written: &Written) -> Result<(), Error> {
        let Written { seq, proof, oldest } = written;
        // sled only remembers which snapshot there is and how to tell it: a large value would
        // leave its crash-tested path.
        let known = self.snap.insert(state_key(*seq), proof.as_slice());
        known.map_err(|source| Error::Commit { source })?;
        self.prunable = *oldest;
        self.forget_snapshots()?;
        self.sync()?;
        self.mark_acknowledged()
    }

    fn prune(&mut self) -> Result<bool, Error> {
        let failed = |source| Error::Commit { source };
        let mut batch = sled::Batch::default();
        let mut count = 0;
        let keys = self.events.range(..=self.prunable.to_be_bytes()).keys();
        for key in keys.take(PRUNED_AT_ONCE) {
            batch.remove(key.map_err(failed)?);
            count += 1;
        }
        self.events.apply_batch(batch).map_err(failed)?;
        Ok(count == PRUNED_AT_ONCE)
    }

    fn mark_acknowledged(&mut self) -> Result<(), Error> {
        Ok(self.watermark.write(self.last)?)
    }

    fn close(mut self: Box<Self>) -> Result<(), Error> {
        self.mark_acknowledged()?;
        self.sync()?;
        let folder = self.folder.clone();
        drop(self);
        service::files::replace(&folder.join(CLEAN), b"")?;
        Ok(())
    }
}

/// Takes the marker of a clean stop away; whether it was there.
pub(super) fn take_clean_marker(folder: &Path) -> std::io::Result<bool> {
    match fs::remove_file(folder.join(CLEAN)) {
        Ok(()) => {
            service::files::sync_folder(folder)?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
