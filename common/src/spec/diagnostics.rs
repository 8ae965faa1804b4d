//! What a run measures of itself beyond its losses.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All off by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Diagnostics {
    /// Seconds of each phase of a step.
    #[serde(default)]
    pub wall_clock_breakdown: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comms_log: Option<CommsLog>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_profile: Option<FlopsProfile>,
}

/// Count, size, time and bandwidth of rank 0's collectives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommsLog {
    /// Only these; None: every kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<Collective>>,
    /// A line in the log of rank 0 for each.
    #[serde(default)]
    pub verbose: bool,
}

/// The kinds of collectives that training makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collective {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
    Barrier,
    /// Point to point: what compressed sums are made of.
    Transfer,
}

/// Operations and time of one step, told once by rank 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FlopsProfile {
    /// The optimizer step, from 1.
    pub step: u64,
    /// A line for each layer.
    pub detailed: bool,
    /// Absolute; None: the log of rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_file: Option<PathBuf>,
}

/// What gradients are squeezed into on their way between ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientCompression {
    /// They travel in the communication data type.
    #[default]
    None,
    /// They travel, and are summed, with half the bytes of fp32.
    Fp16,
    Bf16,
    /// One byte an element with a scale for each block of them; what rounding loses is added to
    /// the next step's gradient.
    Int8,
}
