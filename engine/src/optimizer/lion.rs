//! Lion, as in its paper (Chen et al. 2023) and DeepSpeed's FusedLion. State: exp_avg.
//!
//! Where the direction is exactly zero nothing moves, as in the paper; FusedLion's kernel, which
//! only asks whether it is above zero, moves up there.

use crate::optimizer::{Pass, Shard, Update};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Lion {
    pub(super) weight_decay: f64,
    pub(super) betas: [f64; 2],
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LionPass {
    pub(super) scale: f32,
    pub(super) decay: f32,
    pub(super) beta1: f32,
    pub(super) one_minus_beta1: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta2: f32,
    pub(super) rate: f32,
}

impl Lion {
    pub(super) fn pass(&self, update: Update) -> LionPass {
        let [beta1, beta2] = update.betas.unwrap_or(self.betas);
        LionPass {
            scale: update.gradient_scale,
            decay: (1.0 - update.rate * self.weight_decay) as f32,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            rate: update.rate as f32,
        }
    }
}

impl Pass for LionPass {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let [exp_avg] = shard.states else { unreachable!("`Optimizer::apply` counts the states") };
        let values = shard.parameters.iter_mut().zip(shard.gradients);
        for ((parameter, gradient), exp_avg) in values.zip(exp_avg) {
            let gradient = *gradient * self.scale;
            let direction = self.beta1 * *exp_avg + self.one_minus_beta1 * gradient;
            let up = if direction < 0.0 { self.rate } else { 0.0 };
            let down = if direction > 0.0 { self.rate } else { 0.0 };
            *parameter = *parameter * self.decay + (up - down);
            *exp_avg = self.beta2 * *exp_avg + self.one_minus_beta2 * gradient;
        }
    }
}
