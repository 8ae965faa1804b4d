//! Models: sequences of units, each with its parameters under torch's names and in torch's order.
//! Refusal: a model knows no rank, world or optimizer; who shards it points its parameters at other
//! storage, and lays around each unit what that takes.
//!
//! Shapes: b batch, t time, f input features, o outputs.

use std::path::Path;
use std::rc::Rc;

use common::spec;
use tch::{Kind, Tensor};

mod dropout;
mod error;
mod init;
mod kernel;
mod recurrent;
mod unit;
mod weights;

pub use error::Error;
pub(crate) use kernel::instruction_set;
pub use unit::{AroundUnit, Plain, Unit, UnitKey, UnitPass};

use crate::rng::DropoutKey;
use recurrent::Cell;

/// A leaf tensor of the model.
#[derive(Debug)]
pub struct Parameter {
    /// Torch's: `lstm.weight_hh_l0_reverse`.
    pub name: String,
    /// Requires a gradient. `set_data` points it (and with it the model) at other storage of the
    /// same shape, such as a view of a flat buffer.
    pub tensor: Tensor,
    /// The unit that owns it. Units are numbered in forward order, from 0, without gaps.
    pub unit: usize,
}

/// A model with its parameters, on the CPU.
#[derive(Debug)]
pub struct Model {
    units: Vec<Rc<dyn Unit>>,
    inputs: i64,
    /// Handles of the units' leaves.
    parameters: Vec<Parameter>,
    description: serde_json::Value,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Evaluate,
    Train(DropoutKey),
}

/// Makes the model of `spec` for `inputs` features and `outputs` predicted values. Its weights
/// come from `spec.init_from`, else from `seed` alone: the same on every rank and machine.
pub fn build(spec: &spec::Model, inputs: usize, outputs: usize, seed: u64) -> Result<Model, Error> {
    check_features("input features", inputs)?;
    check_features("output features", outputs)?;
    let (cell, recurrent) = match spec {
        spec::Model::Lstm(recurrent) => (Cell::Lstm, recurrent),
        spec::Model::Gru(recurrent) => (Cell::Gru, recurrent),
        spec::Model::Cnn(_) => {
            return Error::setting("model.kind", "cnn", "lstm or gru: this engine has no other");
        }
    };
    let shapes = recurrent::layout(cell, recurrent, [inputs, outputs])?;
    check_size(&shapes)?;
    let leaves = match spec.init_from() {
        Some(path) => weights::load(path, shapes)?,
        None => init::draw(cell, shapes, seed)?,
    };
    Ok(Model {
        parameters: leaves.iter().map(Parameter::handle).collect(),
        units: recurrent::units(cell, recurrent, leaves)?,
        inputs: inputs as i64,
        description: serde_json::json!({
            "kind": spec.kind(),
            "input-features": inputs,
            "output-features": outputs,
            "hidden-size": recurrent.hidden_size,
            "num-layers": recurrent.num_layers,
            "bidirectional": recurrent.bidirectional,
            "dropout": recurrent.dropout,
            "head-dropout": recurrent.head_dropout,
        }),
    })
}

impl Model {
    /// `x_btf` to `y_bo`, both fp32 whatever the weights are.
    pub fn forward(
        &self,
        x_btf: &Tensor,
        pass: Pass,
        around: &dyn AroundUnit,
    ) -> Result<Tensor, crate::Error> {
        self.check_input(x_btf)?;
        let mut value = self.to_weights_kind(x_btf)?;
        for (index, unit) in self.units.iter().enumerate() {
            let pass = match pass {
                Pass::Evaluate => UnitPass::Evaluate,
                Pass::Train(dropout) => UnitPass::Train(UnitKey { dropout, unit: index as u64 }),
            };
            value = around.run(index, unit, &value, pass)?;
        }
        let output = value.f_to_kind(Kind::Float);
        Ok(output.map_err(|source| Error::torch("convert the output", source))?)
    }

    /// In forward order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// In forward order, for who points them at other storage.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// In forward order.
    pub fn units(&self) -> &[Rc<dyn Unit>] {
        &self.units
    }

    pub fn num_units(&self) -> usize {
        self.units.len()
    }

    pub fn num_elements(&self) -> usize {
        self.parameters.iter().map(|p| p.tensor.numel()).sum()
    }

    /// What makes the model this one, for a checkpoint's manifest.
    pub fn describe(&self) -> serde_json::Value {
        self.description.clone()
    }

    /// Weights of half the width work on inputs of half the width.
    fn to_weights_kind(&self, x_btf: &Tensor) -> Result<Tensor, Error> {
        let kind = self.parameters.first().map_or(Kind::Float, |p| p.tensor.kind());
        x_btf.f_to_kind(kind).map_err(|source| Error::torch("convert the input", source))
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
}

impl Parameter {
    /// Another handle of the same tensor.
    fn handle(&self) -> Self {
        let Self { name, tensor, unit } = self;
        Self { name: name.clone(), tensor: tensor.shallow_clone(), unit: *unit }
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

/// 8 GiB of fp32 weights per rank: gradients and moments are three times that again, which is
/// beyond the machines that this engine trains on.
const MAX_ELEMENTS: usize = 1 << 31;
/// Beyond it, a number of features is a typing mistake, and products would overflow.
const MAX_FEATURES: usize = 1 << 20;

fn check_size(shapes: &[Shape]) -> Result<(), Error> {
    let elements: usize = shapes.iter().map(Shape::numel).sum();
    if elements > MAX_ELEMENTS {
        return Err(Error::TooLarge { elements, limit: MAX_ELEMENTS });
    }
    Ok(())
}

fn check_features(key: &'static str, value: usize) -> Result<(), Error> {
    if (1..=MAX_FEATURES).contains(&value) {
        return Ok(());
    }
    Error::setting(key, value, "1 to 1048576")
}

/// A share of values to drop.
fn check_rate(key: &'static str, value: f64) -> Result<(), Error> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Error::setting(key, value, "at least 0 and below 1")
}

/// A leaf of `shape` with these values.
fn leaf(shape: Shape, values: &[f32]) -> Result<Parameter, Error> {
    let dims: Vec<i64> = shape.dims.iter().map(|&d| d as i64).collect();
    let tensor = Tensor::f_from_data_size(bytemuck::cast_slice(values), &dims, Kind::Float)
        .and_then(|tensor: Tensor| tensor.f_set_requires_grad(true))
        .map_err(|source| Error::Parameter { name: shape.name.clone(), source })?;
    Ok(Parameter { name: shape.name, tensor, unit: shape.unit })
}

/// Names in a weights file that belong to a path, for messages.
fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
