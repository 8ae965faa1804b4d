//! Between two attempts: an attempt that broke off is judged, and the job rests until the next may
//! start. That is when its wait is over and no reachable worker may still run one of its trainers
//! (A6); a lost worker's lease has ended by then, or its trainers would not have.

use std::time::Duration;

use uuid::Uuid;

use common::ids::JobId;
use common::status::{Failure, FailureKind, TrainerEnd, UnixMillis, WaitReason};

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::guilt::{self, Judgement};
use crate::coordinator::ledger::{Attempt, Job};
use crate::coordinator::live::{LiveAttempt, LiveWorker, Standing};
use crate::coordinator::past::Past;
use crate::coordinator::record::{Over, Record, Token};
use crate::coordinator::restart::{Action, Class, classify, decide};
use crate::coordinator::submit::Ending;

impl Machine {
    /// Every trainer of the open attempt is dead and it did not succeed.
    pub(super) fn restart_or_fail(&mut self, job_id: &JobId, mut ending: Ending, now: Now) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let Some(attempt) = job.open_attempt() else { return };
        // Without either nobody knows what went wrong: a bug of ours, and no reason to try again.
        let judgement = guilt::judgement(attempt);
        let Some((failure, judgement)) = ending.failure.clone().zip(judgement) else {
            return self.end_job(job_id, ending, now);
        };
        let (mut class, signature) = classify(&judgement);
        if is_of_the_worker(job, &failure, &judgement) {
            class = Class::Infrastructure;
        }
        let (step, max_steps) = self.reported(job_id, job);
        let live = self.live.attempts.get(job_id);
        let mut over = Over {
            class,
            signature,
            failure,
            step: guilty_step(&judgement).or(live.and_then(LiveAttempt::own_step)),
            step_at: live.and_then(|live| live.stepped_at),
            saved_step: job.latest_checkpoint().map_or(0, |row| row.step),
            decision: String::new(),
            implicates: None,
        };
        over.implicates = culprit(attempt, &over).filter(|_| class == Class::Infrastructure);
        let mut history: Vec<Past<'_>> = job.older.iter().map(Past::from).collect();
        history.extend(job.attempts.iter().filter_map(Past::of));
        history.push(Past { ended_at: now.unix, ..Past::new(attempt, &over) });
        let policy = &job.submission.spec.restart;
        let decision = decide(policy, &history, chance(attempt.token));
        drop(history);
        over.decision = decision.reason;
        let is_late = self.limit_at(job_id, now).is_some_and(|at| at <= now.uptime);
        match decision.action {
            Action::Restart(_) if is_late => {
                over.decision = "not restarted: its time limit is over".to_owned();
                ending.reason = format!("{}; {}", ending.reason, over.decision);
                ending.over = Some(Box::new(over));
                self.end_job(job_id, ending, now);
            }
            Action::Restart(wait) => {
                let generation = attempt.generation;
                self.live.attempts.remove(job_id);
                let until = (!wait.is_zero()).then(|| now.uptime + wait);
                self.live.resting.insert(job_id.clone(), until);
                let over = Box::new(over);
                let (job_id, at) = (job_id.clone(), now.unix);
                self.record(Record::AttemptEnded {
                    job_id,
                    generation,
                    over,
                    wait,
                    step,
                    max_steps,
                    at,
                });
                self.out.is_schedule_due = true;
                self.out.workers_changed = true;
            }
            Action::Stop { is_news } => {
                if is_news {
                    ending.reason = format!("{}; {}", ending.reason, over.decision);
                }
                ending.over = Some(Box::new(over));
                self.end_job(job_id, ending, now);
            }
        }
    }

    /// After the coordinator's own restart: what is left of the job's wait.
    pub(super) fn rest_again(&mut self, job_id: &JobId, restart_at: UnixMillis, now: Now) {
        let max = self
            .ledger
            .jobs
            .get(job_id)
            .map_or(Duration::ZERO, |job| job.submission.spec.restart.max_backoff);
        // A clock that was set back must not make it longer.
        let left = Duration::from_millis(restart_at.saturating_sub(now.unix)).min(max);
        self.live.resting.insert(job_id.clone(), Some(now.uptime + left));
    }

    /// Why the job's next attempt must not start yet, whatever is idle.
    pub(super) fn must_rest(&self, job_id: &JobId) -> Option<WaitReason> {
        if self.live.resting.get(job_id)?.is_some() {
            return Some(WaitReason::Backoff);
        }
        let holds = |worker: &&LiveWorker| {
            worker.standing == Standing::Ready
                && (worker.awaited_by.contains(job_id)
                    || worker.stragglers.iter().any(|key| key.job_id == *job_id))
        };
        let worker = self.live.workers.values().find(holds)?;
        Some(WaitReason::Stragglers { worker: worker.name.clone() })
    }

    /// Jobs whose wait is over get their turn.
    pub(super) fn tick_resting(&mut self, now: Now) {
        for until in self.live.resting.values_mut() {
            if until.is_some_and(|until| until <= now.uptime) {
                *until = None;
                self.out.is_schedule_due = true;
            }
        }
    }
}

/// A worker that refuses what has run elsewhere lacks something itself: a file of the data, a folder.
fn is_of_the_worker(job: &Job, failure: &Failure, judgement: &Judgement<'_>) -> bool {
    // A command tells nothing of a state that it has.
    let is_command = job.submission.spec.command.is_some();
    let has_run = job
        .attempts
        .iter()
        .any(|attempt| attempt.ready_at.is_some() || (is_command && attempt.running_at.is_some()));
    let is_refusal = failure.kind == Some(FailureKind::Configuration) && judgement.end.is_none();
    has_run && is_refusal && failure.worker.is_some()
}

/// Uniform in 0..1, of the attempt's own dice: a replay decides the same.
fn chance(Token(dice): Token) -> f64 {
    let [a, b, c, d, ..] = dice;
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// The worker whose fault a failure of the infrastructure was: it was lost, something killed a
/// trainer on it, or it could not start one. A broken connection has two ends.
fn culprit(attempt: &Attempt, over: &Over) -> Option<Uuid> {
    if over.failure.kind == Some(FailureKind::Communication) {
        return None;
    }
    let name = over.failure.worker.as_ref()?;
    attempt.ranks.iter().find(|rank| rank.worker_name == *name).map(|rank| rank.worker.uuid)
}

/// The step that the guilty rank told.
fn guilty_step(judgement: &Judgement<'_>) -> Option<u64> {
    match &judgement.end?.end {
        TrainerEnd::Failed { failure } => failure.step,
        _ => None,
    }
}
