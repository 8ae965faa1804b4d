//! Where a job's time went, from recorded moments alone.

use common::status::{TimeSplit, UnixMillis};

use crate::coordinator::ledger::{Attempt, Job};

/// The time from the job's submission until `now`, or its end; None before its first step.
pub(super) fn split(job: &Job, now: UnixMillis) -> Option<TimeSplit> {
    let until = job.ended_at.unwrap_or(now);
    let first = job.attempts.first()?;
    job.attempts.iter().find(|attempt| attempt.ready_at.is_some())?;
    let mut lost = Lost { queue: between(job.submitted_at, first.started_at), ..Lost::default() };
    for (index, attempt) in job.attempts.iter().enumerate() {
        lost.add(attempt, index == 0, &job.attempts[index + 1..], (until, job.ended_at));
    }
    let whole = between(job.submitted_at, until);
    let Lost { queue, start, detect, restart, reload, recompute } = lost;
    let productive = whole.saturating_sub(queue + start + detect + restart + reload + recompute);
    let seconds = |millis: u64| millis as f64 / 1000.0;
    Some(TimeSplit {
        productive_seconds: seconds(productive),
        queue_seconds: seconds(queue),
        start_seconds: seconds(start),
        detect_seconds: seconds(detect),
        restart_seconds: seconds(restart),
        reload_seconds: seconds(reload),
        recompute_seconds: seconds(recompute),
    })
}

/// In milliseconds.
#[derive(Debug, Default)]
struct Lost {
    queue: u64,
    start: u64,
    detect: u64,
    restart: u64,
    reload: u64,
    recompute: u64,
}

impl Lost {
    fn add(
        &mut self,
        attempt: &Attempt,
        is_first: bool,
        later: &[Attempt],
        (until, job_ended): (UnixMillis, Option<UnixMillis>),
    ) {
        let end = attempt.ended_at.unwrap_or(until);
        let ready = attempt.ready_at.map_or(end, |(at, _)| at.min(end));
        let running = attempt.running_at.unwrap_or(ready).min(ready);
        if is_first {
            self.start += between(attempt.started_at, ready);
        } else {
            self.restart += between(attempt.started_at, running);
            self.reload += between(running, ready);
        }
        let Some(over) = &attempt.over else { return };
        // After one that ended the job nothing restarts: it took until then to be rid of it.
        let ended_job = job_ended.is_some() && attempt.ended_at == job_ended;
        let stopped = attempt.stopped_at.filter(|_| !ended_job).unwrap_or(end);
        // Where the coordinator's own restart lies between, nobody heard the last steps: it made them
        // until something went wrong.
        let last = over.step_at.or(attempt.stopped_at).unwrap_or(end).clamp(ready, end);
        let known = stopped.clamp(last, end);
        self.detect += between(last, known);
        self.restart += between(known, later.first().map_or(until, |next| next.started_at));
        self.recompute += thrown_away(attempt, later, between(ready, last));
    }
}

/// The part of the time in which an attempt made steps whose steps have to be made again: those
/// before the step at which the next one that gets that far goes on.
fn thrown_away(attempt: &Attempt, later: &[Attempt], stepping: u64) -> u64 {
    let last = attempt.over.as_ref().and_then(|over| over.step);
    let resumed = later.iter().find_map(|attempt| attempt.ready_at);
    let (Some(last), Some((_, from)), Some((_, resumed))) = (last, attempt.ready_at, resumed)
    else {
        return 0;
    };
    let (made, again) = (last.saturating_sub(from), last.saturating_sub(resumed));
    if made == 0 { 0 } else { (stepping as f64 * again.min(made) as f64 / made as f64) as u64 }
}

fn between(from: UnixMillis, to: UnixMillis) -> u64 {
    to.saturating_sub(from)
}
