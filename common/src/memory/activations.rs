//! What a micro-step holds between its forward and the end of its backward: what each unit keeps,
//! and what its backward needs on top while it runs.
//!
//! The numbers of libtorch's layers are those of version 2.11 on CPUs with AVX2 and with AVX-512, found by
//! listing its allocations; `engine/src/tests/memory.rs` holds the whole to what is measured.

use crate::spec::{Cnn, JobSpec, Model, PrecisionKind, Recurrent, RecurrentKernel};

use super::{DIGIT_SIDE, FP32, Sizes, bytes_of, units};

/// Floats of a vector of our kernel: hidden units come in blocks of so many.
const LANES: u64 = 16;
/// Numbers of bf16 in a cache line.
const LINE_IN_BF16: u64 = 32;
/// Rows (steps times batch) that our kernel's backward works on at once.
const CHUNK_ROWS: u64 = 256;
const LSTM_GATES: u64 = 4;

/// Bytes of one unit's pass, of a micro-step's samples.
#[derive(Debug, Clone, Copy, Default)]
struct Footprint {
    /// Lives from its forward to its backward; with it what the next unit reads, if it is kept.
    kept: u64,
    /// What the next unit reads: all that is kept where activations are made again.
    output: u64,
    /// On top while its backward runs, gradients of its weights included.
    backward: u64,
}

/// The code that runs a recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Ours,
    /// oneDNN in fp32, which keeps a workspace for backward.
    OneDnn,
    /// oneDNN in bf16: gradients in its workspace are fp32, as are those of weights in backward.
    OneDnnInBf16,
    /// Operation by operation.
    Plain,
}

/// The most bytes that `samples` take at one time.
pub(super) fn peak(spec: &JobSpec, sizes: Sizes, samples: u64) -> u64 {
    let element = bytes_of(spec.training.precision.effective);
    let window = u64::from(spec.data.window.unwrap_or(1));
    let (values, units) = match &spec.model {
        Model::Lstm(_) | Model::Gru(_) => (window * sizes.inputs, recurrent(spec, sizes, samples)),
        Model::Cnn(cnn) => {
            (sizes.inputs * DIGIT_SIDE * DIGIT_SIDE, self::cnn(spec, cnn, (sizes, samples)))
        }
    };
    let narrowed = if element == FP32 { 0 } else { element };
    let input = samples * values * (FP32 + narrowed);
    let mut before = 0;
    let mut most = 0;
    for unit in units {
        most = most.max(before + unit.kept + unit.backward);
        before += if spec.training.activation_checkpointing { unit.output } else { unit.kept };
    }
    input + most
}

/// Working memory of our kernel that stays between calls; 0 where it does not run.
pub(super) fn kernel_scratch(spec: &JobSpec, sizes: Sizes, samples: u64) -> u64 {
    let Model::Lstm(model) = &spec.model else { return 0 };
    if code(spec, model, LSTM_GATES) != Code::Ours {
        return 0;
    }
    let hidden = u64::from(model.hidden_size);
    let padded = hidden.next_multiple_of(LANES);
    let depth = LSTM_GATES * padded;
    let window = u64::from(spec.data.window.unwrap_or(1));
    let steps = (CHUNK_ROWS / samples.max(1)).clamp(1, window);
    let layer = |index: u32| {
        let inputs = inputs_of(model, index, sizes);
        let wanted = if index == 0 { 0 } else { inputs.next_multiple_of(LANES) };
        let packed = depth * (padded + wanted);
        let gates = steps * depth * samples;
        let states = samples * (padded + LANES) + padded * samples + samples * LANES;
        packed + gates + states + depth * (inputs + hidden + 1)
    };
    FP32 * (0..model.num_layers).map(layer).max().unwrap_or(0)
}

fn inputs_of(model: &Recurrent, layer: u32, sizes: Sizes) -> u64 {
    let directions = 1 + u64::from(model.bidirectional);
    if layer == 0 { sizes.inputs } else { u64::from(model.hidden_size) * directions }
}

fn recurrent(spec: &JobSpec, sizes: Sizes, samples: u64) -> Vec<Footprint> {
    let (model, gates) = match &spec.model {
        Model::Lstm(model) => (model, LSTM_GATES),
        Model::Gru(model) => (model, 3),
        Model::Cnn(_) => return Vec::new(),
    };
    let (element, code) = (bytes_of(spec.training.precision.effective), code(spec, model, gates));
    let weights = units(&spec.model, sizes);
    let layers = (0..model.num_layers).map(|index| {
        let weights: u64 = weights[index as usize].iter().sum();
        let layer = Layer { model, index, inputs: inputs_of(model, index, sizes), weights };
        let Footprint { kept, output, backward } = layer.footprint(spec, code, samples);
        Footprint { kept: element * kept, output: element * output, backward: element * backward }
    });
    // The head sees the last step alone.
    let width = u64::from(model.hidden_size) * (1 + u64::from(model.bidirectional));
    let head = element * samples * (2 * width + 2 * sizes.outputs);
    layers.chain([Footprint { kept: head, output: 0, backward: head }]).collect()
}

/// One recurrent layer with all its directions.
struct Layer<'a> {
    model: &'a Recurrent,
    index: u32,
    inputs: u64,
    /// Elements.
    weights: u64,
}

impl Layer<'_> {
    /// In elements.
    fn footprint(&self, spec: &JobSpec, code: Code, samples: u64) -> Footprint {
        let window = u64::from(spec.data.window.unwrap_or(1));
        let (rows, hidden) = (samples * window, u64::from(self.model.hidden_size));
        let directions = 1 + u64::from(self.model.bidirectional);
        let is_first = self.index == 0;
        let output = rows * hidden * directions;
        // A state before the first step belongs to the steps.
        let states = |per_step: f64| (samples * (window + 1)) as f64 * per_step;
        let input_gradient = if is_first { 0 } else { rows * self.inputs };
        let (per_direction, on_top) = match code {
            Code::Ours => {
                let padded = hidden.next_multiple_of(LANES);
                let kept = rows * (padded + LANES + LSTM_GATES * padded);
                (kept + samples * (window + 1) * padded, input_gradient + self.weights / directions)
            }
            Code::OneDnn => {
                let (h, wide) = (leading(hidden), leading(self.inputs.max(hidden)));
                let workspace = states(4.6 * h as f64 + 6.5 * wide as f64) as u64;
                let scratch = 42 * rows * hidden / 10;
                let kept = rows * (1 + LSTM_GATES) * hidden + workspace;
                let weights = 3 * self.weights / directions;
                (kept, input_gradient + scratch + weights + output - rows * hidden)
            }
            Code::OneDnnInBf16 => {
                let wide = self.inputs.max(hidden).next_multiple_of(LINE_IN_BF16);
                let workspace = states(13.5 * hidden as f64 + 4.0 * wide as f64) as u64;
                let scratch = 71 * rows * hidden / 20 + 8 * input_gradient / 10;
                let kept = rows * (1 + LSTM_GATES) * hidden + workspace;
                let weights = 5 * self.weights / directions;
                (kept, input_gradient + scratch + weights + output - rows * hidden)
            }
            Code::Plain => {
                let gates = if matches!(spec.model, Model::Lstm(_)) { 3 } else { 2 };
                let steps = (gates + directions - 1) * rows * hidden;
                // The recurrent weights' gradients of one step and the sum of those before it.
                let weights = 3 * self.weights / directions / 2;
                (8 * rows * hidden, steps.max(weights.saturating_sub(13 * output / 10)))
            }
        };
        // Both directions side by side, for the layer above; through dropout a mask and a copy.
        let is_last = self.index + 1 == self.model.num_layers;
        let joined = if directions == 2 && !is_last { output } else { 0 };
        let dropped = match (self.model.dropout > 0.0 && !is_first, code) {
            (false, _) => 0,
            (true, Code::Plain) => rows * self.inputs,
            (true, _) => 2 * rows * self.inputs,
        };
        Footprint {
            kept: directions * per_direction + joined + dropped,
            output,
            backward: output + on_top,
        }
    }
}

/// oneDNN's distance from a row of states to the next.
fn leading(width: u64) -> u64 {
    let padded = width.next_multiple_of(LANES);
    if padded.is_multiple_of(256) { padded + LANES } else { padded }
}

/// As the engine chooses on a machine like this one.
fn code(spec: &JobSpec, model: &Recurrent, gates: u64) -> Code {
    let is_fp32 = spec.training.precision.effective == PrecisionKind::Fp32;
    let is_lstm = gates == LSTM_GATES;
    let is_ours = match model.kernel {
        RecurrentKernel::Native => true,
        RecurrentKernel::Libtorch => false,
        RecurrentKernel::Auto => is_fp32 && ours_is_faster(spec.resources.threads_per_rank),
    };
    match (is_lstm, is_ours) {
        (false, _) => Code::Plain,
        (true, true) => Code::Ours,
        (true, false) if has_one_dnn(spec.training.precision.effective) => match is_fp32 {
            true => Code::OneDnn,
            false => Code::OneDnnInBf16,
        },
        (true, false) => Code::Plain,
    }
}

#[cfg(target_arch = "x86_64")]
fn ours_is_faster(threads: u32) -> bool {
    threads == 1 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn ours_is_faster(_threads: u32) -> bool {
    false
}

/// Whether libtorch hands layers of this precision to oneDNN.
#[cfg(target_arch = "x86_64")]
fn has_one_dnn(precision: PrecisionKind) -> bool {
    match precision {
        PrecisionKind::Fp32 => true,
        PrecisionKind::Bf16 => {
            is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
        }
        PrecisionKind::Fp16 => is_x86_feature_detected!("avx512fp16"),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_one_dnn(precision: PrecisionKind) -> bool {
    precision == PrecisionKind::Fp32
}

/// A block keeps its convolution's output for batch norm, ReLU's output, and pooling's output and
/// indices of 8 bytes.
fn cnn(spec: &JobSpec, model: &Cnn, (sizes, samples): (Sizes, u64)) -> Vec<Footprint> {
    const INDEX: u64 = 8;
    let precision = spec.training.precision.effective;
    let element = bytes_of(precision);
    let kernel = u64::from(model.kernel_size) * u64::from(model.kernel_size);
    let (mut inputs, mut side) = (sizes.inputs, DIGIT_SIDE);
    let mut found = Vec::new();
    for (index, channels) in model.channels.iter().map(|channels| u64::from(*channels)).enumerate()
    {
        let pixels = side * side;
        let (whole, pooled) = (samples * channels * pixels, samples * channels * pixels / 4);
        let kept = element * (2 * whole + pooled) + INDEX * pooled;
        // Pooling makes a gradient of its input; ReLU one more, with pooling's share gone; the
        // convolution of its input and weights, and without oneDNN of its input's patches. Made again,
        // the output and its gradient stay throughout.
        let held = if spec.training.activation_checkpointing { 2 * element * pooled } else { 0 };
        let relu = held + 4 * element * whole;
        let input = if index == 0 { 0 } else { samples * inputs * pixels };
        let patches = if has_one_dnn(precision) { 0 } else { samples * inputs * kernel * pixels };
        let weights = 2 * channels * inputs * kernel;
        let convolution = held + element * (whole + input + patches + weights);
        let most = (kept + element * whole).max(relu).max(convolution);
        found.push(Footprint { kept, output: element * pooled, backward: most - kept });
        (inputs, side) = (channels, side / 2);
    }
    let hidden = u64::from(model.hidden_size);
    let flat = inputs * side * side;
    let (first, second) = (element * samples * hidden, element * samples * sizes.outputs);
    let weights = element * flat * hidden;
    let backward = first + element * samples * flat + weights;
    found.push(Footprint { kept: first, output: first, backward });
    found.push(Footprint { kept: 2 * first + 4 * second, output: 0, backward: first + second });
    found
}
