//! Recurrent models on libtorch's own kernels: LSTM or GRU layers, then a linear head on the last
//! time step. A unit is a layer with all its directions, the last one is the head. Parameters carry
//! torch's names (`lstm.weight_ih_l0`, `rnn.*` for GRU, `fc.weight`) and torch's order.
//!
//! Shapes: b batch, t time, f input features, h hidden size, o outputs.

use std::rc::Rc;

use common::spec::Recurrent;
use tch::Tensor;

use super::dropout::dropout;
use super::{Error, Parameter, Shape, Unit, UnitPass, check_rate};

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
    /// The first one turns its input time-major, which is how libtorch's recurrent kernels work;
    /// handing them that saves the turning round between layers.
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
        self.recur(&x_tbf, pass.is_training())
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

impl Layer {
    fn recur(&self, x_tbf: &Tensor, train: bool) -> Result<Tensor, Error> {
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
pub(super) fn units(cell: Cell, spec: &Recurrent, parameters: Vec<Parameter>) -> Vec<Rc<dyn Unit>> {
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
            is_first: index == 0,
            hidden: i64::from(spec.hidden_size),
            bidirectional: spec.bidirectional,
            dropout: spec.dropout,
            parameters,
        })
    };
    by_unit.into_iter().enumerate().map(unit).collect()
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
    let mut shapes = Vec::new();
    for layer in 0..layers {
        let layer_inputs = if layer == 0 { inputs } else { hidden * directions.len() };
        for direction in directions {
            for (role, dims) in [
                ("weight_ih", vec![gates * hidden, layer_inputs]),
                ("weight_hh", vec![gates * hidden, hidden]),
                ("bias_ih", vec![gates * hidden]),
                ("bias_hh", vec![gates * hidden]),
            ] {
                let name = format!("{prefix}.{role}_l{layer}{direction}");
                shapes.push(Shape { name, dims, unit: layer });
            }
        }
    }
    let last = hidden * directions.len();
    shapes.push(Shape { name: "fc.weight".to_owned(), dims: vec![outputs, last], unit: layers });
    shapes.push(Shape { name: "fc.bias".to_owned(), dims: vec![outputs], unit: layers });
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
