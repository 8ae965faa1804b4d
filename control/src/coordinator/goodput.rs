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
        let next = job.attempts.get(index + 1);
        lost.add(attempt, index == 0, next, until);
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
        next: Option<&Attempt>,
        until: UnixMillis,
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
        let last = over.step_at.unwrap_or(ready).clamp(ready, end);
        let known = attempt.stopped_at.unwrap_or(end).clamp(last, end);
        self.detect += between(last, known);
        self.restart += between(known, next.map_or(until, |next| next.started_at));
        self.recompute += thrown_away(attempt, next, between(ready, last));
    }
}

/// The part of the time in which an attempt made steps whose steps have to be made again.
fn thrown_away(attempt: &Attempt, next: Option<&Attempt>, stepping: u64) -> u64 {
    let last = attempt.over.as_ref().and_then(|over| over.step);
    let resumed = next.and_then(|next| next.ready_at);
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
