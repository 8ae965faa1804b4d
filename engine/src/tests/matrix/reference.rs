//! A plain loop: whole batches on one rank, torch's autograd, and textbook updates in fp64. Knows
//! nothing of shards, buckets, hooks, micro-steps, or precision.

use common::spec::{JobSpec, Optimizer, UpdateRule};
use tch::{Reduction, Tensor};

use crate::data;
use crate::model::{self, Pass, Plain};
use crate::schedule::Schedule;

/// Losses before each of `steps` updates on `batch` samples.
pub(super) fn losses(spec: &JobSpec, steps: u64, batch: u64) -> Vec<f64> {
    let data = data::load(&spec.data, spec.job.seed).unwrap();
    let (seed, outputs) = (spec.job.seed, data.output_features);
    let model = model::build(&spec.model, data.input, outputs, seed).unwrap();
    let order = data::order(seed, 0, data.train.len(), spec.data.shuffle);
    let schedule = Schedule::new(&spec.training, steps);
    let mut textbook: Vec<Textbook> = model
        .parameters()
        .iter()
        .map(|p| Textbook::new(&spec.training.optimizer, values(&p.tensor)))
        .collect();
    let mut losses = Vec::new();
    for (k, indices) in (0..steps).zip(order.chunks(batch as usize)) {
        let (x, y) = data.train.batch(indices).unwrap();
        let loss = model.forward(&x, Pass::Evaluate, &Plain).unwrap().mse_loss(&y, Reduction::Mean);
        losses.push(loss.double_value(&[]));
        loss.backward();
        let gradients: Vec<Vec<f64>> =
            model.parameters().iter().map(|p| values(&p.tensor.grad())).collect();
        let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let bound = spec.training.gradient_clipping;
        let scale = if bound > 0.0 { (bound / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for ((textbook, gradient), parameter) in
            textbook.iter_mut().zip(&gradients).zip(model.parameters())
        {
            let gradient: Vec<f64> = gradient.iter().map(|g| g * scale).collect();
            textbook.update(k + 1, (schedule.rate(k), schedule.betas(k)), &gradient);
            let new: Vec<f32> = textbook.weights.iter().map(|w| *w as f32).collect();
            let mut leaf = parameter.tensor.shallow_clone();
            tch::no_grad(|| leaf.copy_(&Tensor::from_slice(&new).view_as(&parameter.tensor)));
            leaf.zero_grad();
        }
    }
    losses
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap().into_iter().map(f64::from).collect()
}

/// One parameter and what its optimizer remembers.
struct Textbook {
    spec: Optimizer,
    weights: Vec<f64>,
    /// Mean of the gradients, or velocity.
    m: Vec<f64>,
    /// Mean or sum of their squares.
    v: Vec<f64>,
    /// RMSprop's mean, and NAdam's product of momenta in its first place.
    other: Vec<f64>,
}

impl Textbook {
    fn new(spec: &Optimizer, weights: Vec<f64>) -> Self {
        let zeros = vec![0.0; weights.len()];
        let first = match spec.rule {
            UpdateRule::Adagrad { initial_accumulator_value, .. } => initial_accumulator_value,
            _ => 0.0,
        };
        let v = vec![first; weights.len()];
        let other = match spec.rule {
            UpdateRule::NAdam { .. } => vec![1.0],
            _ => zeros.clone(),
        };
        Self { spec: spec.clone(), weights, m: zeros, v, other }
    }

    fn update(&mut self, t: u64, (rate, cycled): (f64, Option<[f64; 2]>), gradient: &[f64]) {
        let betas = |own| cycled.unwrap_or(own);
        let decay = self.spec.weight_decay;
        match self.spec.rule {
            UpdateRule::Adam { betas: own, eps, decoupled_decay, .. } => {
                let l2 = if decoupled_decay { 0.0 } else { decay };
                self.adam(
                    (t, rate),
                    (betas(own), eps),
                    (l2, if l2 > 0.0 { 0.0 } else { decay }),
                    gradient,
                );
            }
            UpdateRule::AdamW { betas: own, eps, .. } => {
                self.adam((t, rate), (betas(own), eps), (0.0, decay), gradient);
            }
            UpdateRule::Sgd { momentum, dampening, nesterov } => {
                for (i, g) in gradient.iter().enumerate() {
                    let g = g + decay * self.weights[i];
                    let kept = if t == 1 { 1.0 } else { 1.0 - dampening };
                    self.m[i] = momentum * self.m[i] + kept * g;
                    self.weights[i] -=
                        rate * if nesterov { g + momentum * self.m[i] } else { self.m[i] };
                }
            }
            UpdateRule::Adagrad { eps, lr_decay, .. } => {
                let rate = rate / (1.0 + (t - 1) as f64 * lr_decay);
                for (i, g) in gradient.iter().enumerate() {
                    let g = g + decay * self.weights[i];
                    self.v[i] += g * g;
                    self.weights[i] -= rate * g / (self.v[i].sqrt() + eps);
                }
            }
            UpdateRule::RmsProp { alpha, eps, momentum, centered } => {
                for (i, g) in gradient.iter().enumerate() {
                    let g = g + decay * self.weights[i];
                    self.v[i] = alpha * self.v[i] + (1.0 - alpha) * g * g;
                    self.other[i] = alpha * self.other[i] + (1.0 - alpha) * g;
                    let mean = if centered { self.other[i] } else { 0.0 };
                    let deviation = (self.v[i] - mean * mean).sqrt() + eps;
                    self.m[i] = momentum * self.m[i] + g / deviation;
                    self.weights[i] -= rate * self.m[i];
                }
            }
            UpdateRule::Lion { betas: own } => {
                let [b1, b2] = betas(own);
                for (i, g) in gradient.iter().enumerate() {
                    let direction = b1 * self.m[i] + (1.0 - b1) * g;
                    let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
                    self.weights[i] -= rate * (sign + decay * self.weights[i]);
                    self.m[i] = b2 * self.m[i] + (1.0 - b2) * g;
                }
            }
            UpdateRule::Lamb { betas: own, eps, min_coeff, max_coeff, .. } => {
                self.lamb((t, rate), (betas(own), eps), (min_coeff, max_coeff), gradient);
            }
            UpdateRule::NAdam { betas: own, eps, momentum_decay, .. } => {
                self.nadam((t, rate), (own, eps, momentum_decay), gradient);
            }
        }
    }

    fn moments(&mut self, [b1, b2]: [f64; 2], i: usize, g: f64) {
        self.m[i] = b1 * self.m[i] + (1.0 - b1) * g;
        self.v[i] = b2 * self.v[i] + (1.0 - b2) * g * g;
    }

    fn adam(
        &mut self,
        (t, rate): (u64, f64),
        (betas, eps): ([f64; 2], f64),
        (l2, decoupled): (f64, f64),
        gradient: &[f64],
    ) {
        let [c1, c2] = betas.map(|beta| 1.0 - beta.powi(t as i32));
        for (i, g) in gradient.iter().enumerate() {
            let g = g + l2 * self.weights[i];
            self.weights[i] -= rate * decoupled * self.weights[i];
            self.moments(betas, i, g);
            self.weights[i] -= rate * (self.m[i] / c1) / ((self.v[i] / c2).sqrt() + eps);
        }
    }

    fn lamb(
        &mut self,
        (t, rate): (u64, f64),
        (betas, eps): ([f64; 2], f64),
        (min, max): (f64, f64),
        gradient: &[f64],
    ) {
        gradient.iter().enumerate().for_each(|(i, g)| self.moments(betas, i, *g));
        let decay = self.spec.weight_decay;
        let direction: Vec<f64> = (0..gradient.len())
            .map(|i| self.m[i] / (self.v[i].sqrt() + eps) + decay * self.weights[i])
            .collect();
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (weights, moves) = (norm(&self.weights), norm(&direction));
        let trust =
            if weights > 0.0 && moves > 0.0 { (weights / moves).clamp(min, max) } else { 1.0 };
        let [c1, c2] = betas.map(|beta| 1.0 - beta.powi(t as i32));
        for (weight, direction) in self.weights.iter_mut().zip(direction) {
            *weight -= rate * c2.sqrt() / c1 * trust * direction;
        }
    }

    fn nadam(
        &mut self,
        (t, rate): (u64, f64),
        (betas, eps, momentum_decay): ([f64; 2], f64, f64),
        gradient: &[f64],
    ) {
        let mu = |t: u64| betas[0] * (1.0 - 0.5 * 0.96_f64.powf(t as f64 * momentum_decay));
        self.other[0] *= mu(t);
        let (product, next) = (self.other[0], mu(t + 1));
        let decay = self.spec.weight_decay;
        for (i, g) in gradient.iter().enumerate() {
            self.weights[i] -= rate * decay * self.weights[i];
            self.moments(betas, i, *g);
            let deviation = (self.v[i] / (1.0 - betas[1].powi(t as i32))).sqrt() + eps;
            self.weights[i] -= rate * (1.0 - mu(t)) / (1.0 - product) * g / deviation;
            self.weights[i] -= rate * next / (1.0 - product * next) * self.m[i] / deviation;
        }
    }
}
