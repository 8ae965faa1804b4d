//! torch's RMSprop. States: square_avg, then momentum_buffer with momentum, then grad_avg where
//! centered.

use crate::optimizer::{Pass, Shard, StateName, Update};

#[derive(Debug, Clone, Copy)]
pub(crate) struct RmsProp {
    pub(super) weight_decay: f64,
    pub(super) alpha: f64,
    pub(super) eps: f64,
    pub(super) momentum: f64,
    pub(super) centered: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RmsPropPass {
    pub(super) scale: f32,
    pub(super) l2: f32,
    pub(super) alpha: f32,
    pub(super) one_minus_alpha: f32,
    pub(super) eps: f32,
    pub(super) momentum: f32,
    pub(super) centered: bool,
    pub(super) negative_rate: f32,
}

impl RmsProp {
    pub(super) fn states(&self) -> &'static [StateName] {
        use StateName::{GradAvg, MomentumBuffer, SquareAvg};
        match (self.momentum > 0.0, self.centered) {
            (false, false) => &[SquareAvg],
            (true, false) => &[SquareAvg, MomentumBuffer],
            (false, true) => &[SquareAvg, GradAvg],
            (true, true) => &[SquareAvg, MomentumBuffer, GradAvg],
        }
    }

    pub(super) fn pass(&self, update: Update) -> RmsPropPass {
        RmsPropPass {
            scale: update.gradient_scale,
            l2: self.weight_decay as f32,
            alpha: self.alpha as f32,
            one_minus_alpha: (1.0 - self.alpha) as f32,
            eps: self.eps as f32,
            momentum: self.momentum as f32,
            centered: self.centered,
            negative_rate: -update.rate as f32,
        }
    }
}

impl RmsPropPass {
    #[inline(always)]
    fn gradient(&self, gradient: f32, parameter: f32, square: &mut f32) -> f32 {
        let gradient = gradient * self.scale + parameter * self.l2;
        *square = *square * self.alpha + self.one_minus_alpha * gradient * gradient;
        gradient
    }

    /// A variance, which rounding can take below zero: torch gets NaN there.
    #[inline(always)]
    fn centered(&self, gradient: f32, square: f32, mean: &mut f32) -> f32 {
        *mean += self.one_minus_alpha * (gradient - *mean);
        (square - *mean * *mean).max(0.0).sqrt() + self.eps
    }

    #[inline(always)]
    fn advance(&self, parameter: &mut f32, buffer: &mut f32, step: f32) {
        *buffer = *buffer * self.momentum + step;
        *parameter += self.negative_rate * *buffer;
    }
}

impl Pass for RmsPropPass {
    type Output = ();

    /// A loop for each combination of states, so that each vectorises.
    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let values = shard.parameters.iter_mut().zip(shard.gradients);
        match shard.states {
            [square] => {
                for ((parameter, gradient), square) in values.zip(square) {
                    let gradient = self.gradient(*gradient, *parameter, square);
                    *parameter += self.negative_rate * gradient / (square.sqrt() + self.eps);
                }
            }
            [square, mean] if self.centered => {
                for (((parameter, gradient), square), mean) in values.zip(square).zip(mean) {
                    let gradient = self.gradient(*gradient, *parameter, square);
                    let average = self.centered(gradient, *square, mean);
                    *parameter += self.negative_rate * gradient / average;
                }
            }
            [square, buffer] => {
                for (((parameter, gradient), square), buffer) in values.zip(square).zip(buffer) {
                    let gradient = self.gradient(*gradient, *parameter, square);
                    self.advance(parameter, buffer, gradient / (square.sqrt() + self.eps));
                }
            }
            [square, buffer, mean] => {
                let states = square.iter_mut().zip(buffer).zip(mean);
                for ((parameter, gradient), ((square, buffer), mean)) in values.zip(states) {
                    let gradient = self.gradient(*gradient, *parameter, square);
                    let average = self.centered(gradient, *square, mean);
                    self.advance(parameter, buffer, gradient / average);
                }
            }
            _ => unreachable!("`Optimizer::apply` counts the states"),
        }
    }
}
