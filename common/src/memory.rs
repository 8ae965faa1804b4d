//! What a rank's memory holds, told before the run: bytes of parameters, gradients, optimizer
//! states, buffers and activations, from the job and the sizes of its model alone. Arithmetic only;
//! measures nothing and reads no file. libtorch itself and the data come on top.

use std::fmt;

use serde::Serialize;

use crate::batch::{self, BatchPlan};
use crate::spec::{
    Cnn, DataSource, JobSpec, Model, PrecisionKind, Recurrent, RecurrentKernel, UpdateRule,
};

mod advice;

pub use advice::advise;

/// Pieces of a flat buffer start on cache lines.
const ALIGNMENT: u64 = 16;
/// Elements of a bucket that travels inside backward; as the engine cuts them.
const OVERLAPPED_BUCKET: u64 = 64 * 1024;
/// Bytes of fp32, which masters, states and activations are made of.
const FP32: u64 = 4;

/// Bytes that one rank holds at its peak, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    pub parameters: u64,
    pub gradients: u64,
    /// Moments and their like, and fp32 masters where the parameters have 16 bits.
    pub optimizer: u64,
    /// Gradients on their way, and at stage 3 what is gathered for a moment.
    pub buffers: u64,
    /// What forward keeps for backward, of the largest micro-step.
    pub activations: u64,
}

impl Estimate {
    pub fn total(&self) -> u64 {
        let Self { parameters, gradients, optimizer, buffers, activations } = self;
        parameters + gradients + optimizer + buffers + activations
    }

    /// The kinds by name, in the order of the table.
    pub fn kinds(&self) -> [(&'static str, u64); 5] {
        [
            ("parameters", self.parameters),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("buffers", self.buffers),
            ("activations", self.activations),
        ]
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.kinds().map(|(name, bytes)| format!("{name} {}", in_words(bytes)));
        write!(f, "{} ({})", in_words(self.total()), kinds.join(", "))
    }
}

/// `1.5 MiB`.
pub fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// What goes into the model and what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub inputs: u64,
    pub outputs: u64,
}

impl Sizes {
    /// As far as the job tells without its data: a CSV file must name its columns.
    pub fn of(spec: &JobSpec) -> Option<Self> {
        let horizon = u64::from(spec.data.horizon.unwrap_or(1));
        match &spec.data.source {
            DataSource::Sine { .. } => Some(Self { inputs: 1, outputs: horizon }),
            DataSource::SyntheticTimeseries { features, .. } => {
                let features = u64::from(*features);
                Some(Self { inputs: features, outputs: features * horizon })
            }
            DataSource::Csv { columns, targets, .. } => {
                let targets = if targets.is_empty() { columns } else { targets };
                let (inputs, outputs) = (columns.len() as u64, targets.len() as u64 * horizon);
                (inputs > 0).then_some(Self { inputs, outputs })
            }
            DataSource::Digits { .. } => Some(Self { inputs: 1, outputs: DIGITS }),
        }
    }
}

const DIGITS: u64 = 10;
/// Pixels along a side of a digit.
const DIGIT_SIDE: u64 = 8;

/// What one rank of `plan.world` holds.
pub fn estimate(spec: &JobSpec, sizes: Sizes, plan: &BatchPlan) -> Estimate {
    let units = units(&spec.model, sizes);
    let padded: u64 =
        units.iter().map(|unit| unit.iter().map(|len| aligned(*len)).sum::<u64>()).sum();
    let whole = padded.next_multiple_of(ALIGNMENT * u64::from(plan.world));
    let shard = whole / u64::from(plan.world);
    let precision = &spec.training.precision;
    let (model, sums, wire) = (
        bytes_of(precision.effective),
        bytes_of(precision.grad_accumulation),
        bytes_of(precision.communication),
    );
    let stage = spec.zero.stage;
    let updated = if stage == 0 { whole } else { shard };
    let master = if model == FP32 { 0 } else { FP32 * updated };
    let states = FP32 * updated * num_states(&spec.training.optimizer.rule);
    let largest = units.iter().map(|unit| unit.iter().sum::<u64>()).max().unwrap_or(0);
    let in_flight = in_flight(spec, whole, largest);
    let samples = plan.largest_run();
    Estimate {
        parameters: model * if stage == 3 { shard } else { whole },
        gradients: sums
            * match stage {
                0 => whole,
                1 => whole + shard,
                _ => shard,
            },
        optimizer: master + states,
        buffers: match stage {
            0 | 1 if sums == wire => 0,
            0..=2 => wire * in_flight,
            // The unit at work and the one that comes, and its gradients.
            _ => (wire + 2 * model) * largest,
        },
        activations: samples * FP32 * activations(&spec.model, spec.data.window, sizes),
    }
}

/// Elements of the buckets that are filled and sent at one time.
fn in_flight(spec: &JobSpec, whole: u64, largest_unit: u64) -> u64 {
    const BUFFERS: u64 = 3;
    let asked = spec.zero.reduce_bucket_size.min(whole);
    let bucket = if spec.zero.overlap_comm { asked.min(OVERLAPPED_BUCKET) } else { asked };
    (BUFFERS * bucket.max(largest_unit)).min(whole)
}

fn aligned(len: u64) -> u64 {
    len.next_multiple_of(ALIGNMENT)
}

fn bytes_of(kind: PrecisionKind) -> u64 {
    match kind {
        PrecisionKind::Fp32 => FP32,
        PrecisionKind::Bf16 | PrecisionKind::Fp16 => 2,
    }
}

/// Numbers that the update rule keeps for each parameter.
fn num_states(rule: &UpdateRule) -> u64 {
    match rule {
        UpdateRule::Adam { .. }
        | UpdateRule::AdamW { .. }
        | UpdateRule::Lamb { .. }
        | UpdateRule::NAdam { .. } => 2,
        UpdateRule::Sgd { momentum, .. } => u64::from(*momentum != 0.0),
        UpdateRule::Adagrad { .. } | UpdateRule::Lion { .. } => 1,
        UpdateRule::RmsProp { momentum, centered, .. } => {
            1 + u64::from(*momentum != 0.0) + u64::from(*centered)
        }
    }
}

/// Elements of every parameter, by unit.
pub fn units(model: &Model, sizes: Sizes) -> Vec<Vec<u64>> {
    match model {
        Model::Lstm(recurrent) => recurrent_units(recurrent, 4, sizes),
        Model::Gru(recurrent) => recurrent_units(recurrent, 3, sizes),
        Model::Cnn(cnn) => cnn_units(cnn, sizes),
    }
}

fn recurrent_units(model: &Recurrent, gates: u64, sizes: Sizes) -> Vec<Vec<u64>> {
    let hidden = u64::from(model.hidden_size);
    let directions = 1 + u64::from(model.bidirectional);
    let rows = gates * hidden;
    let layer = |index: u32| {
        let inputs = if index == 0 { sizes.inputs } else { hidden * directions };
        let direction = [rows * inputs, rows * hidden, rows, rows];
        direction.repeat(directions as usize)
    };
    let head = vec![sizes.outputs * hidden * directions, sizes.outputs];
    (0..model.num_layers).map(layer).chain([head]).collect()
}

fn cnn_units(model: &Cnn, sizes: Sizes) -> Vec<Vec<u64>> {
    let kernel = u64::from(model.kernel_size);
    let (mut inputs, mut side) = (sizes.inputs, DIGIT_SIDE);
    let mut units = Vec::new();
    for channels in model.channels.iter().map(|channels| u64::from(*channels)) {
        units.push(vec![channels * inputs * kernel * kernel, channels, channels]);
        (inputs, side) = (channels, side / 2);
    }
    let hidden = u64::from(model.hidden_size);
    units.push(vec![hidden * inputs * side * side, hidden]);
    units.push(vec![sizes.outputs * hidden, sizes.outputs]);
    units
}

/// Numbers that one sample keeps between forward and backward, at the peak.
fn activations(model: &Model, window: Option<u32>, sizes: Sizes) -> u64 {
    match model {
        Model::Lstm(recurrent) => recurrent_activations(recurrent, 4, (window, sizes)),
        Model::Gru(recurrent) => recurrent_activations(recurrent, 3, (window, sizes)),
        Model::Cnn(cnn) => cnn_activations(cnn, sizes),
    }
}

/// A time step keeps its gates, its cell (LSTM) and its output; the layer above sees the output as
/// a copy, through dropout where there is some; backward makes the gradients of one layer's gates
/// and outputs while the others are still kept.
fn recurrent_activations(model: &Recurrent, gates: u64, of: (Option<u32>, Sizes)) -> u64 {
    let (window, sizes) = of;
    let hidden = u64::from(model.hidden_size);
    let directions = 1 + u64::from(model.bidirectional);
    let layers = u64::from(model.num_layers);
    // Measured, H = 256, two layers: our kernel 14 h a time step, libtorch 22.5 h.
    let is_ours = gates == 4 && runs_on_our_kernel(model.kernel);
    let (more_kept, more_in_backward) = if is_ours { (2, 2) } else { (4, gates + 2) };
    let kept = (gates + more_kept) * hidden * directions;
    let dropped = if model.dropout > 0.0 { 2 * hidden * directions * (layers - 1) } else { 0 };
    let in_backward = more_in_backward * hidden * directions;
    let step = layers * kept + dropped + in_backward + sizes.inputs;
    u64::from(window.unwrap_or(1)) * step
}

/// As the engine chooses on a machine like this one, for one thread in fp32.
fn runs_on_our_kernel(kernel: RecurrentKernel) -> bool {
    match kernel {
        RecurrentKernel::Native => true,
        RecurrentKernel::Libtorch => false,
        #[cfg(target_arch = "x86_64")]
        RecurrentKernel::Auto => {
            is_x86_feature_detected!("avx2") && !is_x86_feature_detected!("avx512f")
        }
        #[cfg(not(target_arch = "x86_64"))]
        RecurrentKernel::Auto => false,
    }
}

/// A block keeps its input for the convolution, the convolution's output for batch norm, its
/// normalised output and ReLU's, and pooling's indices of 8 bytes.
fn cnn_activations(model: &Cnn, sizes: Sizes) -> u64 {
    let (mut inputs, mut side) = (sizes.inputs, DIGIT_SIDE);
    let mut kept = inputs * side * side;
    for channels in model.channels.iter().map(|channels| u64::from(*channels)) {
        let pixels = side * side;
        let pooled = (side / 2) * (side / 2);
        kept += 3 * channels * pixels + 3 * channels * pooled;
        (inputs, side) = (channels, side / 2);
    }
    kept + inputs * side * side + 3 * u64::from(model.hidden_size) + 2 * sizes.outputs
}

/// The estimate of a job as it is, where it can be told.
pub fn of_job(spec: &JobSpec, world: u32) -> Option<Estimate> {
    let plan = batch::plan(&spec.training.batch, world).ok()?;
    Some(estimate(spec, Sizes::of(spec)?, &plan))
}

#[cfg(test)]
mod tests;
