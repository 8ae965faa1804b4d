//! `training.schedule`: the learning rate over the updates.

use serde::{Deserialize, Serialize};

/// Learning-rate schedules. DeepSpeed's have its timing: update k uses the value for t = k-1;
/// torch's (`step`, `cosine-restarts`) use the value for k. Updates that were skipped do not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Schedule {
    Constant,
    #[serde(rename = "warmup-lr")]
    WarmupLr {
        min_lr: f64,
        max_lr: f64,
        warmup_steps: u64,
        shape: WarmupShape,
    },
    /// As `warmup-lr`, then in a straight line back to `min_lr` at the end.
    #[serde(rename = "warmup-decay-lr")]
    WarmupDecayLr {
        min_lr: f64,
        max_lr: f64,
        warmup_steps: u64,
        shape: WarmupShape,
        /// None: the job's own number of steps, inferred at start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_steps: Option<u64>,
    },
    #[serde(rename = "warmup-cosine-lr")]
    WarmupCosineLr {
        warmup_min_ratio: f64,
        cos_min_ratio: f64,
        warmup_steps: u64,
        shape: WarmupShape,
        /// None: the job's own number of steps, inferred at start.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_steps: Option<u64>,
    },
    /// Up from `min_lr` to `max_lr` and down again, once; then it decays.
    OneCycle {
        min_lr: f64,
        max_lr: f64,
        first_steps: u64,
        second_steps: u64,
        /// 0: no stairs.
        first_stairs: u64,
        second_stairs: u64,
        /// After the cycle the rate is `min_lr / (1 + decay_rate * steps / decay_steps)`; 0 in
        /// either: it stays.
        decay_rate: f64,
        decay_steps: u64,
        /// The first beta, against the rate; the second is 0.99 meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        momentum: Option<CycledMomentum>,
    },
    LrRangeTest {
        min_lr: f64,
        step_size: u64,
        step_rate: f64,
        staircase: bool,
    },
    /// Times `gamma` every `step_size` updates.
    Step {
        step_size: u64,
        gamma: f64,
    },
    /// Cosines from the learning rate to `min_lr`, each `period_factor` times as long as the one
    /// before.
    CosineRestarts {
        first_period: u64,
        period_factor: u64,
        min_lr: f64,
    },
}

/// OneCycle's momentum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CycledMomentum {
    pub min: f64,
    pub max: f64,
    pub decay_rate: f64,
}

impl Schedule {
    /// The name and the length of a warm-up, where there is one.
    pub fn warmup(&self) -> Option<(&'static str, u64)> {
        match *self {
            Self::WarmupLr { warmup_steps, .. } => Some(("WarmupLR", warmup_steps)),
            Self::WarmupDecayLr { warmup_steps, .. } => Some(("WarmupDecayLR", warmup_steps)),
            Self::WarmupCosineLr { warmup_steps, .. } => Some(("WarmupCosineLR", warmup_steps)),
            Self::Constant
            | Self::OneCycle { .. }
            | Self::LrRangeTest { .. }
            | Self::Step { .. }
            | Self::CosineRestarts { .. } => None,
        }
    }

    /// The length that it names for itself.
    pub fn total_steps(&self) -> Option<u64> {
        match *self {
            Self::WarmupDecayLr { total_steps, .. } | Self::WarmupCosineLr { total_steps, .. } => {
                total_steps
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarmupShape {
    Log,
    Linear,
}
