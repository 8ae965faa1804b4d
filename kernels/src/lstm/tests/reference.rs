//! An LSTM layer as its formulas are written, in f64, one number at a time.

use super::super::{Direction, Inputs, Rows, Shape, Weights};

pub(super) struct Problem {
    pub(super) shape: Shape,
    pub(super) direction: Direction,
    pub(super) x: Vec<f32>,
    input: Vec<f32>,
    hidden: Vec<f32>,
    input_bias: Vec<f32>,
    hidden_bias: Vec<f32>,
    pub(super) output_gradient: Vec<f32>,
}

/// In torch's layouts.
pub(super) struct Solution {
    pub(super) output: Vec<f64>,
    pub(super) x: Vec<f64>,
    pub(super) input: Vec<f64>,
    pub(super) hidden: Vec<f64>,
    pub(super) bias: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    X,
    Input,
    Hidden,
    InputBias,
    HiddenBias,
}

/// A problem's numbers in f64.
struct Wide {
    shape: Shape,
    direction: Direction,
    x: Vec<f64>,
    input: Vec<f64>,
    hidden: Vec<f64>,
    input_bias: Vec<f64>,
    hidden_bias: Vec<f64>,
}

/// Activated gates (i, f, g, o) and cells, for each (step, row, unit).
struct Trace {
    gates: Vec<[f64; 4]>,
    cells: Vec<f64>,
    output: Vec<f64>,
}

impl Problem {
    pub(super) fn draw(shape: Shape, direction: Direction, seed: u64) -> Self {
        let Shape { time, batch, inputs, hidden } = shape;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
        let mut draw = |count: usize, scale: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
            };
            (0..count).map(|_| next()).collect()
        };
        let scale = 1.5 / (hidden as f32).sqrt();
        Self {
            shape,
            direction,
            x: draw(time * batch * inputs, 2.0),
            input: draw(4 * hidden * inputs, scale),
            hidden: draw(4 * hidden * hidden, scale),
            input_bias: draw(4 * hidden, scale),
            hidden_bias: draw(4 * hidden, scale),
            output_gradient: draw(time * batch * hidden, 1.0),
        }
    }

    pub(super) fn inputs(&self) -> Inputs<'_> {
        Inputs {
            x: Rows { values: &self.x, stride: self.shape.inputs },
            weights: Weights {
                input: &self.input,
                hidden: &self.hidden,
                input_bias: &self.input_bias,
                hidden_bias: &self.hidden_bias,
            },
        }
    }

    /// The same for some rows of the batch.
    pub(super) fn part(&self, first: usize, count: usize) -> Self {
        let batch = self.shape.batch;
        let cut = |values: &[f32], width: usize| -> Vec<f32> {
            let steps = values.chunks_exact(batch * width);
            steps.flat_map(|step| &step[first * width..][..count * width]).copied().collect()
        };
        Self {
            shape: Shape { batch: count, ..self.shape },
            direction: self.direction,
            x: cut(&self.x, self.shape.inputs),
            input: self.input.clone(),
            hidden: self.hidden.clone(),
            input_bias: self.input_bias.clone(),
            hidden_bias: self.hidden_bias.clone(),
            output_gradient: cut(&self.output_gradient, self.shape.hidden),
        }
    }

    fn widened(&self) -> Wide {
        let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
        Wide {
            shape: self.shape,
            direction: self.direction,
            x: wide(&self.x),
            input: wide(&self.input),
            hidden: wide(&self.hidden),
            input_bias: wide(&self.input_bias),
            hidden_bias: wide(&self.hidden_bias),
        }
    }

    /// The loss whose gradient of the output is `output_gradient`, after one number was changed.
    pub(super) fn nudged(&self, which: Of, at: usize, by: f64) -> f64 {
        let mut wide = self.widened();
        let values = match which {
            Of::X => &mut wide.x,
            Of::Input => &mut wide.input,
            Of::Hidden => &mut wide.hidden,
            Of::InputBias => &mut wide.input_bias,
            Of::HiddenBias => &mut wide.hidden_bias,
        };
        values[at] += by;
        let output = wide.forward().output;
        output.iter().zip(&self.output_gradient).map(|(y, g)| y * f64::from(*g)).sum()
    }

    pub(super) fn solve(&self) -> Solution {
        let wide = self.widened();
        let trace = wide.forward();
        wide.backward(trace, &self.output_gradient)
    }
}

impl Wide {
    /// Steps in the order of computation, each with the one before it.
    fn steps(&self) -> Vec<(usize, Option<usize>)> {
        let last = self.shape.time - 1;
        let order: Vec<usize> = match self.direction {
            Direction::Forward => (0..=last).collect(),
            Direction::Reverse => (0..=last).rev().collect(),
        };
        let before = [None].into_iter().chain(order.iter().copied().map(Some));
        order.iter().copied().zip(before).collect()
    }

    fn forward(&self) -> Trace {
        let Shape { time, batch, inputs, hidden } = self.shape;
        let count = time * batch * hidden;
        let mut trace = Trace {
            gates: vec![[0.0; 4]; count],
            cells: vec![0.0; count],
            output: vec![0.0; count],
        };
        for (step, before) in self.steps() {
            for row in 0..batch {
                for unit in 0..hidden {
                    let sums = [0, 1, 2, 3].map(|gate| {
                        let w = gate * hidden + unit;
                        let x = &self.x[(step * batch + row) * inputs..][..inputs];
                        let weights = &self.input[w * inputs..][..inputs];
                        let mut sum = self.input_bias[w] + self.hidden_bias[w] + dot(x, weights);
                        if let Some(before) = before {
                            let h = &trace.output[(before * batch + row) * hidden..][..hidden];
                            sum += dot(h, &self.hidden[w * hidden..][..hidden]);
                        }
                        sum
                    });
                    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
                    let [i, f, g, o] =
                        [sigmoid(sums[0]), sigmoid(sums[1]), sums[2].tanh(), sigmoid(sums[3])];
                    let at = (step * batch + row) * hidden + unit;
                    let cell =
                        before.map_or(0.0, |t| trace.cells[(t * batch + row) * hidden + unit]);
                    trace.gates[at] = [i, f, g, o];
                    trace.cells[at] = f * cell + i * g;
                    trace.output[at] = o * trace.cells[at].tanh();
                }
            }
        }
        trace
    }

    fn backward(&self, trace: Trace, output_gradient: &[f32]) -> Solution {
        let Shape { time, batch, inputs, hidden } = self.shape;
        let mut solution = Solution {
            output: Vec::new(),
            x: vec![0.0; time * batch * inputs],
            input: vec![0.0; 4 * hidden * inputs],
            hidden: vec![0.0; 4 * hidden * hidden],
            bias: vec![0.0; 4 * hidden],
        };
        let mut dh = vec![0.0; time * batch * hidden];
        dh.iter_mut().zip(output_gradient).for_each(|(to, from)| *to = f64::from(*from));
        let mut dc = vec![0.0; batch * hidden];
        for (step, before) in self.steps().into_iter().rev() {
            for row in 0..batch {
                for unit in 0..hidden {
                    let at = (step * batch + row) * hidden + unit;
                    let before_at = before.map(|t| (t * batch + row) * hidden);
                    let [i, f, g, o] = trace.gates[at];
                    let tanh = trace.cells[at].tanh();
                    let dc = &mut dc[row * hidden + unit];
                    *dc += dh[at] * o * (1.0 - tanh * tanh);
                    let cell = before_at.map_or(0.0, |before| trace.cells[before + unit]);
                    let sums = [
                        *dc * g * i * (1.0 - i),
                        *dc * cell * f * (1.0 - f),
                        *dc * i * (1.0 - g * g),
                        dh[at] * tanh * o * (1.0 - o),
                    ];
                    *dc *= f;
                    for (gate, sum) in sums.into_iter().enumerate() {
                        let w = gate * hidden + unit;
                        solution.bias[w] += sum;
                        for k in 0..inputs {
                            let x = (step * batch + row) * inputs + k;
                            solution.input[w * inputs + k] += sum * self.x[x];
                            solution.x[x] += sum * self.input[w * inputs + k];
                        }
                        for k in 0..before_at.map_or(0, |_| hidden) {
                            let h = before_at.unwrap() + k;
                            solution.hidden[w * hidden + k] += sum * trace.output[h];
                            dh[h] += sum * self.hidden[w * hidden + k];
                        }
                    }
                }
            }
        }
        solution.output = trace.output;
        solution
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
