//! How far training in fp32 drifts from training in fp64, with libtorch's LSTM and with our own kernel:
//! two layers and a head, batches of sines, Adam, one thread. Beside them libtorch's fp32 from weights
//! that were moved by one rounding: what any other order of sums does to a run.
//! `cargo run --release -p engine --example drift [HIDDEN [BATCH [STEPS [RATE]]]]`
#![expect(clippy::print_stdout, reason = "an example speaks on its own")]

use std::error::Error;

use common::spec::{Model as Spec, Recurrent, RecurrentKernel};
use engine::model::{self, Model, UnitPass};
use tch::{Device, Kind, Tensor, no_grad};

const FEATURES: i64 = 3;
const TIME: i64 = 50;

/// A run of its own, one of those that see the same batches.
struct Run {
    name: &'static str,
    kind: Kind,
    model: Model,
    /// First and second moments, by parameter.
    moments: Vec<[Tensor; 2]>,
    losses: Vec<f64>,
}

struct Settings {
    hidden: u32,
    batch: i64,
    steps: i32,
    rate: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: f64| {
        arguments.get(index).map_or(Ok(default), |text| text.parse::<f64>())
    };
    let (hidden, batch) = (number(0, 256.0)? as u32, number(1, 64.0)? as i64);
    let settings =
        Settings { hidden, batch, steps: number(2, 60.0)? as i32, rate: number(3, 1e-3)? };
    tch::set_num_threads(1);
    let mut runs = [
        run("fp64", Kind::Double, RecurrentKernel::Libtorch, &settings)?,
        run("libtorch", Kind::Float, RecurrentKernel::Libtorch, &settings)?,
        run("moved", Kind::Float, RecurrentKernel::Libtorch, &settings)?,
        run("native", Kind::Float, RecurrentKernel::Native, &settings)?,
    ];
    move_by_one_rounding(&mut runs[2].model);
    println!("step          fp64 loss   libtorch off   libtorch moved off   native off");
    for step in 1..=settings.steps {
        let (x, y) = batch_of(&settings, step);
        for run in &mut runs {
            run.step(step, (&x, &y), settings.rate)?;
        }
        let [exact, others @ ..] = &runs;
        let last = |run: &Run| run.losses.last().copied().unwrap_or(f64::NAN);
        let off = |run: &Run| (last(run) - last(exact)).abs() / last(exact);
        if step % 10 == 0 || step == 1 {
            let [libtorch, moved, native] = others;
            let (exact, libtorch) = (last(exact), off(libtorch));
            println!(
                "{step:>4} {exact:>18.12} {libtorch:>14.1e} {:>20.1e} {:>12.1e}",
                off(moved),
                off(native)
            );
        }
    }
    println!("largest relative difference of a loss from fp64's, over all steps:");
    let [exact, others @ ..] = &runs;
    for run in others {
        let pairs = run.losses.iter().zip(&exact.losses);
        let worst = pairs.map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
        println!("  {:<9} {worst:.1e}", run.name);
    }
    Ok(())
}

fn run(
    name: &'static str,
    kind: Kind,
    kernel: RecurrentKernel,
    settings: &Settings,
) -> Result<Run, Box<dyn Error>> {
    let spec = Spec::Lstm(Recurrent {
        hidden_size: settings.hidden,
        num_layers: 2,
        dropout: 0.0,
        head_dropout: 0.0,
        bidirectional: false,
        kernel,
        init_from: None,
    });
    let mut model = model::build(&spec, FEATURES as usize, FEATURES as usize, 1)?;
    for parameter in model.parameters_mut() {
        let values = parameter.tensor.detach().to_kind(kind);
        parameter.tensor.set_data(&values);
    }
    let zeros = |p: &model::Parameter| [p.tensor.zeros_like(), p.tensor.zeros_like()];
    let moments = model.parameters().iter().map(|p| no_grad(|| zeros(p).map(|t| t.detach())));
    Ok(Run { name, kind, moments: moments.collect(), model, losses: Vec::new() })
}

fn move_by_one_rounding(model: &mut Model) {
    no_grad(|| {
        for parameter in model.parameters_mut() {
            let _ = parameter.tensor.data().g_mul_scalar_(1.0 + f64::from(f32::EPSILON));
        }
    });
}

/// Windows of noisy sines and what follows them.
fn batch_of(settings: &Settings, step: i32) -> (Tensor, Tensor) {
    let options = (Kind::Double, Device::Cpu);
    let offsets = Tensor::arange(settings.batch, options) * 1.7 + f64::from(step) * 13.1;
    let rows = TIME + 1;
    let t = offsets.unsqueeze(1) + Tensor::arange(rows, options) * 0.1;
    let waves = [1.0, 2.3, 5.1].map(|frequency| (&t * frequency).sin());
    let noise = (&t * 9_973.7).sin() * 0.1;
    let all = Tensor::stack(&waves, 2) + noise.unsqueeze(2);
    // fp32 values, the same for all.
    let all = all.to_kind(Kind::Float).to_kind(Kind::Double);
    (all.narrow(1, 0, TIME), all.select(1, TIME))
}

impl Run {
    fn step(
        &mut self,
        number: i32,
        (x, y): (&Tensor, &Tensor),
        rate: f64,
    ) -> Result<(), Box<dyn Error>> {
        let mut value = x.to_kind(self.kind);
        for unit in self.model.units() {
            value = unit.forward(&value, UnitPass::Evaluate)?;
        }
        let loss = value.mse_loss(&y.to_kind(self.kind), tch::Reduction::Mean);
        loss.backward();
        self.losses.push(loss.double_value(&[]));
        no_grad(|| {
            for (parameter, [first, second]) in
                self.model.parameters().iter().zip(&mut self.moments)
            {
                adam(&parameter.tensor, (first, second), number, rate);
            }
        });
        Ok(())
    }
}

fn adam(leaf: &Tensor, (first, second): (&mut Tensor, &mut Tensor), number: i32, rate: f64) {
    const BETAS: [f64; 2] = [0.9, 0.999];
    let mut gradient = leaf.grad();
    *first = &*first * BETAS[0] + &gradient * (1.0 - BETAS[0]);
    *second = &*second * BETAS[1] + gradient.square() * (1.0 - BETAS[1]);
    let [first_correction, second_correction] = BETAS.map(|beta| 1.0 - beta.powi(number));
    let denominator = (&*second / second_correction).sqrt() + 1e-8;
    let change = &*first / denominator * (-rate / first_correction);
    let _ = leaf.data().g_add_(&change);
    let _ = gradient.zero_();
}
