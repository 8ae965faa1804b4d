//! torch's NAdam. States: exp_avg, exp_avg_sq; the product of the momenta is made again from their
//! schedule, so it is nowhere stored.

use std::cell::Cell;

use crate::optimizer::{Pass, Shard, Update};

#[derive(Debug, Clone)]
pub(crate) struct NAdam {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    momentum_decay: f64,
    decoupled_decay: bool,
    /// The last update and the product up to it.
    product: Cell<(u64, f64)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct NAdamPass {
    pub(super) scale: f32,
    pub(super) decay: f32,
    pub(super) l2: f32,
    pub(super) one_minus_beta1: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta2: f32,
    pub(super) correction2: f32,
    pub(super) eps: f32,
    /// Of the gradient and of its mean.
    pub(super) negative_steps: [f32; 2],
}

impl NAdam {
    pub(super) fn new(
        (betas, eps): ([f64; 2], f64),
        momentum_decay: f64,
        (weight_decay, decoupled_decay): (f64, bool),
    ) -> Self {
        let product = Cell::new((0, 1.0));
        Self { betas, eps, weight_decay, momentum_decay, decoupled_decay, product }
    }

    fn momentum(&self, number: u64) -> f64 {
        const BASE: f64 = 0.96;
        self.betas[0] * (1.0 - 0.5 * BASE.powf(number as f64 * self.momentum_decay))
    }

    /// Of the momenta of updates 1 to `number`.
    fn product(&self, number: u64) -> f64 {
        /// What is smaller no longer changes 1 - product.
        const NOTHING: f64 = 1e-20;
        let (mut last, mut product) = self.product.get();
        if last > number {
            (last, product) = (0, 1.0);
        }
        while last < number && product > NOTHING {
            last += 1;
            product *= self.momentum(last);
        }
        self.product.set((number, product));
        product
    }

    pub(super) fn pass(&self, update: Update) -> NAdamPass {
        let [beta1, beta2] = self.betas;
        let (mu, mu_next) = (self.momentum(update.number), self.momentum(update.number + 1));
        let product = self.product(update.number);
        let rate = update.rate;
        let decoupled = self.decoupled_decay;
        let decay = if decoupled { 1.0 - rate * self.weight_decay } else { 1.0 };
        let l2 = if decoupled { 0.0 } else { self.weight_decay };
        let of_gradient = -rate * (1.0 - mu) / (1.0 - product);
        let of_mean = -rate * mu_next / (1.0 - product * mu_next);
        NAdamPass {
            scale: update.gradient_scale,
            decay: decay as f32,
            l2: l2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            correction2: (1.0 - beta2.powf(update.number as f64)) as f32,
            eps: self.eps as f32,
            negative_steps: [of_gradient as f32, of_mean as f32],
        }
    }
}

impl Pass for NAdamPass {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let [exp_avg, exp_avg_sq] = shard.states else {
            unreachable!("`Optimizer::apply` counts the states")
        };
        let [of_gradient, of_mean] = self.negative_steps;
        let moments = exp_avg.iter_mut().zip(exp_avg_sq.iter_mut());
        let values = shard.parameters.iter_mut().zip(shard.gradients);
        for ((parameter, gradient), (exp_avg, exp_avg_sq)) in values.zip(moments) {
            let decayed = *parameter * self.decay;
            let gradient = *gradient * self.scale + *parameter * self.l2;
            *exp_avg += self.one_minus_beta1 * (gradient - *exp_avg);
            *exp_avg_sq = *exp_avg_sq * self.beta2 + self.one_minus_beta2 * gradient * gradient;
            let denominator = (*exp_avg_sq / self.correction2).sqrt() + self.eps;
            let moved = decayed + of_gradient * gradient / denominator;
            *parameter = moved + of_mean * *exp_avg / denominator;
        }
    }
}
