//! The effective job: what every room after the command line reads. Every default is filled in,
//! every path is absolute, the DeepSpeed configuration is merged in and its conversions are
//! recorded in `notes`. Travels as JSON and is written to `effective.toml`; same words as the job
//! file (kebab-case). Knows nothing of files: `crate::jobfile` reads, this describes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

mod command;
mod diagnostics;
pub(crate) mod hosts;
mod precision;
mod restart;

pub use command::{Command, CoreBinding};
pub use diagnostics::{Collective, CommsLog, Diagnostics, FlopsProfile, GradientCompression};
pub use hosts::{
    Host, HostSlots, Hosts, InvalidHosts, MAX_HOSTS, MAX_SLOTS, NodeNames, is_host_name,
};
pub use precision::{DynamicLossScale, LossScale, OnOverflow, Precision, PrecisionKind};
pub use restart::Restart;

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Resources {
    /// None: all idle slots at placement, as far as the next two allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_size: Option<u32>,
    /// An attempt starts with no fewer ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ranks: Option<u32>,
    /// An attempt has no more ranks; None: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ranks: Option<u32>,
    /// At most this many workers take part; None: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Where ranks may be; None: on any worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Hosts>,
    pub device: Device,
    /// Slots (cores) that one rank takes.
    pub threads_per_rank: u32,
    pub transport: Transport,
}

/// What a job that says nothing has: all idle slots of any worker, a slot for each rank.
impl Default for Resources {
    fn default() -> Self {
        Self {
            world_size: None,
            min_ranks: None,
            max_ranks: None,
            workers: None,
            hosts: None,
            device: Device::Auto,
            threads_per_rank: 1,
            transport: Transport::Auto,
        }
    }
}

impl Resources {
    /// Whether the world may change from attempt to attempt while the global batch stays.
    pub fn is_elastic(&self) -> bool {
        self.world_size.is_none() && (self.min_ranks.is_some() || self.max_ranks.is_some())
    }

    pub fn smallest_world(&self) -> u32 {
        self.world_size.or(self.min_ranks).unwrap_or(1)
    }

    /// None: as large as what is idle.
    pub fn largest_world(&self) -> Option<u32> {
        self.world_size.or(self.max_ranks)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
}

/// How ranks on CPUs reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Shared memory where two ranks can reach each other by it, else TCP.
    Auto,
    SharedMemory,
    Tcp,
}

/// Which network; in TOML and JSON an object with `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Model {
    Lstm(Recurrent),
    Gru(Recurrent),
    Cnn(Cnn),
}

/// LSTM or GRU layers, then a linear head on the last time step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recurrent {
    pub hidden_size: u32,
    pub num_layers: u32,
    /// Between recurrent layers.
    pub dropout: f64,
    /// Before `fc`.
    pub head_dropout: f64,
    pub bidirectional: bool,
    #[serde(default)]
    pub kernel: RecurrentKernel,
    /// Absolute path of a safetensors file with torch's parameter names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

/// Whose code runs recurrent layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecurrentKernel {
    /// The faster one, as far as it was measured.
    #[default]
    Auto,
    Libtorch,
    /// Our own: LSTM in fp32.
    Native,
}

/// Blocks of convolution, batch norm, ReLU and pooling by 2, then two linear layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cnn {
    /// Of each block's convolution.
    pub channels: Vec<u32>,
    /// Odd: convolutions keep height and width.
    pub kernel_size: u32,
    /// Width of `fc1`.
    pub hidden_size: u32,
    /// Before `fc2`.
    pub dropout: f64,
    /// Absolute path of a safetensors file with torch's names of parameters and buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

impl Model {
    /// The job file's word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lstm(_) => "lstm",
            Self::Gru(_) => "gru",
            Self::Cnn(_) => "cnn",
        }
    }

    pub fn init_from(&self) -> Option<&PathBuf> {
        match self {
            Self::Lstm(model) | Self::Gru(model) => model.init_from.as_ref(),
            Self::Cnn(model) => model.init_from.as_ref(),
        }
    }

    pub fn init_from_mut(&mut self) -> &mut Option<PathBuf> {
        match self {
            Self::Lstm(model) | Self::Gru(model) => &mut model.init_from,
            Self::Cnn(model) => &mut model.init_from,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Data {
    pub source: DataSource,
    /// Rows of history that one sample holds (T in the shape legends); None: samples are no
    /// windows of a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Rows after the window whose targets are predicted; None as `window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<u32>,
    pub shuffle: bool,
    pub drop_last: bool,
}

/// Where samples come from; in TOML and JSON an object with `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum DataSource {
    /// Seed 001: `samples` windows to train on, `validation-samples` of a second series.
    Sine { samples: u32, validation_samples: u32, noise: f64 },
    /// Seed 000: `samples` time steps of `features` series, `split` in time order.
    SyntheticTimeseries {
        samples: u32,
        features: u32,
        sampling_rate: f64,
        noise: f64,
        split: [f64; 3],
        normalization: Normalization,
    },
    Csv {
        /// Absolute.
        path: PathBuf,
        /// Inputs by name, or by index as text with `header = false`. Empty: every numeric column.
        columns: Vec<String>,
        /// Predicted columns. Empty: the same as `columns`.
        targets: Vec<String>,
        header: bool,
        /// Train, validation, test parts of the rows, in time order.
        split: [f64; 3],
        normalization: Normalization,
        missing: Missing,
    },
    /// Handwritten digits of 8 x 8 pixels with their classes, one a line, gzipped or not.
    Digits {
        /// Absolute.
        path: PathBuf,
        /// Train, validation, test parts of each class.
        split: [f64; 3],
    },
}

impl DataSource {
    /// The file that holds it, where there is one.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Csv { path, .. } | Self::Digits { path, .. } => Some(path),
            Self::Sine { .. } | Self::SyntheticTimeseries { .. } => None,
        }
    }

    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Csv { path, .. } | Self::Digits { path, .. } => Some(path),
            Self::Sine { .. } | Self::SyntheticTimeseries { .. } => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    None,
    /// Zero mean and unit variance, fitted on the training part.
    Standard,
    /// To 0..1, fitted on the training part.
    MinMax,
    /// Each window relative to its last value, divided by the training part's deviation of such
    /// differences.
    Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    Error,
    Drop,
    Interpolate,
}

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Checkpoint {
    /// Absolute path or URL of the root; None: `<output-dir>/<job id>/checkpoints`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_epochs: Option<u32>,
    pub keep_last: u32,
    pub keep_best: u32,
    #[serde(rename = "async")]
    pub asynchronous: bool,
    pub resume: Resume,
    pub layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resume {
    /// The newest whole checkpoint under the root, older ones where it is corrupt; none: start anew.
    Auto,
    Never,
    Best,
    Latest,
    Epoch(u64),
    Step(u64),
    /// A checkpoint directory (`.../step-00000120`), absolute.
    Path(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    Auto,
    Shared,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Monitor {
    pub tensorboard: bool,
    pub csv: bool,
    /// A DeepSpeed `tensorboard` block: another folder that gets the event files too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deepspeed_tensorboard_dir: Option<PathBuf>,
    /// A DeepSpeed `csv_monitor` block: folder of its per-tag files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deepspeed_csv_dir: Option<PathBuf>,
    #[serde(default)]
    pub diagnostics: Diagnostics,
}
