//! Which precision computes, accumulates and travels, and how fp16 keeps its gradients in range.

use serde::{Deserialize, Serialize};

/// What was asked for and what the engine does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Precision {
    pub asked: PrecisionKind,
    /// What the model's parameters are and its layers compute in. Below fp32 the optimizer updates
    /// fp32 masters.
    pub effective: PrecisionKind,
    /// Gradients add up over micro-steps in it: fp32 or the effective one.
    #[serde(default = "fp32")]
    pub grad_accumulation: PrecisionKind,
    /// Gradients travel between ranks in it.
    #[serde(default = "fp32")]
    pub communication: PrecisionKind,
    /// Where sums over ranks travel in 16 bits: gradients are divided by the world before the sum,
    /// else by `gradient_predivide_factor` before and the rest after.
    #[serde(default)]
    pub prescale_gradients: bool,
    #[serde(default = "one")]
    pub gradient_predivide_factor: f64,
    /// What happens at a step whose gradients are not finite.
    #[serde(default)]
    pub on_overflow: OnOverflow,
    /// What the loss is multiplied by before backward; None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrecisionKind {
    Fp32,
    Bf16,
    Fp16,
}

/// What becomes of a step whose gradients are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnOverflow {
    /// The run ends and names step and tensor.
    #[default]
    Fail,
    /// The step is skipped and counted: weights, optimizer and schedule stay.
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum LossScale {
    Static { value: f64 },
    Dynamic(DynamicLossScale),
}

/// DeepSpeed's `fp16` block with `loss_scale: 0`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DynamicLossScale {
    /// The scale starts at 2 to this power.
    pub initial_scale_power: u32,
    /// Steps without overflow until the scale doubles.
    pub window: u64,
    /// Overflows until the scale halves.
    pub hysteresis: u32,
    /// Every good step restores the hysteresis, not only a doubling.
    pub consecutive_hysteresis: bool,
    /// The run ends at an overflow with this scale.
    pub min: f64,
}

impl Default for DynamicLossScale {
    /// DeepSpeed's.
    fn default() -> Self {
        Self {
            initial_scale_power: 16,
            window: 1000,
            hysteresis: 2,
            consecutive_hysteresis: false,
            min: 1.0,
        }
    }
}

impl Precision {
    /// Everything in fp32.
    pub const FP32: Self = Self {
        asked: PrecisionKind::Fp32,
        effective: PrecisionKind::Fp32,
        grad_accumulation: PrecisionKind::Fp32,
        communication: PrecisionKind::Fp32,
        prescale_gradients: false,
        gradient_predivide_factor: 1.0,
        on_overflow: OnOverflow::Fail,
        loss_scale: None,
    };
}

impl PrecisionKind {
    /// The job file's word: `bf16`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }
}

const fn fp32() -> PrecisionKind {
    PrecisionKind::Fp32
}

const fn one() -> f64 {
    1.0
}
