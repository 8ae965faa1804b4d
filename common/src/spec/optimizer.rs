//! `training.optimizer`: what becomes of a gradient.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Optimizer {
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub rule: UpdateRule,
}

/// What becomes of a gradient, with the settings of its kind; in TOML and JSON an object with
/// `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
#[serde(deny_unknown_fields)]
pub enum UpdateRule {
    Adam {
        betas: [f64; 2],
        eps: f64,
        bias_correction: bool,
        /// DeepSpeed's "Adam" decays decoupled unless `adam_w_mode: false`.
        decoupled_decay: bool,
    },
    #[serde(rename = "adamw")]
    AdamW {
        betas: [f64; 2],
        eps: f64,
        bias_correction: bool,
    },
    Sgd {
        momentum: f64,
        dampening: f64,
        nesterov: bool,
    },
    Adagrad {
        eps: f64,
        lr_decay: f64,
        initial_accumulator_value: f64,
    },
    #[serde(rename = "rmsprop")]
    RmsProp {
        alpha: f64,
        eps: f64,
        momentum: f64,
        centered: bool,
    },
    Lion {
        betas: [f64; 2],
    },
    /// DeepSpeed's FusedLamb; the coefficient is kept within `min_coeff` and `max_coeff`.
    Lamb {
        betas: [f64; 2],
        eps: f64,
        bias_correction: bool,
        eps_inside_sqrt: bool,
        min_coeff: f64,
        max_coeff: f64,
    },
    #[serde(rename = "nadam")]
    NAdam {
        betas: [f64; 2],
        eps: f64,
        momentum_decay: f64,
        decoupled_decay: bool,
    },
}

impl UpdateRule {
    /// Of the rules that have them.
    pub fn betas(&self) -> Option<[f64; 2]> {
        match *self {
            Self::Adam { betas, .. }
            | Self::AdamW { betas, .. }
            | Self::Lion { betas }
            | Self::Lamb { betas, .. }
            | Self::NAdam { betas, .. } => Some(betas),
            Self::Sgd { .. } | Self::Adagrad { .. } | Self::RmsProp { .. } => None,
        }
    }
}
