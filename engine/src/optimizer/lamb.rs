//! LAMB by DeepSpeed's FusedLamb. States: exp_avg, exp_avg_sq.
//!
//! How far a parameter moves depends on the norms of all of it and of its direction, so an update
//! has three passes: the moments, the norms' squares (which the caller adds up over the ranks),
//! and the move. The direction is computed anew in the last two, as FusedLamb does, rather than
//! kept.

use std::ops::Range;

use crate::optimizer::{Pass, Shard, Update, widest};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Lamb {
    pub(super) betas: [f64; 2],
    pub(super) eps: f64,
    pub(super) weight_decay: f64,
    pub(super) bias_correction: bool,
    pub(super) eps_inside_sqrt: bool,
    pub(super) min_coeff: f64,
    pub(super) max_coeff: f64,
}

impl Lamb {
    /// Brings the moments up to this update; the parameters stay.
    pub(super) fn moments(&self, update: Update) -> Moments {
        let [beta1, beta2] = update.betas.unwrap_or(self.betas);
        Moments {
            scale: update.gradient_scale,
            beta1: beta1 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
        }
    }

    /// Squared norms of the elements in `range` and of their direction.
    pub(crate) fn squares(&self, range: Range<usize>, shard: &mut Shard<'_>) -> [f64; 2] {
        let (start, end) = (range.start, range.end);
        widest::run(Squares { direction: self.direction(), start, end }, shard)
    }

    /// Moves the elements in `range`, whose whole parameter has these squared norms.
    pub(crate) fn advance(
        &self,
        update: Update,
        range: Range<usize>,
        squares: [f64; 2],
        shard: &mut Shard<'_>,
    ) {
        let negative_step = self.negative_step(update, squares);
        let (start, end) = (range.start, range.end);
        widest::run(Advance { direction: self.direction(), negative_step, start, end }, shard);
    }

    /// What a direction is multiplied by, where the whole parameter has these squared norms.
    pub(super) fn negative_step(&self, update: Update, [weights, direction]: [f64; 2]) -> f32 {
        let (weights, direction) = (weights.sqrt(), direction.sqrt());
        let coefficient = if weights != 0.0 && direction != 0.0 {
            (weights / direction).min(self.max_coeff).max(self.min_coeff)
        } else {
            1.0
        };
        -(self.step_size(update) * coefficient) as f32
    }

    fn step_size(&self, update: Update) -> f64 {
        if !self.bias_correction {
            return update.rate;
        }
        let correction = |beta: f64| 1.0 - beta.powf(update.number as f64);
        let [beta1, beta2] = update.betas.unwrap_or(self.betas).map(correction);
        update.rate * beta2.sqrt() / beta1
    }

    pub(super) fn direction(&self) -> Direction {
        let (eps, weight_decay) = (self.eps as f32, self.weight_decay as f32);
        // One of the two is zero, and adding zero changes nothing.
        let (inside, outside) = if self.eps_inside_sqrt { (eps, 0.0) } else { (0.0, eps) };
        Direction { inside, outside, weight_decay }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) scale: f32,
    pub(super) beta1: f32,
    pub(super) one_minus_beta1: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta2: f32,
}

impl Pass for Moments {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let [exp_avg, exp_avg_sq] = shard.states else {
            unreachable!("`Optimizer::apply` counts the states")
        };
        let moments = exp_avg.iter_mut().zip(exp_avg_sq.iter_mut());
        for (gradient, (exp_avg, exp_avg_sq)) in shard.gradients.iter().zip(moments) {
            let gradient = *gradient * self.scale;
            *exp_avg = self.beta1 * *exp_avg + self.one_minus_beta1 * gradient;
            *exp_avg_sq = self.beta2 * *exp_avg_sq + self.one_minus_beta2 * gradient * gradient;
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Direction {
    pub(super) inside: f32,
    pub(super) outside: f32,
    pub(super) weight_decay: f32,
}

impl Direction {
    #[inline(always)]
    fn of(self, parameter: f32, exp_avg: f32, exp_avg_sq: f32) -> f32 {
        let denominator = (exp_avg_sq + self.inside).sqrt() + self.outside;
        exp_avg / denominator + self.weight_decay * parameter
    }
}

#[derive(Debug, Clone, Copy)]
struct Squares {
    direction: Direction,
    start: usize,
    end: usize,
}

impl Pass for Squares {
    type Output = [f64; 2];

    /// In eight lanes, as [`super::sum_of_squares`]: a fixed order that vectorises.
    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) -> [f64; 2] {
        const LANES: usize = 8;
        let [exp_avg, exp_avg_sq] = shard.states else {
            unreachable!("`Optimizer::apply` counts the states")
        };
        let range = self.start..self.end;
        let parameters = &shard.parameters[range.clone()];
        let (exp_avg, exp_avg_sq) = (&exp_avg[range.clone()], &exp_avg_sq[range]);
        let mut weights = [0.0_f64; LANES];
        let mut directions = [0.0_f64; LANES];
        let all = parameters.chunks(LANES).zip(exp_avg.chunks(LANES)).zip(exp_avg_sq.chunks(LANES));
        for ((parameters, exp_avg), exp_avg_sq) in all {
            let lanes = weights.iter_mut().zip(&mut directions);
            let values = parameters.iter().zip(exp_avg).zip(exp_avg_sq);
            for ((weight, direction), ((parameter, exp_avg), exp_avg_sq)) in lanes.zip(values) {
                let step = f64::from(self.direction.of(*parameter, *exp_avg, *exp_avg_sq));
                *weight += f64::from(*parameter) * f64::from(*parameter);
                *direction += step * step;
            }
        }
        [weights.iter().sum(), directions.iter().sum()]
    }
}

#[derive(Debug, Clone, Copy)]
struct Advance {
    direction: Direction,
    negative_step: f32,
    start: usize,
    end: usize,
}

impl Pass for Advance {
    type Output = ();

    #[inline(always)]
    fn run(self, shard: &mut Shard<'_>) {
        let [exp_avg, exp_avg_sq] = shard.states else {
            unreachable!("`Optimizer::apply` counts the states")
        };
        let range = self.start..self.end;
        let moments = exp_avg[range.clone()].iter().zip(&exp_avg_sq[range.clone()]);
        let parameters = &mut shard.parameters[range];
        for (parameter, (exp_avg, exp_avg_sq)) in parameters.iter_mut().zip(moments) {
            let direction = self.direction.of(*parameter, *exp_avg, *exp_avg_sq);
            *parameter += self.negative_step * direction;
        }
    }
}
