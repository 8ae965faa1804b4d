//! What each rank keeps a part of, and where: DeepSpeed's `zero_optimization`.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Zero {
    /// 0 to 3.
    pub stage: u8,
    /// Communicate inside backward.
    pub overlap_comm: bool,
    /// Elements; capped to the model.
    pub reduce_bucket_size: u64,
    #[serde(default)]
    pub stage3: Stage3,
    /// Where masters and optimizer states live while they are not used; None: with the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload_optimizer: Option<Offload>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Offload {
    pub device: OffloadDevice,
    /// The part of the states that is offloaded.
    pub ratio: f64,
    pub pin_memory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffloadDevice {
    Cpu,
}

/// What bounds stage 3, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Stage3 {
    /// Gathers run ahead while fewer than these are on their way or wait for their unit.
    pub prefetch_bucket_size: u64,
    /// No gather runs ahead where it would make more than these live.
    pub max_live_parameters: u64,
    /// A unit's parameters stay between two uses that have fewer than these between them.
    pub max_reuse_distance: u64,
    /// A parameter with at most these stays whole on every rank.
    pub param_persistence_threshold: u64,
}

impl Default for Stage3 {
    /// DeepSpeed's, but for the distance: its 1e9 would keep all of a small model between forward
    /// and backward, which is what stage 3 is there to avoid.
    fn default() -> Self {
        Self {
            prefetch_bucket_size: 50_000_000,
            max_live_parameters: 1_000_000_000,
            max_reuse_distance: 0,
            param_persistence_threshold: 100_000,
        }
    }
}
