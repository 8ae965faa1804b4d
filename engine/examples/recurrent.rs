//! libtorch's LSTM against our own kernel on this machine: two layers and a head, 3 features, 50
//! steps, no dropout, one thread, fastest of the runs of each shape, the two interleaved.
//! `MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=268435456
//! cargo run --release -p engine --example recurrent [RUNS]`: with the allocator as the worker sets
//! it for trainers, else most of the difference is glibc's.
#![expect(clippy::print_stdout, reason = "an example speaks on its own")]

use std::error::Error;
use std::time::Instant;

use common::spec::{Model as Spec, Recurrent, RecurrentKernel};
use engine::model::{self, Model, Pass, Plain};
use engine::rng::DropoutKey;
use tch::{Device, Kind, Tensor};

const FEATURES: usize = 3;
const STEPS: i64 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let runs: usize = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    tch::set_num_threads(1);
    println!("  H   B   libtorch: forward backward   native: forward backward (ms)   ratio");
    for hidden in [64, 128, 256] {
        for batch in [16, 32, 64] {
            let models = [RecurrentKernel::Libtorch, RecurrentKernel::Native]
                .map(|kernel| build(kernel, hidden));
            let [libtorchs, ours] = models;
            let models = [libtorchs?, ours?];
            let x_btf = Tensor::rand([batch, STEPS, FEATURES as i64], (Kind::Float, Device::Cpu));
            let mut fastest = [[f64::INFINITY; 2]; 2];
            for _ in 0..runs {
                for (model, fastest) in models.iter().zip(&mut fastest) {
                    let found = step(model, &x_btf)?;
                    *fastest = [fastest[0].min(found[0]), fastest[1].min(found[1])];
                }
            }
            let [libtorchs, ours] = fastest;
            println!(
                "{hidden:>3} {batch:>3} {:>19.2} {:>8.2} {:>17.2} {:>8.2} {:>12.2}",
                libtorchs[0],
                libtorchs[1],
                ours[0],
                ours[1],
                (libtorchs[0] + libtorchs[1]) / (ours[0] + ours[1])
            );
        }
    }
    Ok(())
}

fn build(kernel: RecurrentKernel, hidden_size: u32) -> Result<Model, Box<dyn Error>> {
    let spec = Spec::Lstm(Recurrent {
        hidden_size,
        num_layers: 2,
        dropout: 0.0,
        head_dropout: 0.0,
        bidirectional: false,
        kernel,
        init_from: None,
    });
    Ok(model::build(&spec, FEATURES, 1, 1)?)
}

/// Milliseconds forward and backward.
fn step(model: &Model, x_btf: &Tensor) -> Result<[f64; 2], Box<dyn Error>> {
    let key = DropoutKey { seed: 1, rank: 0, step: 0, micro_step: 0 };
    let start = Instant::now();
    let output = model.forward(x_btf, Pass::Train(key), &Plain)?;
    let forward = start.elapsed();
    let loss = output.square().mean(Kind::Float);
    let start = Instant::now();
    loss.backward();
    let backward = start.elapsed();
    for parameter in model.parameters() {
        let _ = parameter.tensor.grad().zero_();
    }
    Ok([forward, backward].map(|time| time.as_secs_f64() * 1e3))
}
