use common::spec::UpdateRule;

use super::adam::Adam;
use super::{Optimizer, Pass, Shard, StateName, Update, clip_coefficient, sum_of_squares};

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

/// Every rule, with every combination of states.
fn rules() -> Vec<UpdateRule> {
    let (betas, eps) = ([0.9, 0.99], 1e-8);
    let sgd = |momentum, nesterov| UpdateRule::Sgd { momentum, dampening: 0.0, nesterov };
    let rmsprop = |momentum, centered| UpdateRule::RmsProp { alpha: 0.9, eps, momentum, centered };
    let bias_correction = true;
    vec![
        UpdateRule::Adam { betas, eps, bias_correction, decoupled_decay: false },
        UpdateRule::AdamW { betas, eps, bias_correction },
        sgd(0.0, false),
        sgd(0.9, false),
        sgd(0.9, true),
        UpdateRule::Adagrad { eps, lr_decay: 0.1, initial_accumulator_value: 0.1 },
        rmsprop(0.0, false),
        rmsprop(0.5, false),
        rmsprop(0.0, true),
        rmsprop(0.5, true),
        UpdateRule::Lion { betas },
        UpdateRule::NAdam { betas, eps, momentum_decay: 4e-3, decoupled_decay: true },
    ]
}

/// Parameters and states after three updates, as bits.
fn bits_after(rule: UpdateRule, len: usize, parts: usize) -> (Vec<u32>, Vec<Vec<u32>>) {
    let spec = common::spec::Optimizer { learning_rate: RATE, weight_decay: 0.1, rule };
    let optimizer = Optimizer::new(&spec);
    let (mut parameters, gradients) = (wave(len, 0.01), wave(len, 0.003));
    let state = |name: &StateName, len: usize| vec![optimizer.initial(*name); len];
    let mut after: Vec<Vec<u32>> = vec![Vec::new(); optimizer.states().len()];
    let size = len.div_ceil(parts);
    for (parameters, gradients) in parameters.chunks_mut(size).zip(gradients.chunks(size)) {
        let states: Vec<_> =
            optimizer.states().iter().map(|name| state(name, gradients.len())).collect();
        let mut states = states;
        for number in 1..=3 {
            let update = Update { number, rate: RATE, gradient_scale: 0.7, betas: None };
            let states = states.as_mut_slice();
            optimizer.apply(update, &mut Shard { parameters, gradients, states });
        }
        for (after, state) in after.iter_mut().zip(&states) {
            after.extend(state.iter().map(|value| value.to_bits()));
        }
    }
    (parameters.into_iter().map(f32::to_bits).collect(), after)
}

/// Shards end anywhere, so elements fall into other lanes, or into the rest after the last lane.
#[test]
fn how_a_flat_buffer_is_cut_does_not_change_a_bit() {
    for rule in rules() {
        let whole = bits_after(rule, 1003, 1);
        for parts in [2, 3, 7, 1003] {
            assert_eq!(bits_after(rule, 1003, parts), whole, "{rule:?} in {parts} parts");
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
fn lion_does_not_move_what_has_no_direction() {
    let rule = UpdateRule::Lion { betas: [0.9, 0.99] };
    let spec = common::spec::Optimizer { learning_rate: RATE, weight_decay: 0.0, rule };
    let (mut parameters, mut states) = (vec![1.0, 1.0, 1.0], vec![vec![0.0; 3]]);
    let update = Update { number: 1, rate: RATE, gradient_scale: 1.0, betas: None };
    let gradients = &[0.0, 1e-20, -5.0];
    let mut shard = Shard { parameters: &mut parameters, gradients, states: &mut states };
    Optimizer::new(&spec).apply(update, &mut shard);
    assert_eq!(parameters, [1.0, 0.99, 1.01]);
}

/// The product of its momenta is nowhere stored: a resumed run makes it again.
#[test]
fn nadam_makes_the_product_of_its_momenta_anew() {
    let new = || super::nadam::NAdam::new(([0.9, 0.999], 1e-8), 4e-3, (0.0, false));
    let constants = |nadam: &super::nadam::NAdam, number| {
        let update = Update { number, rate: RATE, gradient_scale: 1.0, betas: None };
        format!("{:?}", nadam.pass(update))
    };
    let going = new();
    let all: Vec<String> = (1..=600).map(|number| constants(&going, number)).collect();
    for number in [1, 2, 77, 600] {
        assert_eq!(constants(&new(), number), all[number as usize - 1]);
    }
    assert_eq!(constants(&going, 3), all[2], "back after a step that was not made");
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
