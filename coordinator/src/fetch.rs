//! Brings together who asked for files with the worker that sends them. Each fetch has an id that
//! nobody can guess; chunks wait in a bounded queue, so a slow caller slows its worker, nothing
//! else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tonic::Status;

use proto::v1;

/// Chunks in flight per fetch; each is at most a message.
const QUEUE: usize = 8;

/// What a worker sends in answer to a fetch. A queue that ends without `Done` broke off.
#[derive(Debug)]
pub(crate) enum Part {
    Chunk(v1::FileChunk),
    Failed(Status),
    Done,
}

/// The fetches that wait for their worker; cheap to clone. The lock is held for a look-up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetches {
    waiting: Arc<Mutex<HashMap<String, mpsc::Sender<Part>>>>,
}

/// A fetch that was begun; dropping it makes the worker's sending fail.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) id: String,
    pub(crate) parts: mpsc::Receiver<Part>,
    fetches: Fetches,
}

impl Fetches {
    pub(crate) fn begin(&self) -> Fetch {
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, parts) = mpsc::channel(QUEUE);
        self.lock().insert(id.clone(), sender);
        Fetch { id, parts, fetches: self.clone() }
    }

    /// The queue of a fetch, for the one worker that answers it.
    pub(crate) fn take(&self, id: &str) -> Option<mpsc::Sender<Part>> {
        self.lock().remove(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<Part>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.fetches.take(&self.id);
    }
}
