//! What a rank's memory holds, told before the run: bytes of parameters, gradients, optimizer
//! states, buffers and activations, from the job and the sizes of its model alone. Arithmetic only;
//! measures nothing and reads no file. libtorch itself and the data come on top.

use std::fmt;

use serde::Serialize;

use crate::batch::{self, BatchPlan};
use crate::spec::{Cnn, DataSource, Device, JobSpec, Model, PrecisionKind, Recurrent, UpdateRule};

mod activations;
mod advice;
mod traffic;

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
    /// Gradients on their way, at stage 3 what is gathered for a moment, what compression remembers,
    /// and the working memory of our kernel.
    pub buffers: u64,
    /// The batch, what forward keeps for backward, and what backward needs on top, of the largest
    /// micro-step.
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

/// What one rank of `plan.world` holds. Frozen parameters count as if they were trained.
pub fn estimate(spec: &JobSpec, sizes: Sizes, plan: &BatchPlan) -> Estimate {
    let (stage, world) = (spec.zero.stage, u64::from(plan.world));
    let buckets = buckets(spec, sizes, world);
    let whole: u64 = buckets.iter().map(|bucket| bucket.len).sum();
    let sharded: u64 = buckets.iter().filter(|b| b.is_sharded).map(|b| b.len).sum();
    let shard = whole / world;
    let precision = &spec.training.precision;
    let (model, sums) = (bytes_of(precision.effective), bytes_of(precision.grad_accumulation));
    let updated = if stage == 0 { whole } else { shard };
    // The master of a sharded fp32 parameter is the parameter.
    let (seen, masters) = if model == FP32 {
        (whole - sharded + sharded / world, 0)
    } else {
        (whole - sharded, updated)
    };
    let samples = plan.largest_run();
    Estimate {
        parameters: model * seen,
        gradients: sums
            * match stage {
                0 => whole,
                1 => whole + shard,
                _ => shard,
            },
        optimizer: FP32 * (masters + updated * num_states(&spec.training.optimizer.rule)),
        buffers: traffic::bytes(spec, &buckets, plan)
            + activations::kernel_scratch(spec, sizes, samples),
        activations: activations::peak(spec, sizes, samples),
    }
}

/// Whose memory it is, where that is not the host's: said behind the numbers.
pub fn place(spec: &JobSpec) -> &'static str {
    match (spec.resources.device, &spec.zero.offload_optimizer) {
        (Device::Auto | Device::Cpu, _) => "",
        (Device::Cuda, None) => ", all of it the GPU's memory",
        (Device::Cuda, Some(_)) => {
            ", parameters and activations in the GPU's memory, parameters once more and the rest in \
             the host's"
        }
    }
}

/// Elements that are kept and travel together.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    len: u64,
    /// Whole only while a unit uses it.
    is_sharded: bool,
}

/// As the engine lays them out: whole units together up to a size, and at stage 3 of each unit what
/// is sharded by itself; in forward order.
fn buckets(spec: &JobSpec, sizes: Sizes, world: u64) -> Vec<Bucket> {
    let threshold = spec.zero.stage3.param_persistence_threshold;
    let is_sharded = |len: &u64| spec.zero.stage == 3 && world > 1 && *len > threshold;
    let units = units(&spec.model, sizes);
    let total: u64 = units.iter().flatten().sum();
    let asked = spec.zero.reduce_bucket_size.clamp(1, total.max(1));
    let most = if spec.zero.overlap_comm { asked.min(OVERLAPPED_BUCKET) } else { asked };
    let mut found: Vec<Bucket> = Vec::new();
    let mut open: Option<usize> = None;
    for unit in units {
        let of = |sharded: bool| -> u64 {
            unit.iter().filter(|len| is_sharded(len) == sharded).map(|len| aligned(*len)).sum()
        };
        let (kept, sharded) = (of(false), of(true));
        match open {
            _ if kept == 0 => {}
            Some(index) if found[index].len + kept <= most => found[index].len += kept,
            _ => {
                open = Some(found.len());
                found.push(Bucket { len: kept, is_sharded: false });
            }
        }
        if sharded > 0 {
            found.push(Bucket { len: sharded, is_sharded: true });
        }
    }
    let padded =
        |bucket: Bucket| Bucket { len: bucket.len.next_multiple_of(ALIGNMENT * world), ..bucket };
    found.into_iter().map(padded).collect()
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

/// The estimate of a job as it is, where it can be told.
pub fn of_job(spec: &JobSpec, world: u32) -> Option<Estimate> {
    let plan = batch::plan(&spec.training.batch, world).ok()?;
    Some(estimate(spec, Sizes::of(spec)?, &plan))
}

#[cfg(test)]
mod tests;
