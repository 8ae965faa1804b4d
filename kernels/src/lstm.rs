//! One LSTM layer in one direction over whole sequences, fp32, one thread, from a zero state.
//!
//! Promise: torch's formulas, gate order (i, f, g, o) and layouts; forward and backward are pure
//! functions of their inputs and of what forward kept, so either may run again. Refusal: no
//! dropout, projection or packed sequences, and no other precision. A layer with both directions
//! is two calls.
//!
//! The layout is what makes it fast: hidden units go in blocks of sixteen, and gates, cells and
//! weights lie so that every phase reads them as panels of [`gemm`](crate::gemm) in place.
//!
//! Sizes: t steps, b rows of the batch, f inputs, h hidden units, u blocks of hidden units.

mod backward;
mod error;
mod forward;
mod pack;

pub use error::Error;

use crate::simd::{InstructionSet, LANES};
use crate::{Scratch, lstm};

/// Gates of a unit: input, forget, cell, output.
const GATES: usize = 4;

/// Sizes of one call; all positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub time: usize,
    pub batch: usize,
    pub inputs: usize,
    pub hidden: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Forward,
    /// From the last step to the first; inputs and outputs keep their places in time.
    Reverse,
}

/// A layer: call [`Lstm::forward`], keep what it wrote, and call [`Lstm::backward`] with it.
#[derive(Debug, Clone, Copy)]
pub struct Lstm {
    shape: Shape,
    direction: Direction,
    set: InstructionSet,
}

/// A row for each (step, row of the batch), `stride` apart.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

/// In torch's layouts: `[4h, f]`, `[4h, h]`, `[4h]`, `[4h]`.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    pub input: &'a [f32],
    pub hidden: &'a [f32],
    pub input_bias: &'a [f32],
    pub hidden_bias: &'a [f32],
}

/// What forward reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Rows of f.
    pub x: Rows<'a>,
    pub weights: Weights<'a>,
}

/// What forward writes and backward reads.
#[derive(Debug)]
pub struct Kept<'a> {
    /// [`Lstm::output_len`] floats: a row of h for each (step, row of the batch),
    /// [`Lstm::output_stride`] apart. What lies between the rows means nothing.
    pub output: &'a mut [f32],
    /// [`Lstm::tape_len`] floats, for backward alone.
    pub tape: &'a mut [f32],
}

/// What backward reads.
#[derive(Debug, Clone, Copy)]
pub struct Taped<'a> {
    pub x: Rows<'a>,
    /// As forward read them.
    pub input: &'a [f32],
    pub hidden: &'a [f32],
    pub output: &'a [f32],
    pub tape: &'a [f32],
    /// The gradient of the output: rows of h.
    pub output_gradient: Rows<'a>,
}

/// Where backward writes, in torch's layouts; what was there is overwritten. Both biases have the
/// same gradient.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[t, b, f]`, if it is wanted.
    pub x: Option<&'a mut [f32]>,
    pub input: &'a mut [f32],
    pub hidden: &'a mut [f32],
    pub bias: &'a mut [f32],
}

impl Lstm {
    pub fn new(shape: Shape, direction: Direction, set: InstructionSet) -> Result<Self, Error> {
        let Shape { time, batch, inputs, hidden } = shape;
        for (name, size) in
            [("time", time), ("batch", batch), ("inputs", inputs), ("hidden", hidden)]
        {
            if !(1..=lstm::MAX_SIZE).contains(&size) {
                return Err(Error::Size { name, size, limit: lstm::MAX_SIZE });
            }
        }
        // Every buffer and index is at most a small multiple of one of these.
        let gates = GATES * hidden.next_multiple_of(LANES);
        let rows = (time + 1).checked_mul(batch);
        let weights = gates.checked_mul(inputs.max(hidden).next_multiple_of(LANES));
        let largest = rows.and_then(|rows| rows.checked_mul(gates.max(inputs)));
        match (largest, weights) {
            (Some(rows), Some(weights)) if rows.max(weights) <= MAX_FLOATS => {
                Ok(Self { shape, direction, set })
            }
            _ => Err(Error::TooLarge { shape, limit: MAX_FLOATS }),
        }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Floats from a row of the output to the next. The gap keeps columns of rows off the powers
    /// of two at which they would evict each other from the cache.
    pub fn output_stride(&self) -> usize {
        self.padded() + LANES
    }

    pub fn output_len(&self) -> usize {
        self.shape.time * self.shape.batch * self.output_stride()
    }

    pub fn tape_len(&self) -> usize {
        self.gates_len() + self.cells_len()
    }

    /// Computes the output for all steps.
    pub fn forward(
        &self,
        scratch: &mut Scratch,
        inputs: Inputs<'_>,
        kept: Kept<'_>,
    ) -> Result<(), Error> {
        let (Inputs { x, weights }, hidden) = (&inputs, self.shape.hidden);
        self.check_weights(x, weights.input, weights.hidden)?;
        check_len("input bias", weights.input_bias.len(), GATES * hidden)?;
        check_len("hidden bias", weights.hidden_bias.len(), GATES * hidden)?;
        check_len("output", kept.output.len(), self.output_len())?;
        check_len("tape", kept.tape.len(), self.tape_len())?;
        self.set.dispatch(forward::Forward { layer: self, scratch, inputs, kept });
        Ok(())
    }

    /// Computes the gradients from what forward kept for the same inputs.
    pub fn backward(
        &self,
        scratch: &mut Scratch,
        taped: Taped<'_>,
        gradients: Gradients<'_>,
    ) -> Result<(), Error> {
        self.check_weights(&taped.x, taped.input, taped.hidden)?;
        check_len("output", taped.output.len(), self.output_len())?;
        check_len("tape", taped.tape.len(), self.tape_len())?;
        let Shape { time, batch, inputs, hidden } = self.shape;
        self.check_rows("output gradient", &taped.output_gradient, hidden)?;
        if let Some(x) = &gradients.x {
            check_len("gradient of x", x.len(), time * batch * inputs)?;
        }
        check_len("gradient of input weights", gradients.input.len(), GATES * hidden * inputs)?;
        check_len("gradient of hidden weights", gradients.hidden.len(), GATES * hidden * hidden)?;
        check_len("gradient of biases", gradients.bias.len(), GATES * hidden)?;
        self.set.dispatch(backward::Backward { layer: self, scratch, taped, gradients });
        Ok(())
    }

    fn check_weights(&self, x: &Rows<'_>, input: &[f32], hidden: &[f32]) -> Result<(), Error> {
        let shape = self.shape;
        self.check_rows("x", x, shape.inputs)?;
        check_len("input weights", input.len(), GATES * shape.hidden * shape.inputs)?;
        check_len("hidden weights", hidden.len(), GATES * shape.hidden * shape.hidden)
    }

    fn check_rows(&self, name: &'static str, rows: &Rows<'_>, width: usize) -> Result<(), Error> {
        if !(width..=MAX_FLOATS).contains(&rows.stride) {
            return Err(Error::Stride { name, stride: rows.stride, width, limit: MAX_FLOATS });
        }
        let count = self.shape.time * self.shape.batch;
        let needed = (count - 1).checked_mul(rows.stride).map(|last| last + width);
        match needed {
            Some(needed) if rows.values.len() >= needed => Ok(()),
            _ => Err(Error::TooFewRows {
                name,
                length: rows.values.len(),
                count,
                stride: rows.stride,
            }),
        }
    }

    /// Blocks of hidden units.
    fn blocks(&self) -> usize {
        self.shape.hidden.div_ceil(LANES)
    }

    /// Hidden units with those that fill the last block.
    fn padded(&self) -> usize {
        self.blocks() * LANES
    }

    /// Floats of one block's gates or cells at one step are `GATES` or one times this.
    fn block_len(&self) -> usize {
        self.shape.batch * LANES
    }

    /// Gates at one step: `[u, gate, b, 16]`.
    fn step_gates_len(&self) -> usize {
        GATES * self.blocks() * self.block_len()
    }

    /// Activated gates at all steps.
    fn gates_len(&self) -> usize {
        self.shape.time * self.step_gates_len()
    }

    /// Cells at one step: `[u, b, 16]`.
    fn step_cells_len(&self) -> usize {
        self.blocks() * self.block_len()
    }

    /// Cells at all steps and before the first.
    fn cells_len(&self) -> usize {
        (self.shape.time + 1) * self.step_cells_len()
    }

    /// Slots of the cells (after the step, before it); slots go with time, and the initial state
    /// is at the end where the direction starts.
    fn cell_slots(&self, time: usize) -> (usize, usize) {
        match self.direction {
            Direction::Forward => (time + 1, time),
            Direction::Reverse => (time, time + 1),
        }
    }

    /// The step that is computed `index`th.
    fn time_at(&self, index: usize) -> usize {
        match self.direction {
            Direction::Forward => index,
            Direction::Reverse => self.shape.time - 1 - index,
        }
    }

    /// The step whose output this step reads, if it is not the first one computed.
    fn time_before(&self, time: usize) -> Option<usize> {
        match self.direction {
            Direction::Forward => time.checked_sub(1),
            Direction::Reverse => Some(time + 1).filter(|before| *before < self.shape.time),
        }
    }
}

/// Beyond it sizes are mistakes, and their products would overflow.
const MAX_SIZE: usize = 1 << 24;
/// 64 GiB in one buffer.
const MAX_FLOATS: usize = 1 << 34;

fn check_len(name: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { name, found, expected }) }
}

/// Sixteen floats from `at` on.
#[inline(always)]
fn block(values: &[f32], at: usize) -> &[f32; LANES] {
    values[at..].first_chunk().expect("blocks lie whole within their buffer")
}

/// As [`block`].
#[inline(always)]
fn block_mut(values: &mut [f32], at: usize) -> &mut [f32; LANES] {
    values[at..].first_chunk_mut().expect("blocks lie whole within their buffer")
}

#[cfg(test)]
mod tests;
