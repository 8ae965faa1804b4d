//! Models: sequences of units, each with its parameters under torch's names and in torch's order.
//! Refusal: a model knows no rank, world or optimizer; who shards it points its parameters at other
//! storage, and lays around each unit what that takes.
//!
//! Shapes: b batch, t time, f input features, o outputs.

use std::path::Path;
use std::rc::Rc;

use common::spec;
use tch::{Kind, Tensor};

mod cnn;
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

use init::Init;
use recurrent::Cell;

use crate::rng::DropoutKey;

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

/// State of the model that is not trained but remembered: the running statistics of batch norm.
/// fp32 or i64 whatever the model's precision.
#[derive(Debug)]
pub struct Buffer {
    /// Torch's: `bn1.running_mean`.
    pub name: String,
    pub tensor: Tensor,
}

/// What a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Windows of a series with so many features.
    Series(usize),
    Image(Image),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

/// A model with its parameters, on the CPU.
#[derive(Debug)]
pub struct Model {
    units: Vec<Rc<dyn Unit>>,
    input: Input,
    /// Handles of the units' leaves.
    parameters: Vec<Parameter>,
    /// Handles of the units' buffers.
    buffers: Vec<Buffer>,
    description: serde_json::Value,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Evaluate,
    Train(DropoutKey),
}

/// Makes the model of `spec` that reads `input` (a number is that of a series' features) and gives
/// `outputs` values. Its weights come from `spec.init_from`, else from `seed` alone: the same on
/// every rank and machine.
pub fn build(
    spec: &spec::Model,
    input: impl Into<Input>,
    outputs: usize,
    seed: u64,
) -> Result<Model, Error> {
    let input = input.into();
    check_features("output features", outputs)?;
    let (shapes, buffer_shapes) = layout(spec, input, outputs)?;
    check_size(&shapes)?;
    let (leaves, own_buffers) = match spec.init_from() {
        Some(path) => weights::load(path, shapes, buffer_shapes)?,
        None => (init::draw(shapes, seed)?, buffers(buffer_shapes)?),
    };
    let parameters = leaves.iter().map(Parameter::handle).collect();
    let handles = own_buffers.iter().map(Buffer::handle).collect();
    let units = match spec {
        spec::Model::Lstm(recurrent) => recurrent::units(Cell::Lstm, recurrent, leaves)?,
        spec::Model::Gru(recurrent) => recurrent::units(Cell::Gru, recurrent, leaves)?,
        spec::Model::Cnn(cnn) => cnn::units(cnn, leaves, own_buffers),
    };
    let description = describe(spec, input, outputs);
    Ok(Model { units, input, parameters, buffers: handles, description })
}

fn layout(
    spec: &spec::Model,
    input: Input,
    outputs: usize,
) -> Result<(Vec<Shape>, Vec<BufferShape>), Error> {
    match (spec, input) {
        (spec::Model::Lstm(recurrent), Input::Series(features)) => {
            check_features("input features", features)?;
            Ok((recurrent::layout(Cell::Lstm, recurrent, [features, outputs])?, Vec::new()))
        }
        (spec::Model::Gru(recurrent), Input::Series(features)) => {
            check_features("input features", features)?;
            Ok((recurrent::layout(Cell::Gru, recurrent, [features, outputs])?, Vec::new()))
        }
        (spec::Model::Cnn(cnn), Input::Image(image)) => {
            let Image { channels, height, width } = image;
            for (key, value) in
                [("image channels", channels), ("image height", height), ("image width", width)]
            {
                check_features(key, value)?;
            }
            cnn::layout(cnn, image, outputs)
        }
        (model, input) => {
            Err(Error::InputOfOtherKind { kind: model.kind(), input: input.to_string() })
        }
    }
}

fn describe(spec: &spec::Model, input: Input, outputs: usize) -> serde_json::Value {
    let settings = match spec {
        spec::Model::Lstm(recurrent) | spec::Model::Gru(recurrent) => serde_json::json!({
            "hidden-size": recurrent.hidden_size,
            "num-layers": recurrent.num_layers,
            "bidirectional": recurrent.bidirectional,
            "dropout": recurrent.dropout,
            "head-dropout": recurrent.head_dropout,
        }),
        spec::Model::Cnn(cnn) => serde_json::json!({
            "channels": cnn.channels,
            "kernel-size": cnn.kernel_size,
            "hidden-size": cnn.hidden_size,
            "dropout": cnn.dropout,
        }),
    };
    let mut description = serde_json::json!({ "kind": spec.kind() });
    match input {
        Input::Series(features) => description["input-features"] = features.into(),
        Input::Image(Image { channels, height, width }) => {
            description["input-image"] = vec![channels, height, width].into();
        }
    }
    description["output-features"] = outputs.into();
    for (key, value) in settings.as_object().into_iter().flatten() {
        description[key] = value.clone();
    }
    description
}

impl From<usize> for Input {
    fn from(features: usize) -> Self {
        Self::Series(features)
    }
}

impl std::fmt::Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Series(features) => write!(f, "a series of {features} features"),
            Self::Image(Image { channels, height, width }) => {
                write!(f, "images of {channels} x {height} x {width}")
            }
        }
    }
}

impl Input {
    /// Values of one time step or of one image.
    pub fn values(self) -> usize {
        match self {
            Self::Series(features) => features,
            Self::Image(Image { channels, height, width }) => channels * height * width,
        }
    }
}

impl Model {
    /// `x_btf` or `x_bchw` to `y_bo`, both fp32 whatever the weights are.
    pub fn forward(
        &self,
        x: &Tensor,
        pass: Pass,
        around: &dyn AroundUnit,
    ) -> Result<Tensor, crate::Error> {
        self.check_input(x)?;
        let x = x.f_to_device(self.device());
        let x = x.map_err(|source| Error::torch("move the input to the weights", source))?;
        let mut value = self.to_weights_kind(&x)?;
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

    /// Where the weights are.
    pub(crate) fn device(&self) -> tch::Device {
        self.parameters().first().map_or(tch::Device::Cpu, |p| p.tensor.device())
    }

    /// Of units of a test's own; a leaf that two share is a parameter of the first.
    #[cfg(test)]
    pub(crate) fn of_units(units: Vec<Rc<dyn Unit>>, input: Input) -> Self {
        let mut parameters: Vec<Parameter> = Vec::new();
        for (unit, leaf) in units
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| unit.parameters().iter().map(move |leaf| (index, leaf)))
        {
            let known = |p: &Parameter| p.tensor.data_ptr() == leaf.tensor.data_ptr();
            if !parameters.iter().any(known) {
                parameters.push(Parameter { unit, ..leaf.handle() });
            }
        }
        let (buffers, description) = (Vec::new(), serde_json::Value::Null);
        Self { units, input, parameters, buffers, description }
    }

    /// In forward order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// In forward order, for who points them at other storage.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// In forward order: a rank's own until they are shared.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
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
    fn to_weights_kind(&self, x: &Tensor) -> Result<Tensor, Error> {
        let kind = self.parameters.first().map_or(Kind::Float, |p| p.tensor.kind());
        x.f_to_kind(kind).map_err(|source| Error::torch("convert the input", source))
    }

    /// libtorch reports a wrong shape from deep inside; this names it.
    fn check_input(&self, x: &Tensor) -> Result<(), Error> {
        let found = x.size();
        let (fits, expected) = match self.input {
            Input::Series(features) => (
                found.len() == 3 && found[2] == features as i64,
                format!("[batch, time, {features}]"),
            ),
            Input::Image(Image { channels, height, width }) => (
                found.len() == 4 && found[1..] == [channels as i64, height as i64, width as i64],
                format!("[batch, {channels}, {height}, {width}]"),
            ),
        };
        if !fits || found.contains(&0) {
            return Err(Error::InputShape { found, expected });
        }
        if x.kind() != Kind::Float {
            return Err(Error::InputKind { found: x.kind() });
        }
        Ok(())
    }
}

impl Parameter {
    /// Another handle of the same tensor.
    fn handle(&self) -> Self {
        let Self { name, tensor, unit } = self;
        Self { name: name.clone(), tensor: tensor.shallow_clone(), unit: *unit }
    }
}

impl Buffer {
    /// Another handle of the same tensor.
    pub(crate) fn handle(&self) -> Self {
        Self { name: self.name.clone(), tensor: self.tensor.shallow_clone() }
    }
}

/// What a parameter of a model will be; models list theirs in torch's order.
#[derive(Debug, Clone, PartialEq)]
struct Shape {
    name: String,
    dims: Vec<usize>,
    unit: usize,
    init: Init,
}

/// What a buffer of a model will be.
#[derive(Debug, Clone, PartialEq)]
struct BufferShape {
    name: String,
    dims: Vec<usize>,
    initial: BufferValues,
}

#[derive(Debug, Clone, PartialEq)]
enum BufferValues {
    Floats(Vec<f32>),
    Counts(Vec<i64>),
}

fn buffers(shapes: Vec<BufferShape>) -> Result<Vec<Buffer>, Error> {
    let made = |BufferShape { name, dims, initial }: BufferShape| {
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let (bytes, kind) = match &initial {
            BufferValues::Floats(values) => (bytemuck::cast_slice(values), Kind::Float),
            BufferValues::Counts(values) => (bytemuck::cast_slice(values), Kind::Int64),
        };
        match Tensor::f_from_data_size(bytes, &dims, kind) {
            Ok(tensor) => Ok(Buffer { name, tensor }),
            Err(source) => Err(Error::Buffer { name, source }),
        }
    };
    shapes.into_iter().map(made).collect()
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
