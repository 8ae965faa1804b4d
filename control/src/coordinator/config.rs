//! The numbers of the coordinator's decisions, each with its reason.

use std::time::Duration;

use common::spec::Hosts;

use crate::coordinator::record::{StopDecision, StopMode};

/// Heartbeats per lease: four may be lost.
pub const HEARTBEATS_PER_LEASE: u32 = 5;

/// Deadlines and bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A worker that was silent for this long is lost.
    pub lease: Duration,
    /// Heartbeats a second of all workers together. Those that join when more would be needed get
    /// leases that are as much longer, as Nomad's clients do.
    pub max_heartbeat_rate: u32,
    /// From the start of an attempt until every trainer listens.
    pub rendezvous_timeout: Duration,
    /// From the rank table until every trainer is connected. Longer than the trainers' own connect
    /// time-out, whose message names the pair of ranks.
    pub connect_timeout: Duration,
    /// A graceful stop may take this long to save; then trainers are killed.
    pub cancel_grace: Duration,
    /// An abort may take this long; then trainers are killed.
    pub abort_grace: Duration,
    /// After the grace, a worker has this long to confirm the ends.
    pub confirm_margin: Duration,
    /// A peer's failed collective is only a third witness (A10): the report of the real cause has
    /// this long to arrive before the attempt is stopped. Below the 500 ms in which a failure
    /// stops an attempt everywhere, above the 250 ms in which a worker sees a death.
    pub witness_wait: Duration,
    /// After a restart, workers with trainers have this long to come back with their truth. Longer
    /// than the longest wait of their reconnect backoff.
    pub reattach_grace: Duration,
    /// Stops that are not confirmed are told again at this pace.
    pub resend_every: Duration,
    /// Lost and departed workers are listed for this long.
    pub forget_worker_after: Duration,
    /// Jobs may run programs of their own on workers that allow it too. Off as long as nothing
    /// authenticates who submits.
    pub allow_commands: bool,
    /// Jobs that are not final, at most.
    pub max_open_jobs: usize,
    /// Final jobs that are remembered, at most: the oldest are forgotten.
    pub max_final_jobs: usize,
    /// Allocations of SLURM that jobs have to themselves at once, those that go back among them.
    pub max_allocations: u32,
    /// Nodes that an operator expects; None: nobody said.
    pub expected: Option<Hosts>,
}

impl Config {
    /// The lease of one of so many workers.
    pub(super) fn lease_among(&self, workers: usize) -> Duration {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let heartbeats = workers.saturating_mul(HEARTBEATS_PER_LEASE);
        self.lease.max(Duration::from_secs(heartbeats.into()) / self.max_heartbeat_rate.max(1))
    }

    /// Between two heartbeats of a worker that has the usual lease.
    pub(super) fn heartbeat(&self) -> Duration {
        self.lease / HEARTBEATS_PER_LEASE
    }

    /// How long a stop may take before trainers are killed.
    pub fn grace(&self, stop: &StopDecision) -> Duration {
        stop.grace.unwrap_or(match stop.mode {
            StopMode::Gracefully => self.cancel_grace,
            StopMode::Abort => self.abort_grace,
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            max_heartbeat_rate: 1_000,
            rendezvous_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(10),
            abort_grace: Duration::from_secs(2),
            confirm_margin: Duration::from_secs(10),
            witness_wait: Duration::from_millis(400),
            reattach_grace: Duration::from_secs(30),
            resend_every: Duration::from_secs(5),
            forget_worker_after: Duration::from_secs(600),
            allow_commands: false,
            max_open_jobs: 200_000,
            max_final_jobs: 1_000,
            max_allocations: 100,
            expected: None,
        }
    }
}
