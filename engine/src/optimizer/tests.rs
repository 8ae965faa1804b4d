use common::spec::{Optimizer, OptimizerKind};

use super::{Adam, Shard, Update, apply_all, clip_coefficient, sum_of_squares};

fn spec(decoupled: bool) -> Optimizer {
    Optimizer {
        kind: OptimizerKind::Adam,
        learning_rate: 0.01,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.1,
        decoupled_decay: decoupled,
        bias_correction: true,
    }
}

fn wave(len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) * scale).collect()
}

/// The textbook in f64, for many elements and steps.
fn textbook(spec: &Optimizer, start: &[f32], gradients: &[f32], updates: u64) -> Vec<f64> {
    let [b1, b2] = spec.betas;
    let decay = spec.weight_decay;
    start
        .iter()
        .zip(gradients)
        .map(|(p, g)| {
            let (mut p, mut m, mut v) = (f64::from(*p), 0.0, 0.0);
            for t in 1..=updates {
                let mut g = f64::from(*g) * 0.5;
                if spec.decoupled_decay {
                    p *= 1.0 - spec.learning_rate * decay;
                } else {
                    g += decay * p;
                }
                m = b1 * m + (1.0 - b1) * g;
                v = b2 * v + (1.0 - b2) * g * g;
                let (m, v) = (m / (1.0 - b1.powi(t as i32)), v / (1.0 - b2.powi(t as i32)));
                p -= spec.learning_rate * m / (v.sqrt() + spec.eps);
            }
            p
        })
        .collect()
}

#[test]
fn both_kinds_of_decay_follow_the_textbook() {
    for decoupled in [true, false] {
        let spec = spec(decoupled);
        let (mut parameters, gradients) = (wave(131, 0.01), wave(131, 0.003));
        let expected = textbook(&spec, &parameters, &gradients, 20);
        let (mut exp_avg, mut exp_avg_sq) = (vec![0.0; 131], vec![0.0; 131]);
        let adam = Adam::new(&spec);
        for number in 1..=20 {
            adam.apply(
                Update { number, rate: spec.learning_rate, gradient_scale: 0.5 },
                &mut Shard {
                    parameters: &mut parameters,
                    gradients: &gradients,
                    exp_avg: &mut exp_avg,
                    exp_avg_sq: &mut exp_avg_sq,
                },
            );
        }
        for (ours, theirs) in parameters.iter().zip(&expected) {
            assert!((f64::from(*ours) - theirs).abs() < 2e-6, "{ours} is not {theirs}");
        }
    }
}

#[test]
fn the_vector_width_does_not_change_a_bit() {
    let adam = Adam::new(&spec(true));
    let update = Update { number: 3, rate: 0.01, gradient_scale: 0.7 };
    let gradients = wave(1003, 0.003);
    let run = |apply: &dyn Fn(&mut Shard<'_>)| {
        let mut state = [wave(1003, 0.01), wave(1003, 0.02), wave(1003, 0.0)];
        state[2].iter_mut().enumerate().for_each(|(i, v)| *v = i as f32 * 1e-5);
        let [parameters, exp_avg, exp_avg_sq] = &mut state;
        apply(&mut Shard { parameters, gradients: &gradients, exp_avg, exp_avg_sq });
        state.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let widest = run(&|shard| adam.apply(update, shard));
    assert_eq!(widest, run(&|shard| apply_all(adam.constants(update), shard)));
}

#[test]
fn clipping_is_torchs() {
    assert_eq!(clip_coefficient(0.0, 50.0), 1.0);
    assert_eq!(clip_coefficient(1.0, 0.5), 1.0);
    assert_eq!(clip_coefficient(1.0, 4.0), (1.0_f64 / 4.000_001) as f32);
}

#[test]
fn squares_are_summed_wholly() {
    let values = wave(21, 1.0);
    let expected: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    assert_eq!(sum_of_squares(&values), expected);
}
