//! How fast the LSTM kernel is on this machine, per instruction set:
//! `cargo run --release -p kernels --example speed [SECONDS_PER_LINE]`. Prints the median of
//! milliseconds forward and backward of one layer over 50 steps (64 inputs ... as many as hidden
//! units), and GFLOP/s of both together, products alone counted. Time is this thread's CPU time, so
//! that other processes disturb little.
#![expect(clippy::print_stdout, reason = "an example speaks on its own")]

use std::error::Error;
use std::time::{Duration, Instant};

use kernels::lstm::{Direction, Gradients, Inputs, Kept, Lstm, Rows, Shape, Taped, Weights};
use kernels::{InstructionSet, Scratch};
use nix::time::{ClockId, clock_gettime};

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: f64 = std::env::args().nth(1).map_or(Ok(1.0), |text| text.parse())?;
    println!("set       T   B    F    H   forward  backward (ms)  GFLOP/s");
    for set in InstructionSet::available() {
        for hidden in [64, 128, 256] {
            for batch in [16, 32, 64] {
                for inputs in [3, hidden] {
                    let shape = Shape { time: 50, batch, inputs, hidden };
                    let (forward, backward) =
                        measure(set, shape, Duration::from_secs_f64(seconds))?;
                    let Shape { time, batch, inputs, hidden } = shape;
                    // Backward computes the weights' gradients, the hidden state's, and that of x
                    // where x is another layer's output.
                    let once = (2 * time * batch * 4 * hidden) as f64;
                    let x = if inputs == hidden { inputs } else { 0 };
                    let flops = once * (2 * (inputs + hidden) + hidden + x) as f64;
                    let rate = flops / (forward + backward) / 1e9;
                    let (forward, backward) = (forward * 1e3, backward * 1e3);
                    println!(
                        "{:<9}{time:>3} {batch:>3} {inputs:>4} {hidden:>4} {forward:>9.3} \
                         {backward:>9.3} {rate:>13.1}",
                        set.name()
                    );
                }
            }
        }
    }
    Ok(())
}

/// Of this thread.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

/// Median seconds of forward and of backward.
fn measure(
    set: InstructionSet,
    shape: Shape,
    duration: Duration,
) -> Result<(f64, f64), Box<dyn Error>> {
    let Shape { time, batch, inputs, hidden } = shape;
    let values = |count: usize, scale: f32| -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 % 1000) as f32 / 500.0 - 1.0) * scale).collect()
    };
    let layer = Lstm::new(shape, Direction::Forward, set)?;
    let scale = 1.0 / (hidden as f32).sqrt();
    let x = values(time * batch * inputs, 1.0);
    let output_gradient = values(time * batch * hidden, 1.0);
    let (input, recurrent) =
        (values(4 * hidden * inputs, scale), values(4 * hidden * hidden, scale));
    let (input_bias, hidden_bias) = (values(4 * hidden, scale), values(4 * hidden, scale));
    let weights = Weights {
        input: &input,
        hidden: &recurrent,
        input_bias: &input_bias,
        hidden_bias: &hidden_bias,
    };
    let given = Inputs { x: Rows { values: &x, stride: inputs }, weights };
    let (mut output, mut tape) = (vec![0.0; layer.output_len()], vec![0.0; layer.tape_len()]);
    let mut found = [input.clone(), recurrent.clone(), input_bias.clone()];
    let mut x_gradient = (inputs == hidden).then(|| x.clone());
    let (mut scratch, mut times) = (Scratch::default(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < duration || times.len() < 5 {
        let begin = cpu_time()?;
        let kept = Kept { output: &mut output, tape: &mut tape };
        layer.forward(&mut scratch, given, kept)?;
        let middle = cpu_time()?;
        let output_gradient = Rows { values: &output_gradient, stride: hidden };
        let taped = Taped {
            x: given.x,
            input: weights.input,
            hidden: weights.hidden,
            output: &output,
            tape: &tape,
            output_gradient,
        };
        let [input, hidden, bias] = &mut found;
        let gradients = Gradients { x: x_gradient.as_deref_mut(), input, hidden, bias };
        layer.backward(&mut scratch, taped, gradients)?;
        times.push((middle - begin, cpu_time()? - middle));
    }
    let median = |of: fn(&(Duration, Duration)) -> Duration| {
        let mut sorted: Vec<Duration> = times.iter().map(of).collect();
        sorted.sort();
        sorted[sorted.len() / 2].as_secs_f64()
    };
    Ok((median(|pair| pair.0), median(|pair| pair.1)))
}
