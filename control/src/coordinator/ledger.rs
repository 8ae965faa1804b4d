//! The durable state. Changes by records alone, in one function that never fails: a record that
//! does not fit changes nothing, so a replay cannot stop half-way.

use std::collections::BTreeMap;
use std::mem;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use common::ids::{AttemptId, Generation, Incarnation, JobId, WorkerId};
use common::slurm::allocation::AllocationName;
use common::slurm::pool::PoolName;
use common::spec::Restart;
use common::status::{CheckpointRow, Decision, Failure, JobState, Summary, TrainerEnd, UnixMillis};

use crate::coordinator::past::OldAttempt;
use crate::coordinator::pools::PoolEntry;
use crate::coordinator::record::{
    CancelMode, Over, Placement, Record, StopCause, StopDecision, Submission, Token,
};
use crate::coordinator::shared::Shared;

/// Identities of workers that are remembered; the ones not seen for longest are forgotten.
const MAX_WORKERS: usize = 4096;

/// Checkpoints of one job that the catalogue lists. Retention keeps a handful on disk; this bounds
/// a job that keeps all.
const MAX_CHECKPOINTS: usize = 1000;

/// Attempts of one job that are remembered whole.
const MAX_ATTEMPTS: usize = 64;

/// Older attempts of one job of which the judgement is remembered: more than all its budgets, so
/// that one of them is spent before anything is forgotten.
const MAX_OLDER: usize = 3 * Restart::MAX as usize;

/// Notes of one job.
const MAX_NOTES: usize = 64;

/// All that survives the coordinator. Its serde form is the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ledger {
    /// The coordinator's lives.
    pub incarnation: Incarnation,
    /// Jobs ever submitted; gives each its place in the queue.
    pub submitted: u64,
    pub jobs: BTreeMap<JobId, Shared<Job>>,
    /// Request id -> job. Not in a snapshot: the jobs tell it.
    #[serde(skip)]
    pub requests: BTreeMap<String, JobId>,
    pub workers: BTreeMap<Uuid, WorkerIdentity>,
    /// Names of workers that are out of service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drained: BTreeMap<String, Drained>,
    /// Allocations that SLURM was asked for and that are not known to be over. One may outlive its job.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub allocations: BTreeMap<AllocationName, Allocation>,
    /// Pools of SLURM's nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PoolName, PoolEntry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Allocation {
    /// SLURM's number, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job: Option<u64>,
    /// An attempt has run on it; of a pool's: a worker has joined.
    #[serde(default)]
    pub is_used: bool,
    /// It is to be given back.
    #[serde(default)]
    pub is_released: bool,
    /// Of a pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Drained {
    pub reason: String,
    pub at: UnixMillis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkerIdentity {
    pub incarnation: Incarnation,
    pub name: String,
    pub seen_at: UnixMillis,
    /// Attempts that broke off by its fault: the newest one of each job, of the newest jobs. A job
    /// that fails again and again is no evidence against those that it runs on. (Without the jobs
    /// they were `faults` once.)
    #[serde(default, rename = "job-faults", skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fault {
    pub job_id: JobId,
    pub at: UnixMillis,
}

impl WorkerIdentity {
    /// Until when it is excluded: faults of so many jobs, all within the time.
    pub fn excluded_until(&self, now: UnixMillis) -> Option<UnixMillis> {
        let oldest = self.faults.iter().rev().nth(FAULTS - 1)?;
        let until = oldest.at.saturating_add(FAULTS_WITHIN_MILLIS);
        // Faults far in the future are of a clock that was set back since.
        let is_near = until.saturating_sub(now) <= 2 * FAULTS_WITHIN_MILLIS;
        (until > now && is_near).then_some(until)
    }
}

/// So many jobs' faults within [`FAULTS_WITHIN_MILLIS`] exclude a worker.
pub(super) const FAULTS: usize = 2;
const FAULTS_WITHIN_MILLIS: UnixMillis = 24 * 60 * 60 * 1000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// Its place in the order of submission.
    pub number: u64,
    /// It was made to leave its slots: its place is before the job of this number, behind all
    /// that had been submitted by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    pub submission: Submission,
    pub submitted_at: UnixMillis,
    pub state: JobState,
    /// Why it is in this state. Of a queued job the live reason is better: it names numbers.
    pub reason: String,
    pub cancel: Option<CancelMode>,
    pub attempts: Vec<Attempt>,
    /// What the budgets need to know of those before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<OldAttempt>,
    /// For how many milliseconds those had held their slots that are remembered in part or not at all.
    #[serde(default)]
    pub older_took: UnixMillis,
    pub notes: Vec<String>,
    /// What was decided, in sentences; see `decisions`.
    #[serde(default)]
    pub decisions: Vec<Decision>,
    /// By step.
    pub checkpoints: Vec<CheckpointRow>,
    pub summary: Option<Box<Summary>>,
    pub failure: Option<Failure>,
    /// The last step that was reported.
    pub step: u64,
    pub max_steps: Option<u64>,
    pub ended_at: Option<UnixMillis>,
    /// Between two attempts: when the next may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<UnixMillis>,
    /// Allocations of its own that SLURM was asked for, ...
    #[serde(default)]
    pub allocations: u32,
    /// ... and how many by the start of its last attempt.
    #[serde(default)]
    pub allocations_at_start: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attempt {
    pub attempt: AttemptId,
    pub generation: Generation,
    pub token: Token,
    pub ranks: Vec<PlacedRank>,
    pub state: JobState,
    pub reason: String,
    pub started_at: UnixMillis,
    pub running_at: Option<UnixMillis>,
    /// When it had its state, and the step that it continued from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<(UnixMillis, u64)>,
    /// Tags of what it saved before it was heard to be ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub early_saves: Vec<String>,
    /// When it was known that it breaks off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<UnixMillis>,
    pub stop: Option<StopDecision>,
    pub ended_at: Option<UnixMillis>,
    /// How it was judged, if it broke off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Box<Over>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlacedRank {
    pub worker: WorkerId,
    pub worker_name: String,
    pub slots: Vec<u32>,
    pub end: Option<RankEnd>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RankEnd {
    /// Its place among the ends of the attempt, from 0.
    pub order: u32,
    /// The attempt was being stopped already: this end may be our own doing.
    pub is_after_stop: bool,
    pub end: TrainerEnd,
    pub last_lines: Vec<String>,
    pub at: UnixMillis,
}

impl Job {
    /// The newest attempt: the only one whose messages count (A4).
    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The newest attempt, while it is not over.
    pub fn open_attempt(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|a| a.ended_at.is_none())
    }

    /// Allocations in a row on which it could not start. Of one that is over or given back.
    pub(super) fn failed_allocations(&self) -> u32 {
        self.allocations.saturating_sub(self.allocations_at_start)
    }

    pub fn latest_checkpoint(&self) -> Option<&CheckpointRow> {
        self.checkpoints.iter().rfind(|row| row.durable)
    }
}

impl Attempt {
    /// Ranks whose trainers have not ended, by index.
    pub fn unfinished(&self) -> impl Iterator<Item = (u32, &PlacedRank)> {
        (0..).zip(&self.ranks).filter(|(_, rank)| rank.end.is_none())
    }

    /// Nobody has told yet where it goes on: what it saves is told from what it found.
    fn may_save_early(&self) -> bool {
        self.ready_at.is_none() && self.early_saves.len() < MAX_CHECKPOINTS
    }

    fn break_off(&mut self, over: &Over, at: UnixMillis) {
        self.state = JobState::Failed;
        self.reason.clone_from(&over.failure.message);
        self.ended_at = Some(at);
        self.over = Some(Box::new(over.clone()));
        // The guilty rank's are in the failure; a job that is tried often must not grow by all.
        for end in self.ranks.iter_mut().filter_map(|rank| rank.end.as_mut()) {
            end.last_lines.clear();
        }
    }
}

impl Ledger {
    /// The same state for a snapshot: cheap to make, however many jobs there are.
    pub fn frozen(&self) -> Self {
        Self { jobs: self.jobs.clone(), ..self.without_jobs() }
    }

    /// What a snapshot holds beside the jobs.
    pub fn without_jobs(&self) -> Self {
        Self {
            incarnation: self.incarnation,
            submitted: self.submitted,
            jobs: BTreeMap::new(),
            requests: BTreeMap::new(),
            workers: self.workers.clone(),
            drained: self.drained.clone(),
            allocations: self.allocations.clone(),
            pools: self.pools.clone(),
        }
    }

    /// After a snapshot was read: what it does not hold.
    pub(super) fn complete(&mut self) {
        let jobs = self.jobs.iter();
        self.requests =
            jobs.map(|(job_id, job)| (job.submission.request_id.clone(), job_id.clone())).collect();
    }

    /// Applies a record of an earlier life, and keeps the large one as it is. Requests are known
    /// again when a machine goes on from the ledger.
    pub fn replay(&mut self, record: Record) {
        match record {
            Record::JobSubmitted { job_id, submission, at } => {
                self.submit(job_id, *submission, at);
            }
            other => self.apply(&other),
        }
    }

    /// Applies one record. Never fails; what does not fit changes nothing.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::CoordinatorStarted { incarnation, .. } => self.incarnation = *incarnation,
            Record::WorkerSeen { id, name, at } => self.see_worker(*id, name, *at),
            Record::JobSubmitted { job_id, submission, at } => {
                if !self.jobs.contains_key(job_id) {
                    self.requests.insert(submission.request_id.clone(), job_id.clone());
                    self.submit(job_id.clone(), Submission::clone(submission), *at);
                }
            }
            Record::JobForgotten { job_id } => {
                if let Some(job) = self.jobs.remove(job_id) {
                    self.requests.remove(&job.submission.request_id);
                }
            }
            Record::WorkerDrained { name, reason, at } => {
                let drained = Drained { reason: reason.clone(), at: *at };
                self.drained.insert(name.clone(), drained);
            }
            Record::WorkerUndrained { name, .. } => {
                self.drained.remove(name);
            }
            Record::WorkerAllowed { name, .. } => {
                let namesakes = self.workers.values_mut().filter(|w| w.name == *name);
                namesakes.for_each(|worker| worker.faults.clear());
            }
            Record::PoolAdded { .. }
            | Record::PoolPaused { .. }
            | Record::PoolResumed { .. }
            | Record::PoolFailed { .. }
            | Record::PoolClosed { .. } => self.apply_to_pool(record),
            _ => {
                self.apply_to_allocation(record);
                let job = record.job_id().and_then(|id| self.jobs.get_mut(id));
                let Some(job) = job else { return };
                let job = job.change();
                let was_open = job.open_attempt().is_some();
                let is_start = matches!(record, Record::AttemptStarted { .. });
                if matches!(record, Record::StopDecided { stop, .. } if stop.yields) {
                    job.behind = Some(self.submitted + 1);
                }
                job.apply(record);
                let is_over = was_open && job.open_attempt().is_none();
                let fault = job.attempt().filter(|_| is_over).and_then(|attempt| {
                    Some((attempt.over.as_ref()?.implicates?, attempt.ended_at?))
                });
                if let (Some((uuid, at)), Some(job_id)) = (fault, record.job_id()) {
                    self.blame(uuid, Fault { job_id: job_id.clone(), at });
                }
                if let Some(job_id) = record.job_id().filter(|_| is_start) {
                    self.use_allocation(job_id);
                }
            }
        }
    }

    /// An attempt has started on it.
    fn use_allocation(&mut self, job_id: &JobId) {
        let is_own = |(name, of): &(&AllocationName, &mut Allocation)| {
            name.job() == Some(job_id) && !of.is_released
        };
        if let Some((_, allocation)) = self.allocations.iter_mut().find(is_own) {
            allocation.is_used = true;
        }
    }

    fn submit(&mut self, job_id: JobId, submission: Submission, at: UnixMillis) {
        if self.jobs.contains_key(&job_id) {
            return;
        }
        self.submitted += 1;
        let mut job = Job {
            number: self.submitted,
            behind: None,
            submission,
            submitted_at: at,
            state: JobState::Queued,
            reason: "submitted".to_owned(),
            cancel: None,
            attempts: Vec::new(),
            older: Vec::new(),
            older_took: 0,
            notes: Vec::new(),
            decisions: Vec::new(),
            checkpoints: Vec::new(),
            summary: None,
            failure: None,
            step: 0,
            max_steps: None,
            ended_at: None,
            restart_at: None,
            allocations: 0,
            allocations_at_start: 0,
        };
        job.tell_submit(at);
        self.jobs.insert(job_id, job.into());
    }

    fn blame(&mut self, uuid: Uuid, fault: Fault) {
        if let Some(worker) = self.workers.get_mut(&uuid) {
            worker.faults.retain(|known| known.job_id != fault.job_id);
            worker.faults.push(fault);
            if worker.faults.len() > FAULTS {
                worker.faults.remove(0);
            }
        }
    }

    fn see_worker(&mut self, id: WorkerId, name: &str, at: UnixMillis) {
        let faults = self.workers.remove(&id.uuid).map_or_else(Vec::new, |worker| worker.faults);
        let incarnation = id.incarnation;
        let identity = WorkerIdentity { incarnation, name: name.to_owned(), seen_at: at, faults };
        self.workers.insert(id.uuid, identity);
        if self.workers.len() > MAX_WORKERS {
            let oldest = self.workers.iter().min_by_key(|(_, w)| w.seen_at).map(|(uuid, _)| *uuid);
            if let Some(uuid) = oldest {
                self.workers.remove(&uuid);
            }
        }
    }
}

impl Job {
    fn apply(&mut self, record: &Record) {
        // What becomes of its nodes is told after its end, too.
        if !self.state.is_final() || record.is_return_of_nodes() {
            self.tell(record);
        }
        match record {
            Record::CheckpointCommitted { checkpoint, removed, found, .. } => {
                self.catalogue(checkpoint, removed, found.as_deref());
            }
            Record::NotesAdded { notes, .. } => self.note(notes),
            // Terminal states are final (A13): only the catalogue and notes still grow.
            _ if self.state.is_final() => {}
            Record::CancelAsked { mode, .. } => {
                self.cancel = Some(*mode);
                if self.open_attempt().is_some() {
                    self.state = JobState::Cancelling;
                    self.reason = "cancel asked".to_owned();
                }
            }
            Record::AttemptStarted { .. } => self.start(record),
            Record::AttemptEnded { generation, over, wait, step, max_steps, at, .. } => {
                let Some(attempt) = self.current(*generation) else { return };
                attempt.break_off(over, *at);
                self.state = JobState::Restarting;
                self.reason = format!("{}; {}", over.failure.message, over.decision);
                self.step = *step;
                self.max_steps = *max_steps;
                let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                self.restart_at = Some(at.saturating_add(wait));
            }
            Record::JobEnded { .. } => self.finish(record),
            Record::AttemptRunning { generation, at, .. } => {
                let Some(attempt) = self.current(*generation) else { return };
                attempt.state = JobState::Running;
                attempt.running_at = Some(*at);
                if self.state == JobState::Starting {
                    self.state = JobState::Running;
                }
            }
            Record::AttemptReady { generation, step, at, .. } => {
                self.ready(*generation, *step, *at);
            }
            Record::StopDecided { generation, stop, at, .. } => {
                let Some(attempt) = self.current(*generation) else { return };
                attempt.stopped_at.get_or_insert(*at);
                // A graceful stop that became an abort keeps the cause that was decided first; growth
                // gives way to any other.
                let is_cause = |first: &StopDecision| {
                    first.failure.is_some() && first.cause != StopCause::Growth
                };
                let first = attempt.stop.take().filter(is_cause);
                let StopDecision { failure, cause, .. } = first.unwrap_or_else(|| stop.clone());
                attempt.stop = Some(StopDecision { failure, cause, ..stop.clone() });
                self.reason.clone_from(&stop.reason);
            }
            Record::TrainerEnded { .. } => self.end_rank(record),
            Record::AllocationAsked { .. } => self.allocations += 1,
            Record::AllocationAccepted { .. }
            | Record::AllocationServed { .. }
            | Record::PoolAdded { .. }
            | Record::PoolPaused { .. }
            | Record::PoolResumed { .. }
            | Record::PoolFailed { .. }
            | Record::PoolClosed { .. }
            | Record::AllocationReleased { .. }
            | Record::AllocationEnded { .. }
            | Record::CoordinatorStarted { .. }
            | Record::WorkerSeen { .. }
            | Record::JobSubmitted { .. }
            | Record::JobForgotten { .. }
            | Record::WorkerDrained { .. }
            | Record::WorkerUndrained { .. }
            | Record::WorkerAllowed { .. } => {}
        }
    }

    fn current(&mut self, generation: Generation) -> Option<&mut Attempt> {
        self.attempts.last_mut().filter(|a| a.generation == generation && a.ended_at.is_none())
    }

    fn start(&mut self, record: &Record) {
        let Record::AttemptStarted { attempt, generation, token, ranks, reason, at, .. } = record
        else {
            return;
        };
        let place = |p: &Placement| PlacedRank {
            worker: p.worker,
            worker_name: p.worker_name.clone(),
            slots: p.slots.clone(),
            end: None,
        };
        self.attempts.push(Attempt {
            attempt: *attempt,
            generation: *generation,
            token: *token,
            ranks: ranks.iter().map(place).collect(),
            state: JobState::Starting,
            reason: reason.clone(),
            started_at: *at,
            running_at: None,
            ready_at: None,
            early_saves: Vec::new(),
            stopped_at: None,
            stop: None,
            ended_at: None,
            over: None,
        });
        if self.attempts.len() > MAX_ATTEMPTS {
            let oldest = self.attempts.remove(0);
            let ended_at = oldest.ended_at.unwrap_or(oldest.started_at);
            self.older_took += ended_at.saturating_sub(oldest.started_at);
            self.older.extend(OldAttempt::of(&oldest));
        }
        if self.older.len() > MAX_OLDER {
            self.older.remove(0);
        }
        self.restart_at = None;
        self.allocations_at_start = self.allocations;
        self.state = JobState::Starting;
        self.reason.clone_from(reason);
    }

    fn finish(&mut self, record: &Record) {
        let Record::JobEnded { state, reason, failure, step, max_steps, over, at, .. } = record
        else {
            return;
        };
        self.state = *state;
        self.reason.clone_from(reason);
        self.failure.clone_from(failure);
        self.step = *step;
        self.max_steps = *max_steps;
        self.ended_at = Some(*at);
        self.restart_at = None;
        let open = self.attempts.last_mut().filter(|attempt| attempt.ended_at.is_none());
        if let Some(attempt) = open {
            attempt.state = *state;
            attempt.reason.clone_from(reason);
            attempt.ended_at = Some(*at);
            attempt.over.clone_from(over);
        }
    }

    fn end_rank(&mut self, record: &Record) {
        let Record::TrainerEnded { key, end, last_lines, summary, at } = record else { return };
        let Some(attempt) = self.current(key.generation) else { return };
        let order = attempt.ranks.iter().filter(|rank| rank.end.is_some()).count() as u32;
        let is_after_stop = attempt.stop.is_some();
        let Some(rank) = attempt.ranks.get_mut(key.rank.0 as usize) else { return };
        if rank.end.is_some() {
            return;
        }
        rank.end = Some(RankEnd {
            order,
            is_after_stop,
            end: end.clone(),
            last_lines: last_lines.clone(),
            at: *at,
        });
        if summary.is_some() {
            self.summary.clone_from(summary);
        }
    }

    fn ready(&mut self, generation: Generation, step: u64, at: UnixMillis) {
        let Some(attempt) = self.current(generation).filter(|a| a.ready_at.is_none()) else {
            return;
        };
        attempt.ready_at = Some((at, step));
        let own = mem::take(&mut attempt.early_saves);
        let reader = attempt.ranks.first().map(|rank| rank.worker_name.clone());
        // What lies beyond belongs to a history that ended: it is not where this attempt goes on.
        self.checkpoints.retain(|row| row.step <= step || own.contains(&row.tag));
        // Rank 0 has read this one, wherever it was saved.
        let read = self.checkpoints.iter_mut().filter(|row| row.step == step && step > 0);
        for row in read.filter(|row| row.worker.is_some()) {
            row.worker.clone_from(&reader);
        }
    }

    /// An attempt that was killed may have told neither its last commit nor what it removed for it;
    /// the next one tells all that it `found`. What lies on another worker's disk is another matter.
    fn catalogue(
        &mut self,
        checkpoint: &CheckpointRow,
        removed: &[String],
        found: Option<&[String]>,
    ) {
        let is_early = found.is_none();
        if let Some(attempt) = self.attempts.last_mut().filter(|a| is_early && a.may_save_early()) {
            attempt.early_saves.push(checkpoint.tag.clone());
        }
        let is_shared = self.is_shared(checkpoint);
        let is_gone = |row: &CheckpointRow| is_gone(row, checkpoint, found, is_shared);
        self.checkpoints.retain(|row| {
            row.tag != checkpoint.tag && !removed.contains(&row.tag) && !is_gone(row)
        });
        let place = self.checkpoints.partition_point(|row| row.step <= checkpoint.step);
        self.checkpoints.insert(place, checkpoint.clone());
        if self.checkpoints.len() > MAX_CHECKPOINTS {
            self.checkpoints.remove(0);
        }
    }

    /// Whether a commit was told before and would change nothing.
    pub(super) fn has_catalogued(
        &self,
        checkpoint: &CheckpointRow,
        removed: &[String],
        found: Option<&[String]>,
    ) -> bool {
        let is_early = |a: &&Attempt| found.is_none() && a.may_save_early();
        let early = self.attempts.last().filter(is_early);
        let is_shared = self.is_shared(checkpoint);
        let is_gone = |row: &CheckpointRow| {
            let is_other = row.tag != checkpoint.tag;
            is_other && (removed.contains(&row.tag) || is_gone(row, checkpoint, found, is_shared))
        };
        early.is_none_or(|attempt| attempt.early_saves.contains(&checkpoint.tag))
            && self.checkpoints.contains(checkpoint)
            && !self.checkpoints.iter().any(is_gone)
    }

    /// Whether earlier attempts saved where this one lies.
    fn is_shared(&self, checkpoint: &CheckpointRow) -> bool {
        checkpoint.worker.as_deref().is_some_and(|worker| self.is_new_at(worker))
    }

    /// No earlier attempt had its rank 0 there: what the newest one finds there others have saved, so
    /// the root is shared.
    fn is_new_at(&self, worker: &str) -> bool {
        let had_rank_0 = |attempt: &Attempt| {
            attempt.ranks.first().is_some_and(|rank| rank.worker_name == worker)
        };
        let earlier = self.attempts.iter().rev().skip(1);
        self.older.is_empty() && !earlier.into_iter().any(had_rank_0)
    }

    /// Those that are not known yet, as far as there is room for them.
    pub(super) fn new_notes(&self, notes: Vec<String>) -> Vec<String> {
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        notes.into_iter().filter(|note| !self.notes.contains(note)).take(room).collect()
    }

    fn note(&mut self, notes: &[String]) {
        for note in notes {
            if self.notes.len() < MAX_NOTES && !self.notes.contains(note) {
                self.notes.push(note.clone());
            }
        }
    }
}

/// Whether what an attempt `found` with this checkpoint leaves out a row of before it.
fn is_gone(
    row: &CheckpointRow,
    checkpoint: &CheckpointRow,
    found: Option<&[String]>,
    is_shared: bool,
) -> bool {
    let all = found.unwrap_or_default();
    !all.is_empty()
        && row.step < checkpoint.step
        && (is_shared || row.worker == checkpoint.worker)
        && !all.contains(&row.tag)
}
