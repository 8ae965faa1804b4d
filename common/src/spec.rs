//! The effective job: what every room after the command line reads. Every default is filled in,
//! every path is absolute, the DeepSpeed configuration is merged in and its conversions are
//! recorded in `notes`. Travels as JSON and is written to `effective.toml`; same words as the job
//! file (kebab-case). Knows nothing of files: `crate::jobfile` reads, this describes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

mod checkpoint;
mod command;
mod data;
mod diagnostics;
pub(crate) mod hosts;
mod model;
mod monitor;
mod optimizer;
mod precision;
mod resources;
mod restart;
mod schedule;
mod training;
mod zero;

pub use checkpoint::{Checkpoint, Layout, Resume};
pub use command::{Command, CoreBinding};
pub use data::{Data, DataSource, Missing, Normalization};
pub use diagnostics::{Collective, CommsLog, Diagnostics, FlopsProfile, GradientCompression};
pub use hosts::{
    Host, HostSlots, Hosts, InvalidHosts, MAX_HOSTS, MAX_SLOTS, NodeNames, is_host_name,
};
pub use model::{Cnn, Model, Recurrent, RecurrentKernel};
pub use monitor::Monitor;
pub use optimizer::{Optimizer, UpdateRule};
pub use precision::{DynamicLossScale, LossScale, OnOverflow, Precision, PrecisionKind};
pub use resources::{Device, Resources, Transport};
pub use restart::Restart;
pub use schedule::{CycledMomentum, Schedule, WarmupShape};
pub use training::{Batch, BatchMismatch, EarlyStopping, Sourced, Training, Validate};
pub use zero::{Offload, OffloadDevice, Stage3, Zero};

/// A whole job, checked and complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct JobSpec {
    /// What runs in place of our trainer; None: our trainer. With it, what is about training below
    /// means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    pub job: Job,
    pub resources: Resources,
    pub model: Model,
    pub data: Data,
    pub training: Training,
    pub zero: Zero,
    pub checkpoint: Checkpoint,
    pub monitor: Monitor,
    #[serde(default)]
    pub restart: Restart,
    /// Said once at the start of a run: conversions, fallbacks, defaults that differ between
    /// DeepSpeed versions.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Job {
    pub name: String,
    pub seed: u64,
    pub priority: i32,
    /// Absolute; the job writes to `<output-dir>/<job id>/`.
    pub output_dir: PathBuf,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Reaches every trainer.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How long a collective may wait for a peer before it fails with that peer's name.
    #[serde(with = "units::duration")]
    pub collective_timeout: Duration,
    /// An attempt that gets nothing done for this long hangs, or three of its longest steps if
    /// that is more.
    #[serde(default = "default_hang_timeout", with = "units::duration")]
    pub hang_timeout: Duration,
    /// How long its attempts may hold their slots, all together; None: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::optional_duration")]
    pub time_limit: Option<Duration>,
}

fn default_hang_timeout() -> Duration {
    Job::HANG_TIMEOUT
}

impl Job {
    /// Where the job does not say.
    pub const HANG_TIMEOUT: Duration = Duration::from_secs(30);
}
