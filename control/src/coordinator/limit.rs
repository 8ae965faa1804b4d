//! How long a job may hold its slots: `job.time-limit`, all of its attempts together.

use std::time::Duration;

use common::ids::JobId;
use common::status::Failure;

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::record::{StopCause, StopDecision, StopMode};

/// No limit is longer, or its sum with the uptime would be no moment.
const MAX_LIMIT: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

impl Machine {
    /// When the job's open attempt has to stop; None: it may go on for ever.
    pub(super) fn limit_at(&self, job_id: &JobId, now: Now) -> Option<Duration> {
        let job = self.ledger.jobs.get(job_id)?;
        let limit = job.submission.spec.job.time_limit?;
        let took = job
            .attempts
            .iter()
            .map(|attempt| attempt.ended_at.unwrap_or(now.unix).saturating_sub(attempt.started_at));
        let used = Duration::from_millis(job.older_took + took.sum::<u64>());
        Some(now.uptime + limit.min(MAX_LIMIT).saturating_sub(used))
    }

    /// The time is over: it saves and leaves, and does not start again.
    pub(super) fn on_limit(&mut self, job_id: &JobId, now: Now) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let Some(limit) = job.submission.spec.job.time_limit else { return };
        let is_running = job.open_attempt().is_some_and(|attempt| attempt.running_at.is_some());
        // Before training there is nothing to save.
        let mode = if is_running { StopMode::Gracefully } else { StopMode::Abort };
        let failure = Failure {
            rank: None,
            worker: None,
            kind: None,
            message: format!("its time limit of {} is over", shown(limit)),
            last_lines: Vec::new(),
        };
        let cause = StopCause::TimeLimit;
        self.stop_attempt(
            job_id,
            StopDecision { mode, cause, ..StopDecision::failed(failure) },
            now,
        );
    }
}

/// As a job file has it.
fn shown(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if limit.subsec_nanos() == 0 && seconds % 3600 == 0 => {
            format!("{}h", seconds / 3600)
        }
        seconds if limit.subsec_nanos() == 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        _ => format!("{limit:?}"),
    }
}
