//! Why there is no NCCL communicator.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

/// What kept a rank from having NCCL.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NcclError {
    /// No library was found.
    #[error(
        "NCCL is not available: {}; set {}=/path/to/libnccl.so.2, or install it with \
         `make setup DEVICE=cuda`",
        SearchedList(searched),
        super::api::LIBRARY_VARIABLE
    )]
    Unavailable {
        /// Everything that was tried, in order.
        searched: Vec<Searched>,
    },
    /// The file is a library, but not a whole NCCL.
    #[error("`{library}` is not NCCL: it has no function `{function}`")]
    NotNccl {
        /// The library.
        library: String,
        /// What it lacks.
        function: &'static str,
    },
    /// The functions that are used came with 2.19.
    #[error("`{library}` is NCCL {version}; 2.19 or later is needed")]
    TooOld {
        /// The library.
        library: String,
        /// Its version.
        version: String,
    },
    /// A call was refused.
    #[error("NCCL: {what}: {reason}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the library says.
        reason: String,
    },
    /// The other ranks did not come.
    #[error("NCCL: {what}: not over after {after:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The deadline that passed.
        after: Duration,
    },
    /// Somebody ended it from outside.
    #[error("NCCL: {what}: aborted: {reason}")]
    Aborted {
        /// What was under way.
        what: &'static str,
        /// What was said.
        reason: String,
    },
    /// The configuration contradicts itself.
    #[error("NCCL: rank {rank} of a world of {world}")]
    NoSuchRank {
        /// The rank.
        rank: u32,
        /// The world.
        world: u32,
    },
    /// The operating system gave no thread.
    #[error("NCCL: start the thread that watches operations")]
    SpawnThread {
        /// The system's answer; shared, so that errors can be cloned.
        #[source]
        source: Arc<std::io::Error>,
    },
}

/// One place where NCCL was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// A path, or a name that the loader looks for.
    pub library: PathBuf,
    /// What the loader said.
    pub reason: String,
}

struct SearchedList<'a>(&'a [Searched]);

impl fmt::Display for SearchedList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Searched { library, reason }) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}`{}`: {reason}", library.display())?;
        }
        Ok(())
    }
}
