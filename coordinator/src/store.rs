//! The durable event log: batches of opaque payloads, numbered from 1, with snapshots beside it.
//! What `append` has answered survives kill -9 and a power cut (A14). Knows nothing of jobs.
//!
//! [`EventLog`] is the small interface behind which the engine (sled) can be replaced; [`open`]
//! guards the opening of what a crash may have left; [`Writer`] is the one thread that writes.
//!
//! sled 0.34.7's `flush` is no durable acknowledgement on Linux (it never syncs the file), opening
//! a torn store can destroy it, and it can roll back silently. Hence our own `fdatasync`, a copy
//! before an opening after a crash, snapshots and a watermark outside of it.

mod frame;
mod guard;
mod reading;
mod sled_log;
mod snapshot;
mod watermark;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub(crate) use self::guard::open;
pub(crate) use self::snapshot::{Place, Written};
pub(crate) use self::writer::Writer;

/// The version of the format that this build writes. It reads every older one. 2: jobs in groups and
/// after others, workers out of service; a build that does not know those would start jobs too early.
/// 3: elastic jobs, time limits, workers that are allowed again, snapshots in lines.
pub(crate) const FORMAT_VERSION: u16 = 3;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("store `{}` was written by a newer version (format {found}, this build reads up to {FORMAT_VERSION})", .folder.display())]
    Newer { folder: PathBuf, found: u16 },
    #[error("open store `{}`", .folder.display())]
    Open {
        folder: PathBuf,
        #[source]
        source: sled::Error,
    },
    #[error("open store `{}`: not done within {seconds} s", .folder.display())]
    OpenTimeout { folder: PathBuf, seconds: u64 },
    #[error("commit to the store")]
    Commit {
        #[source]
        source: sled::Error,
    },
    #[error("the store's engine panicked: {message}")]
    Panicked { message: String },
    #[error("write to the store's files")]
    Io(#[from] io::Error),
    #[error("the store has stopped after an earlier failure")]
    Stopped,
}

impl Error {
    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        let io = match self {
            Self::Newer { .. } => return Some("run the version that wrote it, or a newer one"),
            Self::Io(error) => error.kind(),
            Self::Commit { source: sled::Error::Io(error) }
            | Self::Open { source: sled::Error::Io(error), .. } => error.kind(),
            _ => return None,
        };
        (io == io::ErrorKind::StorageFull)
            .then_some("free space where --data-dir lies; what was acknowledged is safe")
    }
}

/// A log of events and the snapshot from which a replay starts.
pub(crate) trait EventLog: Send {
    /// Appends a batch, whole or not at all. Durable when this returns.
    fn append_batch(&mut self, payloads: &[Vec<u8>]) -> Result<(), Error>;

    /// Where the state after everything that was appended is to be written. That may take long and
    /// happens elsewhere, while more is appended.
    fn begin_snapshot(&self) -> Place;

    /// Takes a snapshot that was written; events before the oldest one that is kept may go.
    fn adopt_snapshot(&mut self, written: &Written) -> Result<(), Error>;

    /// Removes some of the events that may go; whether there are more.
    fn prune(&mut self) -> Result<bool, Error>;

    /// Writes down how far acknowledgements reach, outside of the engine.
    fn mark_acknowledged(&mut self) -> Result<(), Error>;

    /// Closes cleanly, so that the next opening needs no caution.
    fn close(self: Box<Self>) -> Result<(), Error>;
}

/// A store, open: its content, and what had to be mended.
pub(crate) struct Opened {
    pub(crate) log: Box<dyn EventLog>,
    /// The state from which the replay starts.
    pub(crate) snapshot: Option<Vec<u8>>,
    /// Events after the snapshot, in order.
    pub(crate) events: Vec<Vec<u8>>,
    /// Set when the store was damaged and what is here is the best that was left.
    pub(crate) recovery: Option<Recovery>,
}

/// What became of a damaged store. Told loudly: acknowledged events may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recovery {
    pub(crate) problem: String,
    /// Where the damaged store lies now; it is never deleted.
    pub(crate) moved_to: PathBuf,
    /// The last event that is left.
    pub(crate) last: u64,
    /// The last event that is known to have been acknowledged, if that was written down.
    pub(crate) acknowledged: Option<u64>,
}
