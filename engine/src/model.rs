//! Recurrent models on libtorch's own kernels: LSTM or GRU layers, then a linear head on the last
//! time step. Parameters carry torch's names (`lstm.weight_ih_l0`, `rnn.*` for GRU, `fc.weight`)
//! and torch's order. Refusal: the model knows no rank, world or optimizer; who shards it points
//! its parameters at other storage.
//!
//! Shapes: b batch, t time, f input features, h hidden size, d directions, l layers, o outputs.

use std::path::Path;

use common::spec;
use tch::{Kind, Tensor};

mod dropout;
mod error;
mod init;
mod weights;

pub use error::Error;

use dropout::Dropout;

use crate::rng;

/// A leaf tensor of the model.
#[derive(Debug)]
pub struct Parameter {
    /// Torch's: `lstm.weight_hh_l0_reverse`.
    pub name: String,
    /// Requires a gradient. `set_data` points it (and with it the model) at other storage of the
    /// same shape, such as a view of a flat buffer.
    pub tensor: Tensor,
    /// Parameters of one unit are used together: a recurrent layer with all its directions, or
    /// the head. Units are numbered in forward order, from 0, without gaps.
    pub unit: usize,
}

/// A model with its parameters, on the CPU, in fp32.
#[derive(Debug)]
pub struct Model {
    kind: spec::ModelKind,
    inputs: i64,
    hidden: i64,
    layers: i64,
    dropout: f64,
    head_dropout: f64,
    bidirectional: bool,
    /// The recurrent ones in torch's flat order, then `fc.weight`, `fc.bias`.
    parameters: Vec<Parameter>,
}

/// What a forward pass is for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made once per pass and never stored")]
pub enum Pass {
    Evaluate,
    /// Dropout draws its masks from this stream (`rng::dropout`).
    Train(rng::Stream),
}

/// Makes the model of `spec` for `inputs` features and `outputs` predicted values. Its weights
/// come from `spec.init_from`, else from `seed` alone: the same on every rank and machine.
pub fn build(spec: &spec::Model, inputs: usize, outputs: usize, seed: u64) -> Result<Model, Error> {
    let shapes = layout(spec, inputs, outputs)?;
    let parameters = match &spec.init_from {
        Some(path) => weights::load(path, shapes)?,
        None => init::draw(spec.kind, shapes, seed)?,
    };
    Ok(Model {
        kind: spec.kind,
        inputs: inputs as i64,
        hidden: i64::from(spec.hidden_size),
        layers: i64::from(spec.num_layers),
        dropout: spec.dropout,
        head_dropout: spec.head_dropout,
        bidirectional: spec.bidirectional,
        parameters,
    })
}

impl Model {
    /// `x_btf` (fp32) to `y_bo`.
    pub fn forward(&self, x_btf: &Tensor, pass: Pass) -> Result<Tensor, Error> {
        self.check_input(x_btf)?;
        let train = matches!(pass, Pass::Train(_));
        let mut dropout = Dropout::new(pass);
        let (recurrent, head) = self.parameters.split_at(self.parameters.len() - 2);
        // libtorch's recurrent kernels work time-major; handing them that saves the turning round
        // between layers.
        let mut out_tbh =
            x_btf.f_transpose(0, 1).map_err(|source| Error::torch("turn the input", source))?;
        let per_layer = recurrent.len() / self.layers as usize;
        for (layer, parameters) in recurrent.chunks_exact(per_layer).enumerate() {
            if layer > 0 {
                out_tbh = dropout.apply(out_tbh, self.dropout)?;
            }
            let parameters: Vec<&Tensor> = parameters.iter().map(|p| &p.tensor).collect();
            out_tbh = self.recur(&out_tbh, &parameters, train)?;
        }
        // The last time step of both directions, as torch's `out[:, -1]`: the reverse direction
        // has then seen one step only, which is what the torch models of this kind train with.
        let last_bh =
            out_tbh.f_select(0, -1).map_err(|source| Error::torch("take the last step", source))?;
        dropout
            .apply(last_bh, self.head_dropout)?
            .f_linear(&head[0].tensor, Some(&head[1].tensor))
            .map_err(|source| Error::torch("apply `fc`", source))
    }

    /// In forward order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// In forward order, for who points them at other storage.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// Of units, one per recurrent layer and one for the head.
    pub fn num_units(&self) -> usize {
        self.layers as usize + 1
    }

    pub fn num_elements(&self) -> usize {
        self.parameters.iter().map(|p| p.tensor.numel()).sum()
    }

    /// What makes the model this one, for a checkpoint's manifest.
    pub fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": self.kind,
            "input-features": self.inputs,
            "output-features": self.parameters.last().map(|p| p.tensor.numel()),
            "hidden-size": self.hidden,
            "num-layers": self.layers,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "head-dropout": self.head_dropout,
        })
    }

    /// libtorch reports a wrong shape from deep inside; this names it.
    fn check_input(&self, x_btf: &Tensor) -> Result<(), Error> {
        let size = x_btf.size();
        match size[..] {
            [batch, time, features] if batch > 0 && time > 0 && features == self.inputs => {
                if x_btf.kind() == Kind::Float {
                    return Ok(());
                }
                Err(Error::InputKind { found: x_btf.kind() })
            }
            _ => Err(Error::InputShape { found: size, features: self.inputs }),
        }
    }

    /// One layer, with all its directions.
    fn recur(&self, x_tbf: &Tensor, parameters: &[&Tensor], train: bool) -> Result<Tensor, Error> {
        let (directions, batch) = (if self.bidirectional { 2 } else { 1 }, x_tbf.size()[1]);
        let state =
            Tensor::f_zeros([directions, batch, self.hidden], (Kind::Float, x_tbf.device()))
                .map_err(|source| Error::torch("make the initial state", source))?;
        // libtorch's own dropout acts between the layers of one call: here is only one.
        let (dropout, both_ways) = (0.0, self.bidirectional);
        match self.kind {
            spec::ModelKind::Lstm => x_tbf
                .f_lstm(&[&state, &state], parameters, true, 1, dropout, train, both_ways, false)
                .map(|(out_tbh, _, _)| out_tbh)
                .map_err(|source| Error::torch("apply `lstm`", source)),
            spec::ModelKind::Gru => x_tbf
                .f_gru(&state, parameters, true, 1, dropout, train, both_ways, false)
                .map(|(out_tbh, _)| out_tbh)
                .map_err(|source| Error::torch("apply `rnn`", source)),
        }
    }
}

/// Name, shape and unit of every parameter of a model, in torch's order; no values yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    name: String,
    dims: Vec<usize>,
    unit: usize,
}

impl Shape {
    fn numel(&self) -> usize {
        self.dims.iter().product()
    }
}

fn layout(spec: &spec::Model, inputs: usize, outputs: usize) -> Result<Vec<Shape>, Error> {
    check_settings(spec, inputs, outputs)?;
    let (prefix, gates) = match spec.kind {
        spec::ModelKind::Lstm => ("lstm", 4),
        spec::ModelKind::Gru => ("rnn", 3),
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
    let elements: usize = shapes.iter().map(Shape::numel).sum();
    if elements > MAX_ELEMENTS {
        return Err(Error::TooLarge { elements, limit: MAX_ELEMENTS });
    }
    Ok(shapes)
}

/// 8 GiB of fp32 weights per rank: gradients and moments are three times that again, which is
/// beyond the machines that this engine trains on.
const MAX_ELEMENTS: usize = 1 << 31;
/// Beyond these, sizes are typing mistakes, and their products would overflow.
const MAX_HIDDEN: u32 = 1 << 16;
const MAX_LAYERS: u32 = 1 << 8;
const MAX_FEATURES: usize = 1 << 20;

fn check_settings(spec: &spec::Model, inputs: usize, outputs: usize) -> Result<(), Error> {
    let setting = |key: &'static str, value: String, expected: &'static str| {
        Err(Error::Setting { key, value, expected })
    };
    if !(1..=MAX_HIDDEN).contains(&spec.hidden_size) {
        return setting("model.hidden-size", spec.hidden_size.to_string(), "1 to 65536");
    }
    if !(1..=MAX_LAYERS).contains(&spec.num_layers) {
        return setting("model.num-layers", spec.num_layers.to_string(), "1 to 256");
    }
    for (key, value) in [("model.dropout", spec.dropout), ("model.head-dropout", spec.head_dropout)]
    {
        if !(0.0..1.0).contains(&value) {
            return setting(key, value.to_string(), "at least 0 and below 1");
        }
    }
    for (key, value) in [("input features", inputs), ("output features", outputs)] {
        if !(1..=MAX_FEATURES).contains(&value) {
            return setting(key, value.to_string(), "1 to 1048576");
        }
    }
    Ok(())
}

/// A leaf of `shape` with these values.
fn leaf(shape: Shape, values: &[f32]) -> Result<Parameter, Error> {
    let dims: Vec<i64> = shape.dims.iter().map(|&d| d as i64).collect();
    let tensor = Tensor::f_from_data_size(bytemuck::cast_slice(values), &dims, Kind::Float)
        .and_then(|tensor| tensor.f_set_requires_grad(true))
        .map_err(|source| Error::Parameter { name: shape.name.clone(), source })?;
    Ok(Parameter { name: shape.name, tensor, unit: shape.unit })
}

/// Names in a weights file that belong to a path, for messages.
fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
