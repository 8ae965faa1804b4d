//! Recurrent models: LSTM or GRU layers, on libtorch's code or our own (`kernel`), then a linear head on the last
//! time step. A unit is a layer with all its directions, the last one is the head. Parameters carry
//! torch's names (`lstm.weight_ih_l0`, `rnn.*` for GRU, `fc.weight`) and torch's order.
//!
//! Shapes: b batch, t time, f input features, h hidden size, o outputs.

use std::rc::Rc;

use common::spec::Recurrent;
use kernels::lstm::Direction;
use tch::Tensor;

use super::dropout::dropout;
use super::kernel::{self, Kernel};
use super::{Error, Init, Parameter, Shape, Unit, UnitPass, check_rate};
use crate::native::lstm;

/// Beyond these, sizes are typing mistakes, and their products would overflow.
const MAX_HIDDEN: u32 = 1 << 16;
const MAX_LAYERS: u32 = 1 << 8;

/// What repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Lstm,
    Gru,
}

/// One recurrent layer, with all its directions.
#[derive(Debug)]
struct Layer {
    cell: Cell,
    kernel: Kernel,
    /// The first one turns its input time-major, which is how recurrent kernels work; handing them that saves the turning round between layers.
    is_first: bool,
    hidden: i64,
    bidirectional: bool,
    /// Of its input.
    dropout: f64,
    /// In torch's flat order.
    parameters: Vec<Parameter>,
}

/// `fc` on the last time step.
#[derive(Debug)]
struct Head {
    dropout: f64,
    /// `fc.weight`, `fc.bias`.
    parameters: Vec<Parameter>,
}

impl Unit for Layer {
    /// `x_btf` into the first layer, else `x_tbf`, to `y_tbh`.
    fn forward(&self, input: &Tensor, pass: UnitPass) -> Result<Tensor, Error> {
        let x_tbf = if self.is_first {
            input.f_transpose(0, 1).map_err(|source| Error::torch("turn the input", source))?
        } else {
            dropout(input, self.dropout, pass)?
        };
        if self.kernel.is_native_for(&x_tbf) {
            self.recur_natively(&x_tbf)
        } else {
            self.recur_in_libtorch(&x_tbf, pass.is_training())
        }
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

impl Layer {
    fn recur_natively(&self, x_tbf: &Tensor) -> Result<Tensor, Error> {
        let mut outputs = Vec::with_capacity(2);
        let directions = [Direction::Forward, Direction::Reverse];
        for (leaves, direction) in self.parameters.chunks_exact(4).zip(directions) {
            let [weight_ih, weight_hh, bias_ih, bias_hh] = leaves else {
                unreachable!("chunks of four");
            };
            let layer = lstm::Layer {
                weight_ih: &weight_ih.tensor,
                weight_hh: &weight_hh.tensor,
                bias_ih: &bias_ih.tensor,
                bias_hh: &bias_hh.tensor,
            };
            outputs.push(lstm::lstm(x_tbf, layer, direction)?);
        }
        if outputs.len() == 1 {
            return Ok(outputs.remove(0));
        }
        Tensor::f_cat(&outputs, 2).map_err(|source| Error::torch("join both directions", source))
    }

    fn recur_in_libtorch(&self, x_tbf: &Tensor, train: bool) -> Result<Tensor, Error> {
        let (directions, batch) = (if self.bidirectional { 2 } else { 1 }, x_tbf.size()[1]);
        let state =
            Tensor::f_zeros([directions, batch, self.hidden], (x_tbf.kind(), x_tbf.device()))
                .map_err(|source| Error::torch("make the initial state", source))?;
        let parameters: Vec<&Tensor> = self.parameters.iter().map(|p| &p.tensor).collect();
        // libtorch's own dropout acts between the layers of one call: here is only one.
        let (dropout, both_ways) = (0.0, self.bidirectional);
        match self.cell {
            Cell::Lstm => x_tbf
                .f_lstm(&[&state, &state], &parameters, true, 1, dropout, train, both_ways, false)
                .map(|(out_tbh, _, _)| out_tbh)
                .map_err(|source| Error::torch("apply `lstm`", source)),
            Cell::Gru => x_tbf
                .f_gru(&state, &parameters, true, 1, dropout, train, both_ways, false)
                .map(|(out_tbh, _)| out_tbh)
                .map_err(|source| Error::torch("apply `rnn`", source)),
        }
    }
}

impl Unit for Head {
    /// `x_tbh` to `y_bo`. The last time step of both directions, as torch's `out[:, -1]`: the
    /// reverse direction has then seen one step only, which is what the torch models of this kind
    /// train with.
    fn forward(&self, input: &Tensor, pass: UnitPass) -> Result<Tensor, Error> {
        let last_bh =
            input.f_select(0, -1).map_err(|source| Error::torch("take the last step", source))?;
        dropout(&last_bh, self.dropout, pass)?
            .f_linear(&self.parameters[0].tensor, Some(&self.parameters[1].tensor))
            .map_err(|source| Error::torch("apply `fc`", source))
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

/// The units over `parameters`, which are those of [`layout`].
pub(super) fn units(
    cell: Cell,
    spec: &Recurrent,
    parameters: Vec<Parameter>,
) -> Result<Vec<Rc<dyn Unit>>, Error> {
    let kernel = kernel::choose(spec.kernel, cell)?;
    let head = spec.num_layers as usize;
    let mut by_unit: Vec<Vec<Parameter>> = Vec::new();
    by_unit.resize_with(head + 1, Vec::new);
    for parameter in parameters {
        by_unit[parameter.unit].push(parameter);
    }
    let unit = |(index, parameters)| -> Rc<dyn Unit> {
        if index == head {
            return Rc::new(Head { dropout: spec.head_dropout, parameters });
        }
        Rc::new(Layer {
            cell,
            kernel,
            is_first: index == 0,
            hidden: i64::from(spec.hidden_size),
            bidirectional: spec.bidirectional,
            dropout: spec.dropout,
            parameters,
        })
    };
    Ok(by_unit.into_iter().enumerate().map(unit).collect())
}

/// Every parameter, in torch's order.
pub(super) fn layout(
    cell: Cell,
    spec: &Recurrent,
    [inputs, outputs]: [usize; 2],
) -> Result<Vec<Shape>, Error> {
    check_settings(spec)?;
    let (prefix, gates) = match cell {
        Cell::Lstm => ("lstm", 4),
        Cell::Gru => ("rnn", 3),
    };
    let hidden = spec.hidden_size as usize;
    let layers = spec.num_layers as usize;
    let directions: &[&str] = if spec.bidirectional { &["", "_reverse"] } else { &[""] };
    let bias = match cell {
        Cell::Lstm => Init::ForgetGate,
        Cell::Gru => Init::Fill(0.0),
    };
    let mut shapes = Vec::new();
    for layer in 0..layers {
        let layer_inputs = if layer == 0 { inputs } else { hidden * directions.len() };
        let rows = gates * hidden;
        for direction in directions {
            for (role, dims, init) in [
                // torch's fans are those of the whole gate-stacked matrix.
                ("weight_ih", vec![rows, layer_inputs], Init::xavier(rows, layer_inputs)),
                ("weight_hh", vec![rows, hidden], Init::Orthogonal),
                ("bias_ih", vec![rows], bias),
                ("bias_hh", vec![rows], bias),
            ] {
                let name = format!("{prefix}.{role}_l{layer}{direction}");
                shapes.push(Shape { name, dims, unit: layer, init });
            }
        }
    }
    let last = hidden * directions.len();
    let (unit, init) = (layers, Init::fan_in(last));
    for (name, dims) in [("fc.weight", vec![outputs, last]), ("fc.bias", vec![outputs])] {
        shapes.push(Shape { name: name.to_owned(), dims, unit, init });
    }
    Ok(shapes)
}

fn check_settings(spec: &Recurrent) -> Result<(), Error> {
    if !(1..=MAX_HIDDEN).contains(&spec.hidden_size) {
        return Error::setting("model.hidden-size", spec.hidden_size, "1 to 65536");
    }
    if !(1..=MAX_LAYERS).contains(&spec.num_layers) {
        return Error::setting("model.num-layers", spec.num_layers, "1 to 256");
    }
    check_rate("model.dropout", spec.dropout)?;
    check_rate("model.head-dropout", spec.head_dropout)
}
