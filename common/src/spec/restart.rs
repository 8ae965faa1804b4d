//! `[restart]`: how often a job that broke off starts again by itself, and when it does not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// Budgets by the kind of what happened. A failure that would only repeat itself has none: a wrong
/// configuration, bad data, numbers that are not finite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Restart {
    /// Restarts after errors of the program: it failed, panicked, crashed or exited.
    pub application: u32,
    /// Restarts within 24 hours after losses of workers, killed trainers and broken connections.
    pub infrastructure: u32,
    /// Restarts after a worker was told to leave or the job was preempted; None: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preemption: Option<u32>,
    /// So many steps that made it into checkpoints forgive what was before them.
    pub refill_steps: u64,
    /// So many equal errors of the program at one step end the job.
    pub same_step: u32,
    /// So many attempts in a row without a newer checkpoint end the job.
    pub without_progress: u32,
    /// Before the second restart in a row without a newer checkpoint; it doubles from there.
    #[serde(with = "units::duration")]
    pub backoff: Duration,
    /// No wait is longer.
    #[serde(with = "units::duration")]
    pub max_backoff: Duration,
    /// An elastic job trains at least this long before it is stopped to go on with more ranks.
    #[serde(with = "units::duration")]
    pub grow_after: Duration,
}

impl Restart {
    /// No budget and no count is larger: so much of a job's past is remembered.
    pub const MAX: u32 = 300;

    /// A job that is never started again.
    pub const NEVER: Self =
        Self { application: 0, infrastructure: 0, preemption: Some(0), ..Self::DEFAULT };

    /// A command tells no steps and saves no checkpoints of ours: they cannot be counted.
    pub const OF_COMMAND: Self =
        Self { same_step: Self::MAX, without_progress: Self::MAX, ..Self::DEFAULT };

    pub const DEFAULT: Self = Self {
        application: 3,
        infrastructure: 20,
        preemption: None,
        refill_steps: 500,
        same_step: 2,
        without_progress: 3,
        backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(60),
        grow_after: Duration::from_secs(60),
    };
}

impl Default for Restart {
    fn default() -> Self {
        Self::DEFAULT
    }
}
