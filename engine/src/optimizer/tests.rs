use super::adam::Adam;
use super::{Optimizer, Pass, Shard, Update, clip_coefficient, sum_of_squares};

const RATE: f64 = 0.01;

fn adam(decoupled_decay: bool) -> Adam {
    let (betas, eps) = ([0.9, 0.999], 1e-8);
    Adam { betas, eps, weight_decay: 0.1, decoupled_decay, bias_correction: true }
}

fn wave(len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) * scale).collect()
}

/// The textbook in f64, for many elements and steps.
fn textbook(spec: &Adam, start: &[f32], gradients: &[f32], updates: u64) -> Vec<f64> {
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
                    p *= 1.0 - RATE * decay;
                } else {
                    g += decay * p;
                }
                m = b1 * m + (1.0 - b1) * g;
                v = b2 * v + (1.0 - b2) * g * g;
                let (m, v) = (m / (1.0 - b1.powi(t as i32)), v / (1.0 - b2.powi(t as i32)));
                p -= RATE * m / (v.sqrt() + spec.eps);
            }
            p
        })
        .collect()
}

#[test]
fn both_kinds_of_decay_follow_the_textbook() {
    for decoupled in [true, false] {
        let adam = adam(decoupled);
        let (mut parameters, gradients) = (wave(131, 0.01), wave(131, 0.003));
        let expected = textbook(&adam, &parameters, &gradients, 20);
        let mut states = vec![vec![0.0; 131]; 2];
        for number in 1..=20 {
            Optimizer::Adam(adam).apply(
                Update { number, rate: RATE, gradient_scale: 0.5, betas: None },
                &mut Shard {
                    parameters: &mut parameters,
                    gradients: &gradients,
                    states: &mut states,
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
    let adam = adam(true);
    let update = Update { number: 3, rate: RATE, gradient_scale: 0.7, betas: None };
    let gradients = wave(1003, 0.003);
    let run = |apply: &dyn Fn(&mut Shard<'_>)| {
        let mut parameters = wave(1003, 0.01);
        let mut states = vec![wave(1003, 0.02), (0..1003).map(|i| i as f32 * 1e-5).collect()];
        let states = states.as_mut_slice();
        apply(&mut Shard { parameters: &mut parameters, gradients: &gradients, states });
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        (bits(&parameters), states.iter().map(|state| bits(state)).collect::<Vec<_>>())
    };
    let widest = run(&|shard| Optimizer::Adam(adam).apply(update, shard));
    assert_eq!(widest, run(&|shard| adam.pass(update).run(shard)));
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
