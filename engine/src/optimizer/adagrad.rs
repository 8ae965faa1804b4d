//! torch's Adagrad. State: sum.

use crate::optimizer::{Pass, Shard, Update};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Adagrad {
    pub(super) weight_decay: f64,
    pub(super) eps: f64,
    pub(super) lr_decay: f64,
    pub(super) initial_accumulator_value: f64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AdagradPass {
    pub(super) scale: f32,
    pub(super) l2: f32,
    pub(super) eps: f32,
    pub(super) negative_rate: f32,
}

impl Adagrad {
    pub(super) fn pass(&self, update: Update) -> AdagradPass {
        let rate = update.rate / (1.0 + (update.number - 1) as f64 * self.lr_decay);
        AdagradPass {
            scale: update.gradient_scale,
            l2: self.weight_decay as f32,
            eps: self.eps as f32,
            negative_rate: -rate as f32,
        }
    }
}

impl Pass for AdagradPass {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let [sum] = shard.states else { unreachable!("`Optimizer::apply` counts the states") };
        let values = shard.parameters.iter_mut().zip(shard.gradients);
        for ((parameter, gradient), sum) in values.zip(sum) {
            let gradient = *gradient * self.scale + *parameter * self.l2;
            *sum += gradient * gradient;
            *parameter += self.negative_rate * gradient / (sum.sqrt() + self.eps);
        }
    }
}
