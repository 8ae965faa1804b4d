//! What readers see: published by the control loop after every batch, read by any number of
//! clients without asking it. A slow client misses steps in between, never the newest state.
//!
//! Why a queued job waits is worked out by its reader, from one board for all of them: a decision
//! among many queued jobs publishes nothing per job.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use common::ids::JobId;
use common::status::{CheckpointRow, JobRow, JobState, JobStatus, UnixMillis, WorkerRow};
use control::coordinator::{Board, Queued, Turn};

/// Rows of one answer, at most: it stays below a message's bound.
const MAX_ROWS: usize = 5000;

/// Shared by the loop (the only writer) and the front. Locks are held for a look-up or an
/// assignment, never across an await.
#[derive(Debug)]
pub(crate) struct Views {
    jobs: RwLock<Jobs>,
    workers: RwLock<Vec<WorkerRow>>,
    board: watch::Sender<Arc<Board>>,
}

#[derive(Debug, Default)]
struct Jobs {
    views: BTreeMap<JobId, JobView>,
    /// In the order of submission.
    order: BTreeSet<(UnixMillis, JobId)>,
    /// Of jobs that wait for their start.
    turns: BTreeSet<Turn>,
}

#[derive(Debug)]
struct JobView {
    status: Arc<JobStatus>,
    /// Made by the first client that follows the job; of a deep queue nobody follows most.
    followed: OnceLock<watch::Sender<Arc<JobStatus>>>,
    checkpoints: Vec<CheckpointRow>,
    /// It waits for its start.
    queued: Option<Queued>,
}

/// What the loop publishes about one job.
#[derive(Debug)]
pub(crate) struct Published<'a> {
    pub(crate) status: Arc<JobStatus>,
    pub(crate) checkpoints: &'a [CheckpointRow],
    pub(crate) queued: Option<Queued>,
}

/// Which jobs a list shows; what is empty fits all.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) group: String,
    pub(crate) prefix: String,
    pub(crate) states: Vec<JobState>,
}

/// One answer of a list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) rows: Vec<JobRow>,
    /// Where the next one begins, if there is one.
    pub(crate) next: Option<Cursor>,
}

/// The last job of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) submitted_at: UnixMillis,
    pub(crate) job_id: JobId,
}

impl Default for Views {
    fn default() -> Self {
        let board = watch::Sender::new(Arc::default());
        Self { jobs: RwLock::default(), workers: RwLock::default(), board }
    }
}

impl Filter {
    fn fits(&self, row: &JobRow) -> bool {
        row.job_id.as_str().starts_with(&self.prefix)
            && (self.states.is_empty() || self.states.contains(&row.state))
            && (self.group.is_empty() || row.group.as_ref() == Some(&self.group))
    }
}

impl Jobs {
    /// Sorted once, and not one after the other.
    fn of<'a>(all: impl IntoIterator<Item = Published<'a>>) -> Self {
        let (mut views, mut order, mut turns) = (Vec::new(), Vec::new(), Vec::new());
        for published in all {
            let row = &published.status.row;
            let job_id = row.job_id.clone();
            order.push((row.submitted_at, job_id.clone()));
            turns.extend(published.queued.as_ref().map(|queued| queued.turn));
            views.push((job_id, JobView::new(published)));
        }
        Self {
            views: views.into_iter().collect(),
            order: order.into_iter().collect(),
            turns: turns.into_iter().collect(),
        }
    }

    fn show(&self, view: &JobView, board: &Board) -> Arc<JobStatus> {
        let status = &view.status;
        let Some(queued) = &view.queued else { return Arc::clone(status) };
        let mut waiting = board.explain(queued);
        waiting.ahead = self.turns.range(..queued.turn).count() as u64;
        let mut status = JobStatus::clone(status);
        if status.row.state == JobState::Queued {
            status.row.reason = waiting.reason.to_string();
        }
        status.waiting = Some(waiting);
        Arc::new(status)
    }
}

impl JobView {
    fn new(Published { status, checkpoints, queued }: Published<'_>) -> Self {
        let checkpoints = checkpoints.to_vec();
        Self { status, followed: OnceLock::new(), checkpoints, queued }
    }

    fn follow(&self) -> watch::Receiver<Arc<JobStatus>> {
        let sender = || watch::Sender::new(Arc::clone(&self.status));
        self.followed.get_or_init(sender).subscribe()
    }
}

impl Views {
    /// These jobs and no others.
    pub(crate) fn publish_all<'a>(&self, all: impl IntoIterator<Item = Published<'a>>) {
        let jobs = Jobs::of(all);
        *self.jobs.write().unwrap_or_else(PoisonError::into_inner) = jobs;
    }

    pub(crate) fn publish(&self, published: Published<'_>) {
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        let jobs = &mut *jobs;
        let row = &published.status.row;
        let (job_id, turn) = (row.job_id.clone(), published.queued.as_ref().map(|q| q.turn));
        let before = jobs.views.get(&job_id).and_then(|view| view.queued.as_ref());
        let before = before.map(|q| q.turn);
        if before != turn {
            if let Some(before) = before {
                jobs.turns.remove(&before);
            }
            jobs.turns.extend(turn);
        }
        let Some(view) = jobs.views.get_mut(&job_id) else {
            jobs.order.insert((row.submitted_at, job_id.clone()));
            jobs.views.insert(job_id, JobView::new(published));
            return;
        };
        let Published { status, checkpoints, queued } = published;
        if view.checkpoints != checkpoints {
            view.checkpoints = checkpoints.to_vec();
        }
        view.queued = queued;
        if let Some(followers) = view.followed.get() {
            followers.send_replace(Arc::clone(&status));
        }
        view.status = status;
    }

    pub(crate) fn publish_workers(&self, rows: Vec<WorkerRow>) {
        *self.workers.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    pub(crate) fn publish_board(&self, board: Arc<Board>) {
        self.board.send_replace(board);
    }

    pub(crate) fn forget(&self, job_id: &JobId) {
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = jobs.views.remove(job_id) else { return };
        let submitted_at = view.status.row.submitted_at;
        jobs.order.remove(&(submitted_at, job_id.clone()));
        if let Some(queued) = view.queued {
            jobs.turns.remove(&queued.turn);
        }
    }

    /// Jobs in the order of submission, after `from`, at most `limit` and as one answer holds.
    pub(crate) fn rows(&self, filter: &Filter, from: Option<Cursor>, limit: usize) -> Page {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        let from = from.map(|at| (at.submitted_at, at.job_id));
        let range = (from.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let views = jobs.order.range(range).filter_map(|(_, job_id)| jobs.views.get(job_id));
        let mut fitting = views.filter(|view| filter.fits(&view.status.row));
        let max = limit.min(MAX_ROWS);
        let found: Vec<(JobRow, Option<Queued>)> = fitting
            .by_ref()
            .take(max)
            .map(|view| (view.status.row.clone(), view.queued.clone()))
            .collect();
        let has_more = fitting.next().is_some();
        // Reasons are worked out without the lock: the loop must not wait for them.
        drop(jobs);
        let board = self.board.borrow().clone();
        let rows: Vec<JobRow> = found.into_iter().map(|found| explained(found, &board)).collect();
        let last = rows.last().filter(|_| has_more);
        let next =
            last.map(|row| Cursor { submitted_at: row.submitted_at, job_id: row.job_id.clone() });
        Page { rows, next }
    }

    /// How many jobs are in each state.
    pub(crate) fn states(&self) -> HashMap<JobState, u64> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts = HashMap::new();
        for view in jobs.views.values() {
            *counts.entry(view.status.row.state).or_default() += 1;
        }
        counts
    }

    /// The newest status of a job and all that follow; of a queued job its reason is in
    /// [`Views::status`].
    pub(crate) fn watch(&self, job_id: &JobId) -> Option<watch::Receiver<Arc<JobStatus>>> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.views.get(job_id).map(JobView::follow)
    }

    /// Changes when queued jobs may wait for other reasons than before.
    pub(crate) fn watch_board(&self) -> watch::Receiver<Arc<Board>> {
        self.board.subscribe()
    }

    pub(crate) fn status(&self, job_id: &JobId) -> Option<Arc<JobStatus>> {
        let board = self.board.borrow().clone();
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.views.get(job_id).map(|view| jobs.show(view, &board))
    }

    pub(crate) fn is_known(&self, job_id: &JobId) -> bool {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.views.contains_key(job_id)
    }

    pub(crate) fn checkpoints(&self, job_id: &JobId) -> Option<Vec<CheckpointRow>> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.views.get(job_id).map(|view| view.checkpoints.clone())
    }

    pub(crate) fn workers(&self) -> Vec<WorkerRow> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The row of a job, with the reason of one that is queued.
fn explained((mut row, queued): (JobRow, Option<Queued>), board: &Board) -> JobRow {
    if let Some(queued) = queued.filter(|_| row.state == JobState::Queued) {
        row.reason = board.explain(&queued).reason.to_string();
    }
    row
}
