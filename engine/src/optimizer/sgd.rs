//! torch's SGD: weight decay, momentum, dampening, Nesterov. State: momentum_buffer, where there
//! is momentum.

use crate::optimizer::{Pass, Shard, Update};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sgd {
    pub(super) weight_decay: f64,
    pub(super) momentum: f64,
    pub(super) dampening: f64,
    pub(super) nesterov: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SgdPass {
    pub(super) scale: f32,
    pub(super) l2: f32,
    pub(super) momentum: f32,
    pub(super) one_minus_dampening: f32,
    pub(super) nesterov: bool,
    pub(super) negative_rate: f32,
}

impl Sgd {
    pub(super) fn has_momentum(&self) -> bool {
        self.momentum != 0.0
    }

    pub(super) fn pass(&self, update: Update) -> SgdPass {
        // The first gradient is the buffer, undampened: torch starts with a copy of it.
        let dampening = if update.number == 1 { 0.0 } else { self.dampening };
        SgdPass {
            scale: update.gradient_scale,
            l2: self.weight_decay as f32,
            momentum: self.momentum as f32,
            one_minus_dampening: (1.0 - dampening) as f32,
            nesterov: self.nesterov,
            negative_rate: -update.rate as f32,
        }
    }
}

impl Pass for SgdPass {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let values = shard.parameters.iter_mut().zip(shard.gradients);
        let [buffer] = shard.states else {
            for (parameter, gradient) in values {
                let gradient = *gradient * self.scale + *parameter * self.l2;
                *parameter += self.negative_rate * gradient;
            }
            return;
        };
        for ((parameter, gradient), buffer) in values.zip(buffer) {
            let gradient = *gradient * self.scale + *parameter * self.l2;
            *buffer = *buffer * self.momentum + self.one_minus_dampening * gradient;
            let step = if self.nesterov { gradient + self.momentum * *buffer } else { *buffer };
            *parameter += self.negative_rate * step;
        }
    }
}
