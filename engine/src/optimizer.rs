//! Optimizers over flat slices: one pass over parameters, gradients and states, with torch's (and
//! DeepSpeed's) formulas operation by operation.
//!
//! Promise: only IEEE operations that round once and no fused multiply-add, so the bits do not
//! depend on the vector width that the CPU offers (A12). Refusal: knows no sharding; the caller
//! passes the slices that are its own. On state that lives on a GPU [`on_tensors`] works, without
//! the promise of the bits.

use common::spec::{self, UpdateRule};

use crate::optimizer::adagrad::Adagrad;
use crate::optimizer::adam::Adam;
use crate::optimizer::lion::Lion;
use crate::optimizer::nadam::NAdam;
use crate::optimizer::rmsprop::RmsProp;
use crate::optimizer::sgd::Sgd;

mod adagrad;
mod adam;
mod lamb;
mod lion;
mod nadam;
mod on_tensors;
mod rmsprop;
mod sgd;
mod widest;

pub(crate) use lamb::Lamb;
pub(crate) use on_tensors::{TensorShard, sum_of_squares_on_tensor};

/// What an optimizer keeps of every parameter, under torch's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateName {
    ExpAvg,
    ExpAvgSq,
    MomentumBuffer,
    Sum,
    SquareAvg,
    GradAvg,
}

/// What belongs to one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    /// Counted from 1; updates that were skipped do not count.
    pub(crate) number: u64,
    pub(crate) rate: f64,
    /// Gradients are multiplied by it first (clipping).
    pub(crate) gradient_scale: f32,
    /// Where the schedule moves them, these instead of the rule's own; rules without betas have
    /// none to replace.
    pub(crate) betas: Option<[f64; 2]>,
}

/// Equally long slices of one shard.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub(crate) parameters: &'a mut [f32],
    pub(crate) gradients: &'a [f32],
    /// In the order of [`Optimizer::states`]; [`Optimizer::initial`] before the first update.
    pub(crate) states: &'a mut [Vec<f32>],
}

/// One pass over a shard, the constants known.
trait Pass: Copy {
    type Output;

    /// Marked `#[inline(always)]`, so that each copy in [`widest`] gets the loop compiled for its
    /// vectors.
    fn run(self, shard: &mut Shard<'_>) -> Self::Output;
}

/// A rule with its settings, and what stays the same over a run.
#[derive(Debug, Clone)]
pub(crate) enum Optimizer {
    Adam(Adam),
    Sgd(Sgd),
    Adagrad(Adagrad),
    RmsProp(RmsProp),
    Lion(Lion),
    Lamb(Lamb),
    NAdam(NAdam),
}

impl Optimizer {
    pub(crate) fn new(spec: &spec::Optimizer) -> Self {
        let weight_decay = spec.weight_decay;
        match spec.rule {
            UpdateRule::Adam { betas, eps, bias_correction, decoupled_decay } => {
                Self::Adam(Adam { betas, eps, weight_decay, decoupled_decay, bias_correction })
            }
            UpdateRule::AdamW { betas, eps, bias_correction } => {
                let decoupled_decay = true;
                Self::Adam(Adam { betas, eps, weight_decay, decoupled_decay, bias_correction })
            }
            UpdateRule::Sgd { momentum, dampening, nesterov } => {
                Self::Sgd(Sgd { weight_decay, momentum, dampening, nesterov })
            }
            UpdateRule::Adagrad { eps, lr_decay, initial_accumulator_value } => {
                Self::Adagrad(Adagrad { weight_decay, eps, lr_decay, initial_accumulator_value })
            }
            UpdateRule::RmsProp { alpha, eps, momentum, centered } => {
                Self::RmsProp(RmsProp { weight_decay, alpha, eps, momentum, centered })
            }
            UpdateRule::Lion { betas } => Self::Lion(Lion { weight_decay, betas }),
            UpdateRule::Lamb {
                betas,
                eps,
                bias_correction,
                eps_inside_sqrt,
                min_coeff,
                max_coeff,
            } => Self::Lamb(Lamb {
                betas,
                eps,
                weight_decay,
                bias_correction,
                eps_inside_sqrt,
                min_coeff,
                max_coeff,
            }),
            UpdateRule::NAdam { betas, eps, momentum_decay, decoupled_decay } => Self::NAdam(
                NAdam::new((betas, eps), momentum_decay, (weight_decay, decoupled_decay)),
            ),
        }
    }

    /// What it keeps of every element.
    pub(crate) fn states(&self) -> &'static [StateName] {
        match self {
            Self::Adam(_) | Self::Lamb(_) | Self::NAdam(_) => {
                &[StateName::ExpAvg, StateName::ExpAvgSq]
            }
            Self::Sgd(sgd) if sgd.has_momentum() => &[StateName::MomentumBuffer],
            Self::Sgd(_) => &[],
            Self::Adagrad(_) => &[StateName::Sum],
            Self::RmsProp(rmsprop) => rmsprop.states(),
            Self::Lion(_) => &[StateName::ExpAvg],
        }
    }

    /// What a state holds before the first update.
    pub(crate) fn initial(&self, state: StateName) -> f32 {
        match (self, state) {
            (Self::Adagrad(adagrad), StateName::Sum) => adagrad.initial_accumulator_value as f32,
            _ => 0.0,
        }
    }

    /// Set where the parameters move only after [`Optimizer::apply`], by their norms.
    pub(crate) fn layer_wise(&self) -> Option<Lamb> {
        match self {
            Self::Lamb(lamb) => Some(*lamb),
            _ => None,
        }
    }

    /// Updates states and parameters; of a layer-wise rule the states alone.
    pub(crate) fn apply(&self, update: Update, shard: &mut Shard<'_>) {
        let len = shard.parameters.len();
        assert!(
            shard.gradients.len() == len && shard.states.iter().all(|state| state.len() == len),
            "the slices of a shard are equally long"
        );
        assert_eq!(shard.states.len(), self.states().len(), "a shard has every state");
        match self {
            Self::Adam(adam) => widest::run(adam.pass(update), shard),
            Self::Sgd(sgd) => widest::run(sgd.pass(update), shard),
            Self::Adagrad(adagrad) => widest::run(adagrad.pass(update), shard),
            Self::RmsProp(rmsprop) => widest::run(rmsprop.pass(update), shard),
            Self::Lion(lion) => widest::run(lion.pass(update), shard),
            Self::Lamb(lamb) => widest::run(lamb.moments(update), shard),
            Self::NAdam(nadam) => widest::run(nadam.pass(update), shard),
        }
    }
}

/// torch's `clip_grad_norm_`: what every gradient is multiplied by; 1 where clipping is off.
pub(crate) fn clip_coefficient(max_norm: f64, norm: f64) -> f32 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

/// Sum of squares in f64, in a fixed order that vectorises: eight lanes, then lane by lane.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0_f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests;
