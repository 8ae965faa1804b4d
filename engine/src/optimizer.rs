//! Optimizers over flat slices: one pass over parameters, gradients and states, with torch's (and
//! DeepSpeed's) formulas operation by operation.
//!
//! Promise: only IEEE operations that round once and no fused multiply-add, so the bits do not
//! depend on the vector width that the CPU offers (A12). Refusal: knows no sharding; the caller
//! passes the slices that are its own.

use common::spec::{self, UpdateRule};

use crate::optimizer::adam::Adam;

mod adam;
mod widest;

/// What an optimizer keeps of every parameter, under torch's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateName {
    ExpAvg,
    ExpAvgSq,
}

/// What belongs to one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    /// Counted from 1; updates that were skipped do not count.
    pub(crate) number: u64,
    pub(crate) rate: f64,
    /// Gradients are multiplied by it first (clipping).
    pub(crate) gradient_scale: f32,
}

/// Equally long slices of one shard.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub(crate) parameters: &'a mut [f32],
    pub(crate) gradients: &'a [f32],
    /// In the order of [`Optimizer::states`]; zeros before the first update.
    pub(crate) states: &'a mut [Vec<f32>],
}

/// One update of every element, the constants known.
trait Pass: Copy {
    /// Marked `#[inline(always)]`, so that each copy in [`widest`] gets the loop compiled for its
    /// vectors.
    fn run(self, shard: &mut Shard<'_>);
}

/// A rule with its settings, and what stays the same over a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Optimizer {
    Adam(Adam),
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
        }
    }

    /// What it keeps of every element.
    pub(crate) fn states(&self) -> &'static [StateName] {
        match self {
            Self::Adam(_) => &[StateName::ExpAvg, StateName::ExpAvgSq],
        }
    }

    pub(crate) fn apply(&self, update: Update, shard: &mut Shard<'_>) {
        let len = shard.parameters.len();
        assert!(
            shard.gradients.len() == len && shard.states.iter().all(|state| state.len() == len),
            "the slices of a shard are equally long"
        );
        assert_eq!(shard.states.len(), self.states().len(), "a shard has every state");
        match self {
            Self::Adam(adam) => widest::run(adam.pass(update), shard),
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
