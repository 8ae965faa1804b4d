//! What readers see: published by the control loop after every batch, read by any number of
//! clients without asking it. A slow client misses steps in between, never the newest state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

use common::ids::JobId;
use common::status::{CheckpointRow, JobRow, JobState, JobStatus, WorkerRow};

/// Shared by the loop (the only writer) and the front. Locks are held for a look-up or an
/// assignment, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Views {
    jobs: RwLock<BTreeMap<JobId, JobView>>,
    workers: RwLock<Vec<WorkerRow>>,
}

#[derive(Debug)]
struct JobView {
    status: watch::Sender<Arc<JobStatus>>,
    checkpoints: Vec<CheckpointRow>,
}

impl Views {
    pub(crate) fn publish(&self, status: JobStatus, checkpoints: &[CheckpointRow]) {
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        match jobs.get_mut(&status.row.job_id) {
            Some(view) => {
                if view.checkpoints != checkpoints {
                    view.checkpoints = checkpoints.to_vec();
                }
                view.status.send_replace(Arc::new(status));
            }
            None => {
                let job_id = status.row.job_id.clone();
                let status = watch::Sender::new(Arc::new(status));
                jobs.insert(job_id, JobView { status, checkpoints: checkpoints.to_vec() });
            }
        }
    }

    pub(crate) fn publish_workers(&self, rows: Vec<WorkerRow>) {
        *self.workers.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    pub(crate) fn forget(&self, job_id: &JobId) {
        self.jobs.write().unwrap_or_else(PoisonError::into_inner).remove(job_id);
    }

    /// Every job, in the order of submission.
    pub(crate) fn rows(&self) -> Vec<JobRow> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<JobRow> =
            jobs.values().map(|view| view.status.borrow().row.clone()).collect();
        rows.sort_by(|a, b| (a.submitted_at, &a.job_id).cmp(&(b.submitted_at, &b.job_id)));
        rows
    }

    /// How many jobs are in each state.
    pub(crate) fn states(&self) -> HashMap<JobState, u64> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts = HashMap::new();
        for view in jobs.values() {
            *counts.entry(view.status.borrow().row.state).or_default() += 1;
        }
        counts
    }

    /// The newest status of a job and all that follow.
    pub(crate) fn watch(&self, job_id: &JobId) -> Option<watch::Receiver<Arc<JobStatus>>> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.get(job_id).map(|view| view.status.subscribe())
    }

    pub(crate) fn status(&self, job_id: &JobId) -> Option<Arc<JobStatus>> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.get(job_id).map(|view| view.status.borrow().clone())
    }

    pub(crate) fn checkpoints(&self, job_id: &JobId) -> Option<Vec<CheckpointRow>> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.get(job_id).map(|view| view.checkpoints.clone())
    }

    pub(crate) fn workers(&self) -> Vec<WorkerRow> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
