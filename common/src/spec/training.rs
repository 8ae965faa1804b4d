//! `[training]`: how long, with which batch, optimizer and precision.

use serde::{Deserialize, Serialize};

use super::{GradientCompression, Optimizer, Precision, Schedule};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Training {
    /// Upper bound of passes over the data.
    pub epochs: u32,
    /// Upper bound of optimizer steps; None: epochs alone decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Upper bound of validation batches (of the micro-batch times the world) per evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_eval_steps: Option<u64>,
    pub validate: Validate,
    /// Stop after this many validations without a better loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    pub batch: Batch,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    /// Global L2 norm bound; 0 disables.
    pub gradient_clipping: f64,
    pub precision: Precision,
    #[serde(default)]
    pub gradient_compression: GradientCompression,
    /// Names of parameters that stay as they are; `*` and `?` as in a shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// A unit keeps its input alone for backward and computes its activations once more.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// DeepSpeed's `steps_per_print`: a line every N steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_print: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EarlyStopping {
    pub patience: u32,
    pub min_delta: f64,
}

/// When the validation set is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validate {
    EveryEpochs(u32),
    EverySteps(u64),
    Never,
}

/// The batch triad as asked for (T = m·g·W); `crate::batch::plan` resolves it for a world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Batch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<Sourced<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<Sourced<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_accumulation: Option<Sourced<u64>>,
    pub mismatch: BatchMismatch,
}

/// A value and where it came from, in words for a person: `ds.json: train_batch_size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchMismatch {
    /// T and m stay, g = ⌈T/(m·W)⌉.
    Adapt,
    Error,
}
