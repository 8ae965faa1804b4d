//! What users ask for: submit and cancel; and how many jobs are remembered.

use std::path::PathBuf;

use common::ids::JobId;
use common::spec::Resume;
use common::status::{Failure, JobState};

use crate::coordinator::Machine;
use crate::coordinator::effect::{Answer, Effect, Refusal};
use crate::coordinator::event::{Now, Requeue, Ticket};
use crate::coordinator::ledger::Job;
use crate::coordinator::record::{
    CancelMode, Origin, Over, Record, StopDecision, StopMode, Submission,
};

/// How a job ends.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) state: JobState,
    pub(super) reason: String,
    pub(super) failure: Option<Failure>,
    /// How the last attempt was judged.
    pub(super) over: Option<Box<Over>>,
}

impl Ending {
    pub(super) fn new(state: JobState, reason: String, failure: Option<Failure>) -> Self {
        Self { state, reason, failure, over: None }
    }
}

impl Machine {
    pub(super) fn on_submit(
        &mut self,
        ticket: Ticket,
        job_id: JobId,
        submission: Box<Submission>,
        now: Now,
    ) {
        let answer = self.submit(job_id, submission, now);
        self.effect(Effect::Answer { ticket, answer });
    }

    fn submit(&mut self, job_id: JobId, submission: Box<Submission>, now: Now) -> Answer {
        if let Some(known) = self.ledger.requests.get(&submission.request_id) {
            return Answer::Submitted(known.clone());
        }
        if submission.spec.brings_code() && !self.config.allow_commands {
            return Answer::Refused(Refusal::NoCommands);
        }
        if self.ledger.jobs.contains_key(&job_id) {
            return Answer::Refused(Refusal::IdTaken);
        }
        let unknown = submission.after.iter().find(|a| !self.ledger.jobs.contains_key(&a.job_id));
        if let Some(after) = unknown {
            return Answer::Refused(Refusal::UnknownJob(after.job_id.clone()));
        }
        let (open, max) = (self.open_jobs(), self.config.max_open_jobs);
        if open >= max {
            return Answer::Refused(Refusal::QueueFull { open, max });
        }
        self.record(Record::JobSubmitted { job_id: job_id.clone(), submission, at: now.unix });
        self.enqueue(&job_id, now);
        Answer::Submitted(job_id)
    }

    fn open_jobs(&self) -> usize {
        let is_apart = |job_id: &&JobId| self.live.line.get(job_id).is_none();
        let resting = self.live.resting.keys().filter(is_apart).count();
        let is_new = |job_id: &&JobId| !self.live.resting.contains_key(*job_id);
        let allocating = self.live.allocating.keys().filter(is_new).count();
        let in_line = self.live.line.len() + self.live.held.len() + allocating;
        in_line + self.live.attempts.len() + resting
    }

    pub(super) fn on_requeue(&mut self, ticket: Ticket, ended: &JobId, requeue: Requeue, now: Now) {
        let answer = self.requeue(ended, requeue, now);
        self.effect(Effect::Answer { ticket, answer });
    }

    fn requeue(&mut self, ended: &JobId, requeue: Requeue, now: Now) -> Answer {
        let Some(job) = self.ledger.jobs.get(ended) else {
            return Answer::Refused(Refusal::UnknownJob(ended.clone()));
        };
        if !job.state.is_final() {
            return Answer::Refused(Refusal::NotEnded(ended.clone(), job.state));
        }
        // Only here is it known what the job was; of a submit the shell sees it.
        if let Some(key) = job.submission.spec.code_key().filter(|_| !requeue.knows_secret) {
            return Answer::Refused(Refusal::SecretUnknown { key });
        }
        let mut submission = job.submission.clone();
        submission.request_id = requeue.request_id;
        submission.after.clear();
        // One that has succeeded has nothing to go on with.
        let goes_on = !requeue.from_start && job.state != JobState::Succeeded;
        let whole = job.latest_checkpoint().filter(|_| goes_on);
        if let Some(whole) = whole {
            submission.spec.checkpoint.resume = Resume::Path(PathBuf::from(&whole.path));
        }
        submission.origin = Some(Origin {
            job_id: ended.clone(),
            tag: whole.map(|whole| whole.tag.clone()),
            holder: whole.and_then(|whole| whole.worker.clone()),
        });
        self.submit(requeue.job_id, Box::new(submission), now)
    }

    pub(super) fn on_cancel(&mut self, ticket: Ticket, job_id: &JobId, mode: CancelMode, now: Now) {
        let answer = self.cancel(job_id, mode, now);
        self.effect(Effect::Answer { ticket, answer });
    }

    fn cancel(&mut self, job_id: &JobId, mode: CancelMode, now: Now) -> Answer {
        let Some(job) = self.ledger.jobs.get(job_id) else {
            return Answer::Refused(Refusal::UnknownJob(job_id.clone()));
        };
        let is_known = job.cancel == Some(mode) || job.cancel == Some(CancelMode::Now);
        if !job.state.is_final() && !is_known {
            let is_running = job.attempt().is_some_and(|a| a.running_at.is_some());
            self.record(Record::CancelAsked { job_id: job_id.clone(), mode, at: now.unix });
            if self.live.attempts.contains_key(job_id) {
                // Before training there is nothing to save.
                let mode = match mode {
                    CancelMode::Save if is_running => StopMode::Gracefully,
                    CancelMode::Save | CancelMode::Now => StopMode::Abort,
                };
                let reason = "cancelled".to_owned();
                self.stop_attempt(
                    job_id,
                    StopDecision { mode, ..StopDecision::abort(reason) },
                    now,
                );
            } else {
                let reason = match self.live.resting.contains_key(job_id) {
                    true => "cancelled while it waited to restart",
                    false => "cancelled while it was queued",
                };
                let ending = Ending::new(JobState::Cancelled, reason.to_owned(), None);
                self.end_job(job_id, ending, now);
            }
        }
        let state = self.ledger.jobs.get(job_id).map_or(JobState::Cancelled, |job| job.state);
        Answer::Cancelling(state)
    }

    /// Makes a job final (A13): it leaves the queue and its attempt is over.
    pub(super) fn end_job(&mut self, job_id: &JobId, ending: Ending, now: Now) {
        let Some(job) = self.ledger.jobs.get(job_id).filter(|job| !job.state.is_final()) else {
            return;
        };
        let number = job.number;
        let (reported, max_steps) = self.reported(job_id, job);
        let step = job.summary.as_ref().map_or(reported, |summary| summary.steps.max(reported));
        self.live.line.remove(job_id);
        self.live.resting.remove(job_id);
        self.release(job_id);
        let had_attempt = self.live.attempts.remove(job_id).is_some();
        self.out.ended.push((job_id.clone(), ending.state));
        self.record(Record::JobEnded {
            job_id: job_id.clone(),
            state: ending.state,
            reason: ending.reason,
            failure: ending.failure,
            step,
            max_steps,
            over: ending.over,
            at: now.unix,
        });
        self.release_allocations(job_id, now);
        self.live.finals.insert((Some(now.unix), number), job_id.clone());
        self.out.is_schedule_due = true;
        self.out.workers_changed |= had_attempt;
        self.forget_oldest();
    }

    /// The last step that was reported, and of how many.
    pub(super) fn reported(&self, job_id: &JobId, job: &Job) -> (u64, Option<u64>) {
        let progress = self.live.attempts.get(job_id).and_then(|live| live.progress.as_ref());
        let step = progress.map_or(job.step, |live| live.step);
        (step, progress.and_then(|live| live.max_steps).or(job.max_steps))
    }

    /// Keeps the ledger bounded: the oldest final jobs go.
    fn forget_oldest(&mut self) {
        while self.live.finals.len() > self.config.max_final_jobs {
            let Some((_, job_id)) = self.live.finals.pop_first() else { return };
            self.record(Record::JobForgotten { job_id: job_id.clone() });
            self.effect(Effect::Forget { job_id });
        }
    }
}
