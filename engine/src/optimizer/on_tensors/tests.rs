use common::spec::{self, UpdateRule};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, TchError, Tensor};

use super::CHUNK;
use crate::optimizer::{
    Optimizer, Shard, TensorShard, Update, sum_of_squares, sum_of_squares_on_tensor,
};

const SEED: u64 = 20;
/// Two whole chunks and a part of one.
const LEN: usize = 2 * CHUNK + 188;
const UPDATES: u64 = 10;

/// Of a value, and of the root mean square of all: where a sum cancels, the roundings of what
/// was summed remain.
const TOLERANCE: f64 = 1e-6;

fn random(rng: &mut ChaCha8Rng, scale: f32) -> Vec<f32> {
    // Some are exactly zero, as the gradients of what an input did not reach.
    let mut value = || if rng.random::<f32>() < 0.05 { 0.0 } else { rng.random_range(-1.0..1.0) };
    (0..LEN).map(|_| value() * scale).collect()
}

fn rules() -> Vec<UpdateRule> {
    // Not small beside the gradients, so that its place in the formula shows.
    let (betas, eps) = ([0.9, 0.999], 1e-3);
    let adam = |bias_correction, decoupled_decay| UpdateRule::Adam {
        betas,
        eps,
        bias_correction,
        decoupled_decay,
    };
    let sgd = |momentum, dampening, nesterov| UpdateRule::Sgd { momentum, dampening, nesterov };
    let rmsprop = |momentum, centered| UpdateRule::RmsProp { alpha: 0.9, eps, momentum, centered };
    let nadam =
        |decoupled_decay| UpdateRule::NAdam { betas, eps, momentum_decay: 4e-3, decoupled_decay };
    let mut rules = vec![
        adam(true, false),
        adam(false, false),
        adam(false, true),
        UpdateRule::AdamW { betas, eps, bias_correction: true },
        sgd(0.0, 0.0, false),
        sgd(0.9, 0.0, false),
        sgd(0.9, 0.3, false),
        sgd(0.9, 0.0, true),
        UpdateRule::Adagrad { eps, lr_decay: 0.1, initial_accumulator_value: 0.1 },
        UpdateRule::Adagrad { eps: 1e-10, lr_decay: 0.0, initial_accumulator_value: 0.0 },
        rmsprop(0.0, false),
        rmsprop(0.5, false),
        rmsprop(0.0, true),
        rmsprop(0.5, true),
        UpdateRule::Lion { betas: [0.9, 0.99] },
        nadam(true),
        nadam(false),
    ];
    rules.extend([(true, false), (false, true)].map(|(bias_correction, eps_inside_sqrt)| {
        let (min_coeff, max_coeff) = (0.01, 10.0);
        UpdateRule::Lamb { betas, eps, bias_correction, eps_inside_sqrt, min_coeff, max_coeff }
    }));
    rules
}

/// A shard on the host and its copy in tensors.
struct Twins {
    optimizer: Optimizer,
    parameters: Vec<f32>,
    states: Vec<Vec<f32>>,
    parameters_there: Tensor,
    states_there: Vec<Tensor>,
}

impl Twins {
    fn new(rule: UpdateRule, weight_decay: f64, rng: &mut ChaCha8Rng) -> Self {
        let learning_rate = 0.01;
        let optimizer = Optimizer::new(&spec::Optimizer { learning_rate, weight_decay, rule });
        let state = |name: &_| vec![optimizer.initial(*name); LEN];
        let states: Vec<_> = optimizer.states().iter().map(state).collect();
        let parameters = random(rng, 0.5);
        Self {
            parameters_there: Tensor::from_slice(&parameters),
            states_there: states.iter().map(|state| Tensor::from_slice(state)).collect(),
            optimizer,
            parameters,
            states,
        }
    }

    fn update(&mut self, update: Update, gradients: &[f32]) {
        let there = Tensor::from_slice(gradients);
        let mut here =
            Shard { parameters: &mut self.parameters, gradients, states: &mut self.states };
        let (parameters, states) = (&self.parameters_there, &self.states_there);
        let shard = TensorShard { parameters, gradients: &there, states };
        self.optimizer.apply(update, &mut here);
        self.optimizer.apply_on_tensors(update, &shard).unwrap();
        if let Some(lamb) = self.optimizer.layer_wise() {
            // Two parameters, neither of whose ends is one of a chunk.
            for range in [3..CHUNK + 40, CHUNK + 40..LEN] {
                let expected = lamb.squares(range.clone(), &mut here);
                let squares = lamb.squares_on_tensors(range.clone(), &shard).unwrap();
                for (ours, hosts) in squares.iter().zip(expected) {
                    assert!((ours - hosts).abs() <= TOLERANCE * hosts, "{ours} is not {hosts}");
                }
                lamb.advance(update, range.clone(), expected, &mut here);
                lamb.advance_on_tensors(update, range, squares, &shard).unwrap();
            }
        }
        assert_eq!(values(&there), gradients, "the gradients are the caller's");
    }

    /// The host's values and the tensors', parameters first.
    fn pairs(&self) -> impl Iterator<Item = (&[f32], Vec<f32>)> {
        let here = std::iter::once(&self.parameters).chain(&self.states);
        let there = std::iter::once(&self.parameters_there).chain(&self.states_there);
        here.zip(there).map(|(here, there)| (here.as_slice(), values(there)))
    }

    /// The largest difference over what [`TOLERANCE`] is of.
    fn difference(&self) -> f64 {
        let of_pair = |(here, there): (&[f32], Vec<f32>)| {
            let root_mean_square = (sum_of_squares(here) / LEN as f64).sqrt();
            let differences = here.iter().zip(there).map(|(here, there)| {
                let size = f64::from(here.abs()) + root_mean_square;
                let difference = f64::from((here - there).abs());
                if difference == 0.0 { 0.0 } else { difference / size }
            });
            // NaN counts as far.
            differences.fold(0.0, |most, one| if one <= most { most } else { one })
        };
        self.pairs().map(of_pair).fold(0.0, |most, one| if one <= most { most } else { one })
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.try_into().unwrap()
}

fn settings() -> impl Iterator<Item = (UpdateRule, f64, f32, Option<[f64; 2]>)> {
    rules().into_iter().flat_map(|rule| {
        [(0.0, 1.0, None), (0.1, 1.0, None), (0.0, 0.7, None), (0.1, 0.7, Some([0.85, 0.99]))]
            .map(|(decay, scale, betas)| (rule, decay, scale, betas))
    })
}

fn after_ten(
    (rule, decay, gradient_scale, betas): (UpdateRule, f64, f32, Option<[f64; 2]>),
) -> Twins {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut twins = Twins::new(rule, decay, &mut rng);
    for number in 1..=UPDATES {
        // A schedule that warms up begins at zero.
        let rate = 0.002 * (number - 1) as f64;
        twins.update(Update { number, rate, gradient_scale, betas }, &random(&mut rng, 0.1));
    }
    twins
}

#[test]
fn every_rule_does_on_tensors_what_it_does_on_the_host() {
    let far: Vec<_> = settings()
        .map(|setting| (after_ten(setting).difference(), setting))
        .filter(|(difference, _)| *difference > TOLERANCE)
        .map(|(difference, setting)| format!("{difference:.1e}: {setting:?}"))
        .collect();
    assert!(far.is_empty(), "seed {SEED}:\n{}", far.join("\n"));
}

/// A direction next to zero must not take another sign.
#[test]
fn lion_has_the_hosts_bits() {
    for setting in settings().filter(|(rule, ..)| matches!(rule, UpdateRule::Lion { .. })) {
        for (here, there) in after_ten(setting).pairs() {
            assert_eq!(here, there, "{setting:?}, seed {SEED}");
        }
    }
}

#[test]
fn a_leaf_that_requires_a_gradient_moves_unrecorded() {
    let rule = UpdateRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false };
    let optimizer =
        Optimizer::new(&spec::Optimizer { learning_rate: 0.5, weight_decay: 0.0, rule });
    let parameters = Tensor::from_slice(&[1.0_f32, 2.0]).set_requires_grad(true);
    let gradients = &Tensor::from_slice(&[2.0_f32, -2.0]);
    let update = Update { number: 1, rate: 0.5, gradient_scale: 1.0, betas: None };
    let shard = TensorShard { parameters: &parameters, gradients, states: &[] };
    optimizer.apply_on_tensors(update, &shard).unwrap();
    assert_eq!(values(&parameters.detach()), [0.0, 3.0]);
    assert!(parameters.is_leaf());
}

#[test]
fn a_shard_of_another_shape_or_kind_is_refused() {
    let optimizer = Optimizer::new(&spec::Optimizer {
        learning_rate: 0.01,
        weight_decay: 0.0,
        rule: UpdateRule::Lion { betas: [0.9, 0.99] },
    });
    let of = |dims: &[i64], kind| Tensor::zeros(dims, (kind, Device::Cpu));
    let check = |gradients: &Tensor, states: &[Tensor]| {
        let update = Update { number: 1, rate: 0.01, gradient_scale: 1.0, betas: None };
        let parameters = &of(&[4], Kind::Float);
        optimizer.apply_on_tensors(update, &TensorShard { parameters, gradients, states })
    };
    let (good, other) = (|| of(&[4], Kind::Float), || of(&[4], Kind::BFloat16));
    check(&good(), &[good()]).unwrap();
    for (gradients, states) in [
        (good(), vec![]),
        (good(), vec![good(), good()]),
        (of(&[1], Kind::Float), vec![good()]),
        (of(&[2, 2], Kind::Float), vec![good()]),
        (good(), vec![of(&[1], Kind::Float)]),
    ] {
        assert!(matches!(check(&gradients, &states), Err(TchError::Shape(_))));
    }
    assert!(matches!(check(&other(), &[good()]), Err(TchError::Kind(_))));
    assert!(matches!(check(&good(), &[other()]), Err(TchError::Kind(_))));
}

fn squared(tensor: &Tensor) -> f64 {
    sum_of_squares_on_tensor(tensor).unwrap().double_value(&[0])
}

#[test]
fn squares_of_tensors_are_summed_wholly_and_in_f64() {
    // Beyond f32, whose squares would overflow or vanish.
    for scale in [1.0, 1e30, 1e-30] {
        let values_here = random(&mut ChaCha8Rng::seed_from_u64(SEED), scale);
        for kind in [Kind::Float, Kind::BFloat16] {
            let tensor = Tensor::from_slice(&values_here).to_kind(kind);
            let expected = sum_of_squares(&values(&tensor.to_kind(Kind::Float)));
            let sum = squared(&tensor);
            assert!((sum - expected).abs() <= 1e-14 * expected, "{sum:e} is not {expected:e}");
        }
    }
    assert_eq!(squared(&Tensor::from_slice::<f32>(&[])), 0.0);
    let with_nan = Tensor::from_slice(&[1.0, f32::NAN]);
    assert!(squared(&with_nan).is_nan(), "overflow shows");
    let with_infinity = Tensor::from_slice(&[1.0, f32::NEG_INFINITY]);
    assert_eq!(squared(&with_infinity), f64::INFINITY);
}
