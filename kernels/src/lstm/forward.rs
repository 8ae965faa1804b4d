//! The layer forward: project the inputs of a chunk of steps, then step by step add the recurrent
//! product and activate, block by block, while the block's gates are in the innermost cache.

use crate::Scratch;
use crate::activation::{Activation, apply};
use crate::gemm::{Left, Multiply, Product, Right, Start, Target};
use crate::simd::{Kernel, LANES, Program, Simd};

use super::{GATES, Inputs, Kept, Lstm, block_mut};

pub(super) struct Forward<'a> {
    pub(super) layer: &'a Lstm,
    pub(super) scratch: &'a mut Scratch,
    pub(super) inputs: Inputs<'a>,
    pub(super) kept: Kept<'a>,
}

/// Rows (steps times batch) whose inputs are projected at once: enough to read each panel of
/// weights from the inner cache most of the time.
const CHUNK_ROWS: usize = 256;
/// Up to this many inputs, their product joins the recurrent one and saves storing its result.
const FUSED_INPUTS: usize = 16;

/// Weights as panels.
struct Packed<'a> {
    input: &'a [f32],
    hidden: &'a [f32],
    bias: &'a [f32],
}

impl Program for Forward<'_> {
    fn run<S: Simd>(mut self, simd: S) {
        let layer = self.layer;
        let shape = layer.shape;
        let lengths = [shape.inputs, shape.hidden, 1].map(|width| GATES * layer.padded() * width);
        let mut pieces = self.scratch.pieces(&lengths);
        let [input, hidden, bias] = lengths.map(|length| pieces.take(length));
        let weights = self.inputs.weights;
        layer.pack_forward(weights.input, shape.inputs, input);
        layer.pack_forward(weights.hidden, shape.hidden, hidden);
        layer.pack_bias(weights.input_bias, weights.hidden_bias, bias);
        let packed = Packed { input, hidden, bias };

        let (_, initial) = layer.cell_slots(layer.time_at(0));
        let cells = &mut self.kept.tape[layer.gates_len()..];
        cells[initial * layer.step_cells_len()..][..layer.step_cells_len()].fill(0.0);

        let fused = shape.inputs <= FUSED_INPUTS;
        let chunk = (CHUNK_ROWS / shape.batch).max(1);
        let mut steps = Steps { layer, inputs: self.inputs, kept: &mut self.kept, packed };
        for start in (0..shape.time).step_by(chunk) {
            let indices = start..(start + chunk).min(shape.time);
            if !fused {
                indices.clone().for_each(|index| steps.project(simd, layer.time_at(index)));
            }
            indices.for_each(|index| steps.step(simd, layer.time_at(index), fused));
        }
    }
}

struct Steps<'a, 'k> {
    layer: &'a Lstm,
    inputs: Inputs<'a>,
    kept: &'a mut Kept<'k>,
    packed: Packed<'a>,
}

impl Steps<'_, '_> {
    /// The gates of one step from its inputs alone.
    fn project<S: Simd>(&mut self, simd: S, time: usize) {
        let layer = self.layer;
        let gates_len = layer.step_gates_len();
        simd.launch(Multiply {
            target: Target {
                values: &mut self.kept.tape[time * gates_len..][..gates_len],
                panel: layer.block_len(),
                row: LANES,
                panels: GATES * layer.blocks(),
                rows: layer.shape.batch,
            },
            start: Start::Bias(self.packed.bias),
            products: &[input_product(layer, &self.inputs, self.packed.input, time)],
        });
    }

    /// All blocks of one step.
    fn step<S: Simd>(&mut self, simd: S, time: usize, fused: bool) {
        let layer = self.layer;
        let (batch, stride) = (layer.shape.batch, layer.output_stride());
        let (gates, cells) = self.kept.tape.split_at_mut(layer.gates_len());
        let gates = &mut gates[time * layer.step_gates_len()..][..layer.step_gates_len()];
        let (after, before) = layer.cell_slots(time);
        let (cells, cells_before) = two_slots(cells, layer.step_cells_len(), after, Some(before));
        let before = layer.time_before(time);
        let (output, output_before) = two_slots(self.kept.output, batch * stride, time, before);

        let panels = GATES * LANES;
        for block in 0..layer.blocks() {
            let gates =
                &mut gates[block * GATES * layer.block_len()..][..GATES * layer.block_len()];
            let (f, h) = (layer.shape.inputs * panels, layer.shape.hidden * panels);
            let weights = &self.packed.input[block * f..][..f];
            let input = input_product(layer, &self.inputs, weights, time);
            let weights = &self.packed.hidden[block * h..][..h];
            let hidden = Product {
                left: Left { values: output_before, row: stride, segment: 0, step: 1 },
                right: Right { values: weights, panel: layer.shape.hidden * LANES, segment: 0 },
                segments: 1,
                depth: layer.shape.hidden,
            };
            let products: &[Product<'_>] = match (fused, before) {
                (true, None) => &[input],
                (true, Some(_)) => &[input, hidden],
                (false, None) => &[],
                (false, Some(_)) => &[hidden],
            };
            let bias = &self.packed.bias[block * panels..][..panels];
            let start = if fused { Start::Bias(bias) } else { Start::Target };
            let target = Target {
                values: gates,
                panel: layer.block_len(),
                row: LANES,
                panels: GATES,
                rows: batch,
            };
            if !products.is_empty() {
                simd.launch(Multiply { target, start, products });
            }
            let cells_at = block * layer.block_len()..(block + 1) * layer.block_len();
            simd.launch(Activate {
                gates,
                cells_before: &cells_before[cells_at.clone()],
                cells: &mut cells[cells_at],
                output: &mut output[block * LANES..],
                stride,
            });
        }
    }
}

/// The inputs of one step times panels of their weights.
fn input_product<'a>(
    layer: &Lstm,
    inputs: &Inputs<'a>,
    panels: &'a [f32],
    time: usize,
) -> Product<'a> {
    let x = inputs.x;
    Product {
        left: Left {
            values: &x.values[time * layer.shape.batch * x.stride..],
            row: x.stride,
            segment: 0,
            step: 1,
        },
        right: Right { values: panels, panel: layer.shape.inputs * LANES, segment: 0 },
        segments: 1,
        depth: layer.shape.inputs,
    }
}

/// The slot to write and the slot to read (another one, or none) of a buffer of equal slots.
fn two_slots(
    values: &mut [f32],
    length: usize,
    write: usize,
    read: Option<usize>,
) -> (&mut [f32], &[f32]) {
    match read {
        None => (&mut values[write * length..][..length], &[]),
        Some(read) if read < write => {
            let (low, high) = values.split_at_mut(write * length);
            (&mut high[..length], &low[read * length..][..length])
        }
        Some(read) => {
            let (low, high) = values.split_at_mut(read * length);
            (&mut low[write * length..][..length], &high[..length])
        }
    }
}

/// Gates of one block from sums to activations, and the cells and outputs that follow.
struct Activate<'a> {
    /// `[gate, b, 16]`.
    gates: &'a mut [f32],
    cells_before: &'a [f32],
    cells: &'a mut [f32],
    output: &'a mut [f32],
    stride: usize,
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        use Activation::{Sigmoid, Tanh};
        let (gates, _) = self.gates.as_chunks_mut::<LANES>();
        let (cells_before, _) = self.cells_before.as_chunks::<LANES>();
        let (cells, _) = self.cells.as_chunks_mut::<LANES>();
        let rows = cells.len();
        let (input, rest) = gates.split_at_mut(rows);
        let (forget, rest) = rest.split_at_mut(rows);
        let (cell, out) = rest.split_at_mut(rows);
        for row in 0..rows {
            let sums = [
                simd.load(&input[row]),
                simd.load(&forget[row]),
                simd.load(&cell[row]),
                simd.load(&out[row]),
            ];
            let [i, f, g, o] = apply(simd, [Sigmoid, Sigmoid, Tanh, Sigmoid], sums);
            simd.store(&mut input[row], i);
            simd.store(&mut forget[row], f);
            simd.store(&mut cell[row], g);
            simd.store(&mut out[row], o);
            let c = simd.mul_add(f, simd.load(&cells_before[row]), simd.mul(i, g));
            simd.store(&mut cells[row], c);
            let [tanh] = apply(simd, [Tanh], [c]);
            simd.store(block_mut(self.output, row * self.stride), simd.mul(o, tanh));
        }
    }
}
