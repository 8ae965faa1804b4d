//! A node that somebody else pays for: the worker ends by itself when it was of no use for a while,
//! so that nodes go back also when the coordinator that asked for them is gone.

use std::time::Duration;

use common::units::display_duration;
use tokio::time::Instant;

use super::Node;
use crate::local_job::LocalJob;

/// How often it is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Lease {
    /// When there last was a coordinator.
    linked: Instant,
    /// When trainers last ran here.
    busy: Instant,
}

impl Lease {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { linked: now, busy: now }
    }
}

impl Node {
    /// Its nodes are there for jobs to come: the coordinator says when they were idle for too long.
    fn is_of_a_pool(&self) -> bool {
        self.config.allocation.as_ref().is_some_and(|name| name.pool().is_some())
    }

    /// What runs saves and leaves, as after a notice.
    pub(super) fn look_at_lease(&mut self) {
        let Some(leave_after) = self.config.leave_after else { return };
        let now = Instant::now();
        if self.link.as_ref().is_some_and(|link| link.is_welcome) {
            self.lease.linked = now;
        }
        if self.jobs.values().any(LocalJob::is_alive) {
            self.lease.busy = now;
        }
        let is_over = |since: Instant| now.duration_since(since) >= leave_after;
        let time = display_duration(leave_after);
        if is_over(self.lease.linked) {
            self.shutdown.announce(format!("there was no coordinator for {time}"));
        } else if is_over(self.lease.busy) && !self.is_of_a_pool() {
            self.shutdown.announce(format!("there was nothing to run for {time}"));
        }
    }
}
