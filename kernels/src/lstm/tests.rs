use super::*;

mod reference;

use reference::Problem;

/// Largest absolute difference over the largest absolute expected value.
fn difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-30, |scale: f64, value| scale.max(value.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0, |worst: f64, (a, b)| {
        let difference = (f64::from(*a) - b).abs();
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference / scale) }
    })
}

/// Everything that the kernel computes for a problem, in torch's layouts.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    output: Vec<f32>,
    x: Vec<f32>,
    input: Vec<f32>,
    hidden: Vec<f32>,
    bias: Vec<f32>,
}

fn run(set: InstructionSet, problem: &Problem, scratch: &mut Scratch) -> Found {
    let Shape { time, batch, inputs, hidden } = problem.shape;
    let layer = Lstm::new(problem.shape, problem.direction, set).unwrap();
    // What lies in the buffers before must not matter.
    let mut output = vec![f32::NAN; layer.output_len()];
    let mut tape = vec![f32::NAN; layer.tape_len()];
    let kept = Kept { output: &mut output, tape: &mut tape };
    layer.forward(scratch, problem.inputs(), kept).unwrap();
    let mut found = Found {
        output: rows(&output, layer.output_stride(), hidden),
        x: vec![f32::NAN; time * batch * inputs],
        input: vec![f32::NAN; 4 * hidden * inputs],
        hidden: vec![f32::NAN; 4 * hidden * hidden],
        bias: vec![f32::NAN; 4 * hidden],
    };
    let Inputs { x, weights } = problem.inputs();
    let taped = Taped {
        x,
        input: weights.input,
        hidden: weights.hidden,
        output: &output,
        tape: &tape,
        output_gradient: Rows { values: &problem.output_gradient, stride: hidden },
    };
    let gradients = Gradients {
        x: Some(&mut found.x),
        input: &mut found.input,
        hidden: &mut found.hidden,
        bias: &mut found.bias,
    };
    layer.backward(scratch, taped, gradients).unwrap();
    found
}

fn rows(values: &[f32], stride: usize, width: usize) -> Vec<f32> {
    values.chunks_exact(stride).flat_map(|row| &row[..width]).copied().collect()
}

const SHAPES: &[[usize; 4]] = &[
    // time, batch, inputs, hidden
    [1, 1, 1, 1],
    [4, 2, 2, 3],
    [7, 3, 1, 16],
    [5, 1, 5, 17],
    [9, 17, 3, 20],
    [6, 33, 40, 48],
    [3, 7, 33, 70],
    [50, 16, 2, 32],
    // More rows than a chunk, so that there are several.
    [3, 300, 18, 5],
    [40, 20, 20, 16],
];

#[test]
fn outputs_and_gradients_equal_the_formulas_in_f64() {
    for set in InstructionSet::available() {
        let mut scratch = Scratch::default();
        for (seed, &[time, batch, inputs, hidden]) in SHAPES.iter().enumerate() {
            for direction in [Direction::Forward, Direction::Reverse] {
                let shape = Shape { time, batch, inputs, hidden };
                let problem = Problem::draw(shape, direction, seed as u64);
                let expected = problem.solve();
                let found = run(set, &problem, &mut scratch);
                for (name, found, expected) in [
                    ("output", &found.output, &expected.output),
                    ("x", &found.x, &expected.x),
                    ("input weights", &found.input, &expected.input),
                    ("hidden weights", &found.hidden, &expected.hidden),
                    ("biases", &found.bias, &expected.bias),
                ] {
                    let difference = difference(found, expected);
                    let name = format!("{} {shape:?} {direction:?} {name}", set.name());
                    assert!(difference < 3e-6, "{name}: {difference}");
                }
            }
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits_whatever_the_scratch_held() {
    for set in InstructionSet::available() {
        let shape = Shape { time: 8, batch: 5, inputs: 3, hidden: 20 };
        let problem = Problem::draw(shape, Direction::Forward, 3);
        let mut scratch = Scratch::default();
        let first = run(set, &problem, &mut scratch);
        let larger = Shape { time: 9, batch: 9, inputs: 40, hidden: 40 };
        run(set, &Problem::draw(larger, Direction::Reverse, 4), &mut scratch);
        assert_eq!(first, run(set, &problem, &mut scratch));
    }
}

/// A12: a rank's share of the batch may be any rows of it.
#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    for set in InstructionSet::available() {
        for inputs in [2, 30] {
            let shape = Shape { time: 6, batch: 13, inputs, hidden: 33 };
            let problem = Problem::draw(shape, Direction::Forward, 5);
            let whole = run(set, &problem, &mut Scratch::default());
            for (first, count) in [(0, 1), (3, 2), (4, 9), (0, 12)] {
                let part = problem.part(first, count);
                let found = run(set, &part, &mut Scratch::default());
                let cut = |values: &[f32], width: usize| -> Vec<f32> {
                    let steps = values.chunks_exact(shape.batch * width);
                    steps
                        .flat_map(|step| &step[first * width..][..count * width])
                        .copied()
                        .collect()
                };
                assert_eq!(found.output, cut(&whole.output, shape.hidden), "{first} {count}");
                assert_eq!(found.x, cut(&whole.x, inputs), "{first} {count}");
            }
        }
    }
}

#[test]
fn nan_reaches_what_depends_on_it_and_nothing_else() {
    for set in InstructionSet::available() {
        for hidden in [5, 16] {
            let shape = Shape { time: 4, batch: 3, inputs: 2, hidden };
            let mut problem = Problem::draw(shape, Direction::Forward, 6);
            // Step 2 of row 1.
            problem.x[(2 * 3 + 1) * 2] = f32::NAN;
            let found = run(set, &problem, &mut Scratch::default());
            for (at, value) in found.output.iter().enumerate() {
                let (step, row) = (at / hidden / 3, at / hidden % 3);
                assert_eq!(value.is_nan(), row == 1 && step >= 2, "step {step} row {row}");
            }
            assert!(found.input.iter().all(|value| value.is_nan()));
            assert!(found.bias.iter().all(|value| value.is_nan()));
            for (at, value) in found.x.iter().enumerate() {
                assert_eq!(value.is_nan(), at / 2 % 3 == 1, "gradient of x at {at}");
            }
        }
    }
}

/// An infinite input saturates the gates; it does not become NaN through the units that only
/// fill a block.
#[test]
fn infinity_saturates() {
    for set in InstructionSet::available() {
        let shape = Shape { time: 3, batch: 2, inputs: 2, hidden: 5 };
        let mut problem = Problem::draw(shape, Direction::Forward, 7);
        problem.x[(2 + 1) * 2] = f32::INFINITY;
        let found = run(set, &problem, &mut Scratch::default());
        assert!(found.output.iter().all(|value| value.is_finite()));
        assert!(found.x.iter().all(|value| value.is_finite()));
        assert!(found.hidden.iter().all(|value| value.is_finite()));
        assert!(found.bias.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn rows_may_lie_apart() {
    for set in InstructionSet::available() {
        let shape = Shape { time: 5, batch: 3, inputs: 3, hidden: 20 };
        let problem = Problem::draw(shape, Direction::Forward, 8);
        let expected = run(set, &problem, &mut Scratch::default());
        let layer = Lstm::new(shape, problem.direction, set).unwrap();
        let spread: Vec<f32> =
            problem.x.chunks_exact(3).flat_map(|row| [row, &[f32::NAN; 4][..]].concat()).collect();
        let spread = &spread[..spread.len() - 4];
        let x = Rows { values: spread, stride: 7 };
        let inputs = Inputs { x, ..problem.inputs() };
        let (mut output, mut tape) = (vec![0.0; layer.output_len()], vec![0.0; layer.tape_len()]);
        let kept = Kept { output: &mut output, tape: &mut tape };
        layer.forward(&mut Scratch::default(), inputs, kept).unwrap();
        assert_eq!(rows(&output, layer.output_stride(), 20), expected.output);
    }
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_written() {
    let set = InstructionSet::best();
    let shape = Shape { time: 2, batch: 3, inputs: 2, hidden: 4 };
    let refuse = |shape| Lstm::new(shape, Direction::Forward, set).unwrap_err().to_string();
    assert_eq!(refuse(Shape { batch: 0, ..shape }), "LSTM of batch 0: expected 1 to 16777216");
    assert!(refuse(Shape { time: 1 << 24, hidden: 1 << 20, ..shape }).contains("more than"));

    let problem = Problem::draw(shape, Direction::Forward, 9);
    let layer = Lstm::new(shape, Direction::Forward, set).unwrap();
    let (mut output, mut tape) = (vec![7.0; layer.output_len()], vec![7.0; layer.tape_len()]);
    let mut forward = |inputs: Inputs<'_>| {
        let kept = Kept { output: &mut output, tape: &mut tape };
        layer.forward(&mut Scratch::default(), inputs, kept).unwrap_err().to_string()
    };
    let good = problem.inputs();
    let short = Rows { values: &problem.x[1..], stride: 2 };
    assert_eq!(
        forward(Inputs { x: short, ..good }),
        "x of an LSTM has 11 floats: too few for 6 rows 2 apart"
    );
    let dense = Rows { values: &problem.x, stride: 1 };
    assert!(forward(Inputs { x: dense, ..good }).contains("1 floats apart: expected 2 to"));
    let weights = Weights { hidden_bias: &[0.0; 15], ..good.weights };
    assert_eq!(
        forward(Inputs { weights, ..good }),
        "hidden bias of an LSTM has 15 floats: expected 16"
    );
    assert!(output.iter().chain(&tape).all(|value| *value == 7.0));
}

/// The formulas that the kernel is held to are themselves held to their definition.
#[test]
fn the_reference_gradients_are_those_of_its_forward() {
    let shape = Shape { time: 3, batch: 2, inputs: 2, hidden: 3 };
    for direction in [Direction::Forward, Direction::Reverse] {
        let problem = Problem::draw(shape, direction, 10);
        let solved = problem.solve();
        for (which, gradient) in [
            (reference::Of::X, &solved.x),
            (reference::Of::Input, &solved.input),
            (reference::Of::Hidden, &solved.hidden),
            (reference::Of::InputBias, &solved.bias),
            (reference::Of::HiddenBias, &solved.bias),
        ] {
            for (at, gradient) in gradient.iter().enumerate() {
                let nudged = |by: f64| problem.nudged(which, at, by);
                let slope = (nudged(1e-5) - nudged(-1e-5)) / 2e-5;
                assert!((slope - gradient).abs() < 1e-8, "{which:?} {at}: {slope} {gradient}");
            }
        }
    }
}
