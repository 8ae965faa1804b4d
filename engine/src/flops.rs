//! How many floating-point operations a model takes, by formula, and the report of one step.
//!
//! Counted are the products of matrices and convolutions, a multiplication and an addition each,
//! as DeepSpeed's profiler counts them; what is done element by element is below a percent of them
//! and left out. Backward takes twice the forward: the gradients of the weights and of the input.
//! Refusal: measures nothing itself.

use std::fmt::Write as _;

use common::spec::{Cnn, Model, Recurrent};

/// A layer of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) parameters: u64,
    /// Multiplications with their additions, of one sample's forward.
    pub(crate) macs: u64,
}

/// What one sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Time steps of a window, or rows of an image.
    pub(crate) length: u64,
    /// Pixels of a row; 1 for a window.
    pub(crate) width: u64,
    /// Values of a time step, or channels of an image.
    pub(crate) inputs: u64,
    pub(crate) outputs: u64,
}

/// In forward order.
pub(crate) fn layers(model: &Model, sample: Sample) -> Vec<Layer> {
    match model {
        Model::Lstm(recurrent) => recurrent_layers("lstm", 4, recurrent, sample),
        Model::Gru(recurrent) => recurrent_layers("rnn", 3, recurrent, sample),
        Model::Cnn(cnn) => cnn_layers(cnn, sample),
    }
}

/// Each time step multiplies input and state by a matrix for each gate; torch keeps two biases.
fn recurrent_layers(name: &str, gates: u64, spec: &Recurrent, sample: Sample) -> Vec<Layer> {
    let hidden = u64::from(spec.hidden_size);
    let directions = if spec.bidirectional { 2 } else { 1 };
    let mut width = sample.inputs;
    let mut layers = Vec::new();
    for number in 0..spec.num_layers {
        let matrices = gates * hidden * (width + hidden) * directions;
        let parameters = matrices + 2 * gates * hidden * directions;
        let macs = matrices * sample.length;
        layers.push(Layer { name: format!("{name}.layer{number}"), parameters, macs });
        width = hidden * directions;
    }
    layers.push(linear("fc", width, sample.outputs));
    layers
}

fn linear(name: &str, inputs: u64, outputs: u64) -> Layer {
    let macs = inputs * outputs;
    Layer { name: name.to_owned(), parameters: macs + outputs, macs }
}

/// Convolutions keep the sides and have no bias; batch norm has two parameters a channel; pooling
/// halves the sides.
fn cnn_layers(spec: &Cnn, sample: Sample) -> Vec<Layer> {
    let (mut height, mut width, mut channels) = (sample.length, sample.width, sample.inputs);
    let window = u64::from(spec.kernel_size) * u64::from(spec.kernel_size);
    let mut layers = Vec::new();
    for (number, &out) in spec.channels.iter().enumerate() {
        let out = u64::from(out);
        let kernel = channels * out * window;
        let (parameters, macs) = (kernel + 2 * out, kernel * height * width);
        layers.push(Layer { name: format!("conv{}", number + 1), parameters, macs });
        (height, width, channels) = (height / 2, width / 2, out);
    }
    let hidden = u64::from(spec.hidden_size);
    layers.push(linear("fc1", channels * height * width, hidden));
    layers.push(linear("fc2", hidden, sample.outputs));
    layers
}

/// One step, as rank 0 measured it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) step: u64,
    pub(crate) world: u32,
    /// Of this rank.
    pub(crate) samples: u64,
    pub(crate) forward_seconds: f64,
    pub(crate) backward_seconds: f64,
    pub(crate) optimizer_seconds: f64,
    pub(crate) step_seconds: f64,
}

/// The profile as text, a line for each layer where it is `detailed`.
pub(crate) fn report(layers: &[Layer], measured: Measured, detailed: bool) -> String {
    let parameters: u64 = layers.iter().map(|layer| layer.parameters).sum();
    let macs: u64 = layers.iter().map(|layer| layer.macs).sum::<u64>() * measured.samples;
    let (forward, backward) = (2.0 * macs as f64, 4.0 * macs as f64);
    let Measured { step, world, samples, .. } = measured;
    let mut text = format!("FLOPS profile of step {step}, rank 0 of {world}\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<36}{value}");
    };
    let rate = |flops: f64, seconds: f64| match seconds > 0.0 {
        true => format!("{:.3} GFLOPS", flops / seconds / 1e9),
        false => "too fast to measure".to_owned(),
    };
    let millis = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
    line("parameters", parameters.to_string());
    line("samples of this rank", samples.to_string());
    line("forward, multiply-adds", macs.to_string());
    line("forward, operations", format!("{forward}"));
    line("backward, operations", format!("{backward}"));
    line("forward latency", millis(measured.forward_seconds));
    line("backward latency", millis(measured.backward_seconds));
    line("optimizer latency", millis(measured.optimizer_seconds));
    line("step latency", millis(measured.step_seconds));
    line("forward rate", rate(forward, measured.forward_seconds));
    line("backward rate", rate(backward, measured.backward_seconds));
    line("rate of the step", rate(forward + backward, measured.step_seconds));
    line("share of the peak", "the peak of this processor is not known".to_owned());
    line("samples/s of this rank", format!("{:.1}", samples as f64 / measured.step_seconds));
    if detailed {
        let _ = writeln!(
            text,
            "  {:<16}{:>14}{:>20}{:>10}",
            "layer", "parameters", "forward operations", "share"
        );
        for layer in layers {
            let operations = 2 * layer.macs * samples;
            let share = operations as f64 / forward * 100.0;
            let (name, parameters) = (&layer.name, layer.parameters);
            let _ = writeln!(text, "  {name:<16}{parameters:>14}{operations:>20}{share:>8.1} %");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recurrent(bidirectional: bool) -> Recurrent {
        Recurrent {
            hidden_size: 4,
            num_layers: 2,
            dropout: 0.0,
            head_dropout: 0.0,
            bidirectional,
            kernel: Default::default(),
            init_from: None,
        }
    }

    const SAMPLE: Sample = Sample { length: 10, width: 1, inputs: 3, outputs: 2 };

    fn sums(model: &Model, sample: Sample) -> (u64, u64) {
        let layers = layers(model, sample);
        (layers.iter().map(|l| l.parameters).sum(), layers.iter().map(|l| l.macs).sum())
    }

    #[test]
    fn an_lstm_counts_as_torchs_shapes_say() {
        // weight_ih_l0 16x3, weight_hh 16x4, l1 16x4 and 16x4, biases 4 times 16, fc 2x4 and 2.
        let parameters = 16 * 3 + 16 * 4 + 2 * 16 * 4 + 4 * 16 + 2 * 4 + 2;
        let macs = 10 * (16 * 7 + 16 * 8) + 4 * 2;
        assert_eq!(sums(&Model::Lstm(recurrent(false)), SAMPLE), (parameters, macs));
    }

    #[test]
    fn a_bidirectional_gru_has_three_gates_twice() {
        let parameters = 2 * (12 * 3 + 12 * 4 + 24) + 2 * (12 * 8 + 12 * 4 + 24) + 2 * 8 + 2;
        let macs = 10 * 2 * (12 * 7 + 12 * 12) + 8 * 2;
        assert_eq!(sums(&Model::Gru(recurrent(true)), SAMPLE), (parameters, macs));
    }

    #[test]
    fn a_cnn_halves_its_sides_after_each_block() {
        let cnn = Cnn {
            channels: vec![2, 4],
            kernel_size: 3,
            hidden_size: 5,
            dropout: 0.0,
            init_from: None,
        };
        let sample = Sample { length: 8, width: 8, inputs: 1, outputs: 10 };
        let parameters = (18 + 4) + (72 + 8) + (16 * 5 + 5) + (50 + 10);
        let macs = 18 * 64 + 72 * 16 + 80 + 50;
        assert_eq!(sums(&Model::Cnn(cnn), sample), (parameters, macs));
    }

    #[test]
    fn the_formulas_count_the_parameters_that_models_have() {
        use crate::model::{Image, Input, build};
        let series = Input::Series(SAMPLE.inputs as usize);
        let image = Input::Image(Image { channels: 1, height: 8, width: 8 });
        let cnn = Cnn {
            channels: vec![3, 5],
            kernel_size: 3,
            hidden_size: 7,
            dropout: 0.0,
            init_from: None,
        };
        let pixels = Sample { length: 8, width: 8, inputs: 1, outputs: 10 };
        for (model, input, sample) in [
            (Model::Lstm(recurrent(true)), series, SAMPLE),
            (Model::Gru(recurrent(false)), series, SAMPLE),
            (Model::Cnn(cnn), image, pixels),
        ] {
            let built = build(&model, input, sample.outputs as usize, 1).unwrap();
            assert_eq!(sums(&model, sample).0, built.num_elements() as u64, "{}", model.kind());
        }
    }

    #[test]
    fn the_report_adds_up() {
        let layers = layers(&Model::Lstm(recurrent(false)), SAMPLE);
        let measured = Measured {
            step: 3,
            world: 2,
            samples: 5,
            forward_seconds: 0.001,
            backward_seconds: 0.002,
            optimizer_seconds: 0.0,
            step_seconds: 0.004,
        };
        let text = report(&layers, measured, true);
        let macs = 5 * (10 * (16 * 7 + 16 * 8) + 8);
        assert!(text.contains(&format!("forward, multiply-adds              {macs}\n")), "{text}");
        let gflops = 2.0 * macs as f64 / 0.001 / 1e9;
        assert!(text.contains(&format!("{gflops:.3} GFLOPS")), "{text}");
        assert!(text.contains("lstm.layer1") && text.contains("fc"), "{text}");
        assert!(!report(&layers, measured, false).contains("lstm.layer1"));
    }
}
