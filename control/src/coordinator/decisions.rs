//! The story of a job in sentences with times, written while records are applied: what was decided
//! and what forced it. Part of the ledger, so a replay tells the same (A3). Bounded: the beginning
//! and the newest stay.

use common::ids::AttemptId;
use common::status::{Decision, TrainerEnd, UnixMillis};

use crate::coordinator::ledger::{Attempt, Job};
use crate::coordinator::record::{
    After, CancelMode, Condition, Group, Origin, Record, StopMode, Submission,
};

/// Sentences of one job: its first and, beyond them, the newest.
const MAX_DECISIONS: usize = 64;
const FIRST_DECISIONS: usize = 8;

/// Deaths of one attempt that are told; those that follow are their echo.
const MAX_DEATHS: usize = 3;

impl Job {
    /// Notes what the submit asked for beyond the job file.
    pub(super) fn tell_submit(&mut self, at: UnixMillis) {
        let parts: Vec<String> = origin(&self.submission)
            .into_iter()
            .chain(group(&self.submission))
            .chain(after(&self.submission))
            .collect();
        if !parts.is_empty() {
            let text = format!("submitted {}", parts.join("; "));
            self.decisions.push(Decision { at, attempt: AttemptId(0), text });
        }
    }

    /// Notes what `record` says. Call before it is applied.
    pub(super) fn tell(&mut self, record: &Record) {
        let Some((at, text)) = sentence(self, record) else { return };
        let started = match record {
            Record::AttemptStarted { attempt, .. } => Some(*attempt),
            _ => self.attempt().map(|attempt| attempt.attempt),
        };
        let attempt = started.unwrap_or(AttemptId(0));
        self.decisions.push(Decision { at, attempt, text });
        if self.decisions.len() > MAX_DECISIONS {
            self.decisions.remove(FIRST_DECISIONS);
        }
    }
}

fn sentence(job: &Job, record: &Record) -> Option<(UnixMillis, String)> {
    Some(match record {
        Record::CancelAsked { mode: CancelMode::Save, at, .. } => {
            (*at, "cancel asked: save and leave".to_owned())
        }
        Record::CancelAsked { mode: CancelMode::Now, at, .. } => {
            (*at, "cancel asked: leave at once".to_owned())
        }
        Record::AttemptStarted { attempt, reason, at, .. } => {
            (*at, format!("attempt {attempt} starts: {reason}"))
        }
        Record::AttemptRunning { at, .. } => (*at, "all ranks are connected: it trains".to_owned()),
        // Where an attempt goes on it finds out itself: its disk may not be the one that was thought.
        Record::AttemptReady { generation, step, at, .. } => {
            let attempt = job.open_attempt().filter(|a| a.generation == *generation)?;
            let is_news = attempt.ready_at.is_none() && (attempt.attempt.0 > 1 || *step > 0);
            let text = match step {
                0 => "it begins at step 0".to_owned(),
                _ => format!("it goes on from step {step}"),
            };
            is_news.then_some((*at, text))?
        }
        Record::StopDecided { stop, at, .. } => {
            let how = match stop.mode {
                StopMode::Gracefully => "stops after a save",
                StopMode::Abort => "stops at once",
            };
            (*at, format!("{how}: {}", stop.reason))
        }
        Record::TrainerEnded { key, end, at, .. } => {
            let attempt = job.open_attempt().filter(|a| a.generation == key.generation)?;
            let is_told = is_death(end) && deaths(attempt) < MAX_DEATHS;
            let placed = attempt.ranks.get(key.rank.0 as usize).filter(|_| is_told)?;
            (*at, format!("rank {} on worker `{}` {end}", key.rank, placed.worker_name))
        }
        Record::AttemptEnded { over, at, .. } => {
            (*at, format!("{}: {}", over.failure.message, over.decision))
        }
        Record::AllocationAsked { name, at, .. } => {
            (*at, format!("SLURM is asked for allocation {name}"))
        }
        Record::AllocationAccepted { name, slurm_job, at, .. } => {
            (*at, format!("allocation {name} is SLURM job {slurm_job}"))
        }
        Record::AllocationReleased { name, why, at, .. } => {
            (*at, format!("allocation {name} is given back: {why}"))
        }
        Record::AllocationEnded { name, why, at, .. } => {
            (*at, format!("allocation {name} is over: {why}"))
        }
        Record::JobEnded { state, reason, at, .. } => (*at, format!("{state}: {reason}")),
        _ => return None,
    })
}

fn origin(submission: &Submission) -> Option<String> {
    let Origin { job_id, tag, .. } = submission.origin.as_ref()?;
    Some(match tag {
        Some(tag) => format!("as job `{job_id}` was, to go on from its {tag}"),
        None => format!("as job `{job_id}` was, to start anew"),
    })
}

fn group(submission: &Submission) -> Option<String> {
    let Group { name, max_running } = submission.group.as_ref()?;
    Some(match max_running {
        Some(max) => format!("in group `{name}`, of which {max} may run at once"),
        None => format!("in group `{name}`"),
    })
}

fn after(submission: &Submission) -> Option<String> {
    let of = |after: &After| match after.condition {
        Condition::Ok => format!("job `{}` has succeeded", after.job_id),
        Condition::Any => format!("job `{}` has ended", after.job_id),
    };
    let conditions: Vec<String> = submission.after.iter().map(of).collect();
    (!conditions.is_empty()).then(|| format!("to run after {}", conditions.join(" and ")))
}

fn is_death(end: &TrainerEnd) -> bool {
    !matches!(end, TrainerEnd::Finished | TrainerEnd::Stopped)
}

fn deaths(attempt: &Attempt) -> usize {
    attempt
        .ranks
        .iter()
        .filter_map(|rank| rank.end.as_ref())
        .filter(|end| is_death(&end.end))
        .count()
}
