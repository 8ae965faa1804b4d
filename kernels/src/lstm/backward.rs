//! The layer backward: step by step from the last computed one, the gradient of the output and of
//! the next step's gates become the gradient of this step's gates; per chunk of steps, while those
//! are in the second cache, they become gradients of weights and inputs.

use crate::Scratch;
use crate::gemm::{Left, Multiply, Product, Right, Start, Target};
use crate::simd::{Kernel, LANES, Program, Simd};

use super::{GATES, Gradients, Lstm, Taped, block};

pub(super) struct Backward<'a> {
    pub(super) layer: &'a Lstm,
    pub(super) scratch: &'a mut Scratch,
    pub(super) taped: Taped<'a>,
    pub(super) gradients: Gradients<'a>,
}

/// Rows (steps times batch) whose gate gradients are kept at once, and which one pass over the
/// weights' gradients sums: fewer would have those sums come and go more often.
const CHUNK_ROWS: usize = 256;
/// Runs of sixteen gate gradients that one pass over the hidden state's gradient sums: their
/// panel of weights takes half of the innermost cache.
const HIDDEN_SEGMENTS: usize = 16;

/// Buffers of one call.
struct Work<'a> {
    /// Panels of backward's products.
    hidden_panels: &'a [f32],
    input_panels: &'a [f32],
    /// Gradients of gates, a slot for each step of the chunk: `[u, gate, b, 16]`.
    gates: &'a mut [f32],
    /// `[b, output stride]`.
    hidden: &'a mut [f32],
    /// `[u, b, 16]`.
    cells: &'a mut [f32],
    /// Gradients of the weights as panels: `[u, gate, f or h, 16]`, and `[u, gate, 16]`.
    input_weights: &'a mut [f32],
    hidden_weights: &'a mut [f32],
    bias: &'a mut [f32],
    /// Columns of the inputs' gradient that do not fill a vector: `[b, 16]`.
    last_inputs: &'a mut [f32],
}

/// Steps of one chunk: `first` and the `count - 1` after it in time.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    count: usize,
}

impl Program for Backward<'_> {
    fn run<S: Simd>(self, simd: S) {
        let Self { layer, scratch, taped, mut gradients } = self;
        let shape = layer.shape;
        let steps = (CHUNK_ROWS / shape.batch).clamp(1, shape.time);
        let mut work = Work::new(layer, scratch, steps, &taped, gradients.x.is_some());
        let mut pass = Pass { layer, taped, work: &mut work };

        let mut previous = None;
        let mut remaining = shape.time;
        while remaining > 0 {
            let count = steps.min(remaining);
            // In the order of computation the chunk is `remaining - count..remaining`.
            let ends = [remaining - count, remaining - 1].map(|index| layer.time_at(index));
            let chunk = Chunk { first: ends[0].min(ends[1]), count };
            for index in (remaining - count..remaining).rev() {
                let time = layer.time_at(index);
                pass.load_output_gradient(time);
                if let Some(slot) = previous {
                    pass.add_recurrent_gradient(simd, slot);
                }
                pass.gate_gradients(simd, time, time - chunk.first);
                previous = Some(time - chunk.first);
            }
            if let Some(x) = gradients.x.as_deref_mut() {
                pass.input_gradients(simd, chunk, x);
            }
            pass.weight_gradients(simd, chunk);
            remaining -= count;
        }
        layer.unpack(work.input_weights, shape.inputs, gradients.input);
        layer.unpack(work.hidden_weights, shape.hidden, gradients.hidden);
        layer.unpack(work.bias, 1, gradients.bias);
    }
}

impl<'a> Work<'a> {
    fn new(
        layer: &Lstm,
        scratch: &'a mut Scratch,
        steps: usize,
        taped: &Taped<'_>,
        wants_x: bool,
    ) -> Self {
        let shape = layer.shape;
        let depth = GATES * layer.padded();
        let input_columns = if wants_x { shape.inputs.next_multiple_of(LANES) } else { 0 };
        let lengths = [
            depth * layer.padded(),
            depth * input_columns,
            steps * layer.step_gates_len(),
            shape.batch * layer.output_stride(),
            layer.step_cells_len(),
            depth * shape.inputs,
            depth * shape.hidden,
            depth,
            layer.block_len(),
        ];
        let mut pieces = scratch.pieces(&lengths);
        let [hidden_panels, input_panels] = [lengths[0], lengths[1]].map(|l| pieces.take(l));
        layer.pack_backward(taped.hidden, shape.hidden, hidden_panels);
        layer.pack_backward(taped.input, shape.inputs, input_panels);
        let gates = pieces.take(lengths[2]);
        let [hidden, cells, input_weights, hidden_weights, bias, last_inputs] =
            [3, 4, 5, 6, 7, 8].map(|index| pieces.take_zeroed(lengths[index]));
        Self {
            hidden_panels,
            input_panels,
            gates,
            hidden,
            cells,
            input_weights,
            hidden_weights,
            bias,
            last_inputs,
        }
    }
}

struct Pass<'a, 'w> {
    layer: &'a Lstm,
    taped: Taped<'a>,
    work: &'a mut Work<'w>,
}

impl Pass<'_, '_> {
    /// The hidden state's gradient starts as that of this step's output.
    fn load_output_gradient(&mut self, time: usize) {
        let (batch, hidden) = (self.layer.shape.batch, self.layer.shape.hidden);
        let from = self.taped.output_gradient;
        let rows = self.work.hidden.chunks_exact_mut(self.layer.output_stride());
        for (row, to) in rows.enumerate() {
            let at = (time * batch + row) * from.stride;
            let (real, padding) = to.split_at_mut(hidden);
            real.copy_from_slice(&from.values[at..][..hidden]);
            padding.fill(0.0);
        }
    }

    /// Adds what comes through the gates of the step that was computed next, whose gradients are
    /// in this slot.
    fn add_recurrent_gradient<S: Simd>(&mut self, simd: S, slot: usize) {
        let layer = self.layer;
        let gates_len = layer.step_gates_len();
        let gates = &self.work.gates[slot * gates_len..][..gates_len];
        let target = Target {
            values: self.work.hidden,
            panel: LANES,
            row: layer.output_stride(),
            panels: layer.blocks(),
            rows: layer.shape.batch,
        };
        let panels = self.work.hidden_panels;
        through_weights(simd, layer, gates, panels, (target, Start::Target));
    }

    fn gate_gradients<S: Simd>(&mut self, simd: S, time: usize, slot: usize) {
        let layer = self.layer;
        let (gates, cells) = self.taped.tape.split_at(layer.gates_len());
        let gates = &gates[time * layer.step_gates_len()..][..layer.step_gates_len()];
        let (_, before) = layer.cell_slots(time);
        let cells = &cells[before * layer.step_cells_len()..][..layer.step_cells_len()];
        let stride = layer.output_stride();
        let output = &self.taped.output[time * layer.shape.batch * stride..];
        let to = &mut self.work.gates[slot * layer.step_gates_len()..][..layer.step_gates_len()];
        let (block_len, gates_len) = (layer.block_len(), GATES * layer.block_len());
        for block in 0..layer.blocks() {
            let to = &mut to[block * gates_len..][..gates_len];
            simd.launch(GateGradients {
                gates: &gates[block * gates_len..][..gates_len],
                cells_before: &cells[block * block_len..][..block_len],
                output: &output[block * LANES..],
                output_gradient: &self.work.hidden[block * LANES..],
                stride,
                cell_gradient: &mut self.work.cells[block * block_len..][..block_len],
                to,
                bias: &mut self.work.bias[block * GATES * LANES..][..GATES * LANES],
            });
            let real = layer.shape.hidden - block * LANES;
            if real < LANES {
                // Units that only fill the block may hold NaN (an infinite input times their zero
                // weight), which would spread through the products.
                to.chunks_exact_mut(LANES).for_each(|lanes| lanes[real..].fill(0.0));
            }
        }
    }

    /// The gradient of the inputs of a chunk.
    fn input_gradients<S: Simd>(&mut self, simd: S, chunk: Chunk, x: &mut [f32]) {
        let layer = self.layer;
        let (batch, inputs) = (layer.shape.batch, layer.shape.inputs);
        let (whole, rest) = (inputs / LANES, inputs % LANES);
        let panel_len = GATES * layer.padded() * LANES;
        for slot in 0..chunk.count {
            let gates = &self.work.gates[slot * layer.step_gates_len()..][..layer.step_gates_len()];
            let x = &mut x[(chunk.first + slot) * batch * inputs..][..batch * inputs];
            let (panels, last_panel) = self.work.input_panels.split_at(whole * panel_len);
            if whole > 0 {
                let target =
                    Target { values: x, panel: LANES, row: inputs, panels: whole, rows: batch };
                through_weights(simd, layer, gates, panels, (target, Start::Zero));
            }
            if rest > 0 {
                let target = Target {
                    values: self.work.last_inputs,
                    panel: 0,
                    row: LANES,
                    panels: 1,
                    rows: batch,
                };
                through_weights(simd, layer, gates, last_panel, (target, Start::Zero));
                let last = self.work.last_inputs.chunks_exact(LANES);
                for (row, last) in x.chunks_exact_mut(inputs).zip(last) {
                    row[whole * LANES..].copy_from_slice(&last[..rest]);
                }
            }
        }
    }

    /// Adds a chunk to the gradients of the weights: transposed, because the gates' gradients
    /// are panels already, and the columns of inputs and outputs can be read in place.
    fn weight_gradients<S: Simd>(&mut self, simd: S, chunk: Chunk) {
        let layer = self.layer;
        let (batch, stride) = (layer.shape.batch, layer.output_stride());
        let Chunk { first, count } = chunk;
        let x = self.taped.x;
        let columns = Left {
            values: &x.values[first * batch * x.stride..],
            row: 1,
            segment: batch * x.stride,
            step: x.stride,
        };
        let (gates, sums) = (&*self.work.gates, &mut *self.work.input_weights);
        add_outer(simd, layer, (columns, layer.shape.inputs), (gates, 0, count), sums);

        // Outputs meet the gates of the step that read them; the first step computed read none.
        let readers = (first..first + count).filter(|t| layer.time_before(*t).is_some());
        let Some(reader) = readers.clone().next() else { return };
        let read = layer.time_before(reader).expect("readers are those that have one");
        let columns = Left {
            values: &self.taped.output[read * batch * stride..],
            row: 1,
            segment: batch * stride,
            step: stride,
        };
        let slots = (gates, reader - first, readers.count());
        let sums = &mut *self.work.hidden_weights;
        add_outer(simd, layer, (columns, layer.shape.hidden), slots, sums);
    }
}

/// `target = start + gates * weights`: the gates' gradients of one step back through a layer's weights.
fn through_weights<S: Simd>(
    simd: S,
    layer: &Lstm,
    gates: &[f32],
    panels: &[f32],
    (target, start): (Target<'_>, Start<'_>),
) {
    let segments = GATES * layer.blocks();
    let tile = LANES * LANES;
    for first in (0..segments).step_by(HIDDEN_SEGMENTS) {
        let product = Product {
            left: Left {
                values: &gates[first * layer.block_len()..],
                row: LANES,
                segment: layer.block_len(),
                step: 1,
            },
            right: Right { values: &panels[first * tile..], panel: segments * tile, segment: tile },
            segments: HIDDEN_SEGMENTS.min(segments - first),
            depth: LANES,
        };
        let start = if first == 0 { start } else { Start::Target };
        let target = Target { values: &mut *target.values, ..target };
        simd.launch(Multiply { target, start, products: &[product] });
    }
}

/// Adds to the gradients of weights (`[u, gate, width, 16]`) the products of `width` columns with
/// the gates' gradients of `count` slots.
fn add_outer<S: Simd>(
    simd: S,
    layer: &Lstm,
    (columns, width): (Left<'_>, usize),
    (gates, slot, count): (&[f32], usize, usize),
    sums: &mut [f32],
) {
    let (gates_len, block_len) = (layer.step_gates_len(), layer.block_len());
    let gates = &gates[slot * gates_len..];
    for (block, sums) in sums.chunks_exact_mut(GATES * width * LANES).enumerate() {
        let product = Product {
            left: columns,
            right: Right {
                values: &gates[block * GATES * block_len..],
                panel: block_len,
                segment: gates_len,
            },
            segments: count,
            depth: layer.shape.batch,
        };
        let target =
            Target { values: sums, panel: width * LANES, row: LANES, panels: GATES, rows: width };
        simd.launch(Multiply { target, start: Start::Target, products: &[product] });
    }
}

/// The gradients of one block's gates at one step, and of the cells before it.
struct GateGradients<'a> {
    /// Activated: `[gate, b, 16]`.
    gates: &'a [f32],
    cells_before: &'a [f32],
    output: &'a [f32],
    output_gradient: &'a [f32],
    /// Of the output and its gradient.
    stride: usize,
    /// In: of the cells after the step; out: before it.
    cell_gradient: &'a mut [f32],
    to: &'a mut [f32],
    /// Sums over all rows.
    bias: &'a mut [f32],
}

impl Kernel for GateGradients<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gates, _) = self.gates.as_chunks::<LANES>();
        let (cells_before, _) = self.cells_before.as_chunks::<LANES>();
        let (cell_gradient, _) = self.cell_gradient.as_chunks_mut::<LANES>();
        let (to, _) = self.to.as_chunks_mut::<LANES>();
        let (bias, _) = self.bias.as_chunks_mut::<LANES>();
        let rows = cell_gradient.len();
        let mut sums = [simd.splat(0.0); GATES];
        for (sum, bias) in sums.iter_mut().zip(bias.iter()) {
            *sum = simd.load(bias);
        }
        let one = simd.splat(1.0);
        for row in 0..rows {
            let i = simd.load(&gates[row]);
            let f = simd.load(&gates[rows + row]);
            let g = simd.load(&gates[2 * rows + row]);
            let o = simd.load(&gates[3 * rows + row]);
            // The output is o tanh(c), and o is never 0.
            let tanh = simd.div(simd.load(block(self.output, row * self.stride)), o);
            let dh = simd.load(block(self.output_gradient, row * self.stride));
            let through = simd.mul(dh, o);
            let dc = simd.load(&cell_gradient[row]);
            let dc = simd.add(dc, simd.mul(through, simd.neg_mul_add(tanh, tanh, one)));
            simd.store(&mut cell_gradient[row], simd.mul(dc, f));
            // sigmoid' = s (1 - s), tanh' = 1 - t^2.
            let before = simd.load(&cells_before[row]);
            let found = [
                simd.mul(simd.mul(dc, g), simd.mul(i, simd.sub(one, i))),
                simd.mul(simd.mul(dc, before), simd.mul(f, simd.sub(one, f))),
                simd.mul(simd.mul(dc, i), simd.neg_mul_add(g, g, one)),
                simd.mul(simd.mul(dh, tanh), simd.mul(o, simd.sub(one, o))),
            ];
            for (gate, value) in found.into_iter().enumerate() {
                simd.store(&mut to[gate * rows + row], value);
                sums[gate] = simd.add(sums[gate], value);
            }
        }
        for (to, sum) in bias.iter_mut().zip(sums) {
            simd.store(to, sum);
        }
    }
}
