//! Convolutional networks: blocks of convolution, batch norm, ReLU and max-pooling by 2, then two
//! linear layers with dropout between them. Names are torch's (`conv1.weight`, `bn1.running_mean`,
//! `fc2.bias`), and so are the initial distributions. A unit is a block or a linear layer.
//!
//! Convolutions have no bias, because batch norm would take it out again: its gradient is made of
//! rounding errors, which Adam would turn into whole steps.
//!
//! Batch norm normalises by the rank's own run of the micro-step, as under torch's DDP: worlds of
//! different sizes train on different statistics.
//!
//! Shapes: b batch, c channels, h height, w width, f features, o outputs.

use std::rc::Rc;

use common::spec::Cnn;
use tch::{Kind, Tensor, no_grad};

use super::dropout::dropout;
use super::{
    Buffer, BufferShape, BufferValues, Error, Image, Init, Parameter, Shape, Unit, UnitPass,
    check_rate,
};

/// torch's.
const MOMENTUM: f64 = 0.1;
const EPS: f64 = 1e-5;

/// Beyond these, sizes are typing mistakes, and their products would overflow.
const MAX_CHANNELS: u32 = 1 << 12;
const MAX_HIDDEN: u32 = 1 << 16;
const MAX_KERNEL: u32 = 31;

/// Convolution, batch norm, ReLU, max-pooling.
#[derive(Debug)]
struct Block {
    /// Keeps height and width.
    padding: i64,
    /// `conv.weight`, `bn.weight`, `bn.bias`.
    parameters: Vec<Parameter>,
    /// `bn.running_mean`, `bn.running_var`, `bn.num_batches_tracked`.
    buffers: Vec<Buffer>,
}

/// `fc1` and ReLU.
#[derive(Debug)]
struct Hidden {
    parameters: Vec<Parameter>,
}

/// Dropout and `fc2`.
#[derive(Debug)]
struct Head {
    dropout: f64,
    parameters: Vec<Parameter>,
}

impl Unit for Block {
    /// `x_bchw` to half its height and width.
    fn forward(&self, input: &Tensor, pass: UnitPass) -> Result<Tensor, Error> {
        let (weight, bias) = (&self.parameters[0].tensor, None::<Tensor>);
        input
            .f_conv2d(weight, bias, [1, 1], [self.padding; 2], [1, 1], 1)
            .and_then(|x| self.normalise(&x, pass))
            .and_then(|x| x.f_relu())
            .and_then(|x| x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false))
            .map_err(|source| Error::torch("apply a convolution block", source))
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }
}

impl Block {
    /// Running statistics are fp32 whatever the model's precision, so the scale and shift are
    /// widened to match them.
    fn normalise(&self, x_bchw: &Tensor, pass: UnitPass) -> Result<Tensor, tch::TchError> {
        let weight = self.parameters[1].tensor.f_to_kind(Kind::Float)?;
        let bias = self.parameters[2].tensor.f_to_kind(Kind::Float)?;
        let [mean, variance, batches] = &self.buffers[..] else { unreachable!("three buffers") };
        let running = Some((&mean.tensor, &variance.tensor));
        // A pass that is run again must not count its batch twice.
        let (running, trains) = match pass {
            UnitPass::Evaluate => (running, false),
            UnitPass::Train(_) => {
                let _ = no_grad(|| batches.tensor.shallow_clone().f_add_scalar_(1))?;
                (running, true)
            }
            UnitPass::Recompute(_) => (None, true),
        };
        let (mean, variance) = running.unzip();
        x_bchw.f_batch_norm(
            Some(&weight),
            Some(&bias),
            mean,
            variance,
            trains,
            MOMENTUM,
            EPS,
            false,
        )
    }
}

impl Unit for Hidden {
    /// `x_bchw` to `y_bf`.
    fn forward(&self, input: &Tensor, _pass: UnitPass) -> Result<Tensor, Error> {
        let x_bf = input.f_flatten(1, -1);
        x_bf.and_then(|x| linear(&x, &self.parameters))
            .and_then(|x| x.f_relu())
            .map_err(|source| Error::torch("apply `fc1`", source))
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

impl Unit for Head {
    /// `x_bf` to `y_bo`.
    fn forward(&self, input: &Tensor, pass: UnitPass) -> Result<Tensor, Error> {
        linear(&dropout(input, self.dropout, pass)?, &self.parameters)
            .map_err(|source| Error::torch("apply `fc2`", source))
    }

    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

fn linear(x_bf: &Tensor, parameters: &[Parameter]) -> Result<Tensor, tch::TchError> {
    x_bf.f_linear(&parameters[0].tensor, Some(&parameters[1].tensor))
}

/// The units over what [`layout`] lists.
pub(super) fn units(
    spec: &Cnn,
    parameters: Vec<Parameter>,
    buffers: Vec<Buffer>,
) -> Vec<Rc<dyn Unit>> {
    let (mut parameters, mut buffers) = (parameters.into_iter(), buffers.into_iter());
    let mut units: Vec<Rc<dyn Unit>> = Vec::new();
    for _ in &spec.channels {
        units.push(Rc::new(Block {
            padding: i64::from(spec.kernel_size / 2),
            parameters: parameters.by_ref().take(3).collect(),
            buffers: buffers.by_ref().take(3).collect(),
        }));
    }
    units.push(Rc::new(Hidden { parameters: parameters.by_ref().take(2).collect() }));
    units.push(Rc::new(Head { dropout: spec.dropout, parameters: parameters.collect() }));
    units
}

/// Every parameter and every buffer, in torch's order.
pub(super) fn layout(
    spec: &Cnn,
    image: Image,
    outputs: usize,
) -> Result<(Vec<Shape>, Vec<BufferShape>), Error> {
    check_settings(spec, image)?;
    let kernel = spec.kernel_size as usize;
    let (mut shapes, mut buffers) = (Vec::new(), Vec::new());
    let Image { channels: mut inputs, mut height, mut width } = image;
    for (unit, &channels) in spec.channels.iter().enumerate() {
        let channels = channels as usize;
        let (number, init) = (unit + 1, Init::fan_in(inputs * kernel * kernel));
        let mut push = |name: &str, dims: Vec<usize>, init: Init| {
            shapes.push(Shape { name: name.replace('#', &number.to_string()), dims, unit, init });
        };
        push("conv#.weight", vec![channels, inputs, kernel, kernel], init);
        push("bn#.weight", vec![channels], Init::Fill(1.0));
        push("bn#.bias", vec![channels], Init::Fill(0.0));
        for (name, dims, initial) in [
            ("running_mean", vec![channels], BufferValues::Floats(vec![0.0; channels])),
            ("running_var", vec![channels], BufferValues::Floats(vec![1.0; channels])),
            ("num_batches_tracked", Vec::new(), BufferValues::Counts(vec![0])),
        ] {
            buffers.push(BufferShape { name: format!("bn{number}.{name}"), dims, initial });
        }
        (inputs, height, width) = (channels, height / 2, width / 2);
    }
    let blocks = spec.channels.len();
    let layers = [
        [inputs * height * width, spec.hidden_size as usize],
        [spec.hidden_size as usize, outputs],
    ];
    for (layer, [inputs, outputs]) in layers.into_iter().enumerate() {
        let (unit, init) = (blocks + layer, Init::fan_in(inputs));
        let name = |role| format!("fc{}.{role}", layer + 1);
        shapes.push(Shape { name: name("weight"), dims: vec![outputs, inputs], unit, init });
        shapes.push(Shape { name: name("bias"), dims: vec![outputs], unit, init });
    }
    Ok((shapes, buffers))
}

fn check_settings(spec: &Cnn, image: Image) -> Result<(), Error> {
    let channels = || format!("{:?}", spec.channels);
    let in_range = |channels: &u32| (1..=MAX_CHANNELS).contains(channels);
    if spec.channels.is_empty() || !spec.channels.iter().all(in_range) {
        return Error::setting("model.channels", channels(), "one or more numbers from 1 to 4096");
    }
    // Each block halves the image, and the last one must find something to halve.
    if image.height.min(image.width) >> spec.channels.len() == 0 {
        let expected = "fewer blocks: each halves the image, whose sides must stay at least 1";
        return Error::setting("model.channels", channels(), expected);
    }
    if !(1..=MAX_KERNEL).contains(&spec.kernel_size) || spec.kernel_size.is_multiple_of(2) {
        return Error::setting("model.kernel-size", spec.kernel_size, "an odd number from 1 to 31");
    }
    if !(1..=MAX_HIDDEN).contains(&spec.hidden_size) {
        return Error::setting("model.hidden-size", spec.hidden_size, "1 to 65536");
    }
    check_rate("model.dropout", spec.dropout)
}
