//! Who follows which job: a change wakes its own followers and nobody else, and says which logs it
//! touched, so that a follower of thousands of ranks looks at those alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use common::ids::JobId;

use crate::archive::places::LogKey;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<Mutex<HashMap<JobId, watch::Sender<Touched>>>>);

/// What has been written since the job was first followed.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Grows with every change.
    version: u64,
    /// The version at which each log was last written.
    logs: BTreeMap<LogKey, u64>,
}

/// A follower of one job.
#[derive(Debug)]
pub(crate) struct Follow {
    changes: watch::Receiver<Touched>,
    seen: u64,
}

impl Follow {
    /// Logs that were written since the last call. Call before reading them: a change after it
    /// wakes [`Follow::changed`].
    pub(crate) fn touched(&mut self) -> Vec<LogKey> {
        let touched = self.changes.borrow_and_update();
        let is_new = |(_, version): &(&LogKey, &u64)| **version > self.seen;
        let keys = touched.logs.iter().filter(is_new).map(|(key, _)| *key).collect();
        self.seen = touched.version;
        keys
    }

    /// Waits for a change after the last [`Follow::touched`]; false: the job was forgotten.
    /// Cancel-safe.
    pub(crate) async fn changed(&mut self) -> bool {
        // Seen is what `touched` returned, not that it changed.
        let changed = self.changes.wait_for(|touched| touched.version > self.seen).await;
        changed.is_ok()
    }
}

impl Changes {
    /// Guards the map for a look-up or an insertion, never over an await.
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<Touched>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn follow(&self, job_id: &JobId) -> Follow {
        let mut followed = self.lock();
        // What nobody follows any more goes when somebody comes.
        followed.retain(|_, sender| sender.receiver_count() > 0);
        let sender = followed.entry(job_id.clone()).or_default();
        let changes = sender.subscribe();
        let seen = changes.borrow().version;
        Follow { changes, seen }
    }

    pub(super) fn tell(&self, job_id: &JobId, logs: &BTreeSet<LogKey>) {
        if let Some(sender) = self.lock().get(job_id) {
            sender.send_modify(|touched| {
                touched.version += 1;
                let version = touched.version;
                touched.logs.extend(logs.iter().map(|key| (*key, version)));
            });
        }
    }

    pub(super) fn forget(&self, job_id: &JobId) {
        self.lock().remove(job_id);
    }
}
