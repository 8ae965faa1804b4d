//! Adam and AdamW: torch's single-tensor loops. States: exp_avg, exp_avg_sq.

use crate::optimizer::{Pass, Shard, Update};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    pub(super) betas: [f64; 2],
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) decoupled_decay: bool,
    pub(super) bias_correction: bool,
}

/// The constants of one update as f32, as torch's kernels see them.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamPass {
    pub(super) scale: f32,
    pub(super) decay: f32,
    pub(super) l2: f32,
    pub(super) one_minus_beta1: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta2: f32,
    pub(super) correction2_sqrt: f32,
    pub(super) eps: f32,
    pub(super) negative_step_size: f32,
}

impl Adam {
    pub(super) fn pass(&self, update: Update) -> AdamPass {
        let [beta1, beta2] = update.betas.unwrap_or(self.betas);
        let correction = |beta: f64| {
            if self.bias_correction { 1.0 - beta.powf(update.number as f64) } else { 1.0 }
        };
        let decoupled = self.decoupled_decay;
        let decay = if decoupled { 1.0 - update.rate * self.weight_decay } else { 1.0 };
        let l2 = if decoupled { 0.0 } else { self.weight_decay };
        AdamPass {
            scale: update.gradient_scale,
            decay: decay as f32,
            l2: l2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            correction2_sqrt: correction(beta2).sqrt() as f32,
            eps: self.eps as f32,
            negative_step_size: (-update.rate / correction(beta1)) as f32,
        }
    }
}

impl Pass for AdamPass {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let [exp_avg, exp_avg_sq] = shard.states else {
            unreachable!("`Optimizer::apply` counts the states")
        };
        let moments = exp_avg.iter_mut().zip(exp_avg_sq.iter_mut());
        let values = shard.parameters.iter_mut().zip(shard.gradients);
        for ((parameter, gradient), (exp_avg, exp_avg_sq)) in values.zip(moments) {
            let decayed = *parameter * self.decay;
            let gradient = *gradient * self.scale + *parameter * self.l2;
            *exp_avg += self.one_minus_beta1 * (gradient - *exp_avg);
            *exp_avg_sq = *exp_avg_sq * self.beta2 + self.one_minus_beta2 * gradient * gradient;
            let denominator = exp_avg_sq.sqrt() / self.correction2_sqrt + self.eps;
            *parameter = decayed + self.negative_step_size * *exp_avg / denominator;
        }
    }
}
