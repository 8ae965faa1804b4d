//! The newest batch that each worker has sent, so that what is told of a batch is told once. A stream
//! that broke sends again what was not acknowledged.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use proto::v1;

/// Workers that are remembered, more than are ever connected. Of one that was forgotten the first
/// batch that comes again counts again.
const MAX_WORKERS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Held for one look, never over an await.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    newest: HashMap<String, Newest>,
    looks: u64,
}

#[derive(Debug)]
struct Newest {
    /// The worker's incarnation, and the sequence in it.
    batch: (u64, u64),
    /// The look that found it.
    at: u64,
}

impl Seen {
    /// Whether this batch comes for the first time. Batches of one worker come in order.
    pub(super) fn is_new(&self, batch: &v1::BulkBatch) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.looks += 1;
        let (at, this) = (inner.looks, (batch.incarnation, batch.sequence));
        if let Some(newest) = inner.newest.get_mut(&batch.uuid) {
            newest.at = at;
            let is_new = this > newest.batch;
            newest.batch = newest.batch.max(this);
            return is_new;
        }
        if inner.newest.len() >= MAX_WORKERS {
            let oldest = inner.newest.iter().min_by_key(|(_, newest)| newest.at);
            if let Some(uuid) = oldest.map(|(uuid, _)| uuid.clone()) {
                inner.newest.remove(&uuid);
            }
        }
        inner.newest.insert(batch.uuid.clone(), Newest { batch: this, at });
        true
    }
}
