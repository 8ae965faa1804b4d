//! Where a run stands: all that the loop remembers besides weights and moments. Travels in a
//! checkpoint's manifest, so that a resumed run goes on exactly where the saved one was.
//!
//! Promise: pure; the same on every rank, because it changes only by what was reduced.

use common::spec::EarlyStopping;
use common::status::GradientHealth;
use serde::{Deserialize, Serialize};

use crate::precision;

/// Thresholds of gradient norms, from practice with recurrent models.
const HEALTHY: std::ops::RangeInclusive<f64> = 0.01..=1.0;
const EXPLODING: f64 = 10.0;
const VANISHING: f64 = 0.001;

/// All that the loop remembers. Fields are only added, each with `#[serde(default)]`: an older
/// build must be able to pass over what a newer one saved (docs/checkpoints.md).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Steps done, those without an update included.
    pub(crate) step: u64,
    /// Epochs completed.
    pub(crate) epoch: u32,
    /// Samples of the current epoch's order that are behind us.
    pub(crate) epoch_samples: u64,
    /// Samples seen by all ranks, over all epochs.
    pub(crate) samples: u64,
    pub(crate) initial_loss: Option<f64>,
    pub(crate) last_loss: Option<f64>,
    pub(crate) initial_val_loss: Option<f64>,
    pub(crate) last_val_loss: Option<f64>,
    /// Of a classification.
    #[serde(default)]
    pub(crate) last_val_accuracy: Option<f64>,
    /// The step at which `last_val_loss` was measured.
    pub(crate) validated_step: Option<u64>,
    pub(crate) best: Option<Best>,
    pub(crate) patience: Patience,
    pub(crate) stopped_early: bool,
    pub(crate) gradients: GradientHealth,
    /// Absent before there was another precision than fp32.
    #[serde(default)]
    pub(crate) precision: precision::State,
    /// Wall time of the attempts before this one.
    pub(crate) seconds_before: f64,
    /// Set until the position in the data is known: another program saved this state, and `samples`
    /// alone says how far it was.
    #[serde(default)]
    pub(crate) lacks_position: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) val_loss: f64,
    #[serde(default)]
    pub(crate) val_accuracy: Option<f64>,
    pub(crate) step: u64,
}

/// Early stopping's own memory: the loss to beat and how often it was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Patience {
    pub(crate) reference: Option<f64>,
    pub(crate) misses: u32,
}

impl From<checkpoint::import::ImportedState> for State {
    fn from(imported: checkpoint::import::ImportedState) -> Self {
        let (step, samples) = (imported.steps, imported.samples);
        let mut precision = precision::State::default();
        precision.skipped = imported.skipped_steps;
        Self { step, samples, precision, lacks_position: true, ..Self::default() }
    }
}

impl State {
    /// The validation loss of the weights as they are now, where it was measured.
    pub(crate) fn validation_here(&self) -> Option<f64> {
        self.last_val_loss.filter(|_| self.validated_step == Some(self.step))
    }

    /// Updates made; also the index of the next one in the schedule.
    pub(crate) fn updates(&self) -> u64 {
        self.step.saturating_sub(self.precision.skipped)
    }

    pub(crate) fn on_step(&mut self, samples: u64, loss: f64, grad_norm: f64) -> Option<String> {
        self.advance(samples, loss);
        self.on_gradient_norm(grad_norm)
    }

    /// A step whose gradients were not finite: its samples are behind us all the same.
    pub(crate) fn on_skipped_step(&mut self, samples: u64, loss: f64) {
        self.advance(samples, loss);
    }

    fn advance(&mut self, samples: u64, loss: f64) {
        self.step += 1;
        self.samples += samples;
        self.epoch_samples += samples;
        if loss.is_finite() {
            self.initial_loss.get_or_insert(loss);
            self.last_loss = Some(loss);
        }
    }

    pub(crate) fn on_epoch_end(&mut self) {
        self.epoch += 1;
        self.epoch_samples = 0;
    }

    /// Counts the norm; the text of a warning at the 1st, 10th, 100th, ... bad one of its kind.
    fn on_gradient_norm(&mut self, norm: f64) -> Option<String> {
        let health = &mut self.gradients;
        health.max = health.max.max(norm);
        let (count, words) = if norm > EXPLODING {
            (&mut health.exploding, "above 10 (exploding)")
        } else if norm < VANISHING {
            (&mut health.vanishing, "below 0.001 (vanishing)")
        } else {
            let count =
                if HEALTHY.contains(&norm) { &mut health.healthy } else { &mut health.other };
            *count += 1;
            return None;
        };
        *count += 1;
        let is_power_of_ten = 10_u64.pow(count.ilog10()) == *count;
        is_power_of_ten.then(|| {
            format!("step {}: gradient norm {norm:.3e} is {words}, {count} so far", self.step)
        })
    }

    /// Returns whether it is the best so far; sets `stopped_early` where patience has run out.
    pub(crate) fn on_validation(
        &mut self,
        loss: f64,
        accuracy: Option<f64>,
        stopping: Option<EarlyStopping>,
    ) -> bool {
        self.last_val_accuracy = accuracy;
        self.initial_val_loss.get_or_insert(loss);
        self.last_val_loss = Some(loss);
        self.validated_step = Some(self.step);
        let is_best = self.best.is_none_or(|best| loss < best.val_loss);
        if is_best {
            self.best = Some(Best { val_loss: loss, val_accuracy: accuracy, step: self.step });
        }
        let Some(stopping) = stopping else { return is_best };
        let reference = self.patience.reference;
        if reference.is_none_or(|reference| loss < reference - stopping.min_delta) {
            self.patience = Patience { reference: Some(loss), misses: 0 };
        } else {
            self.patience.misses += 1;
        }
        self.stopped_early = self.is_out_of(stopping);
        is_best
    }

    /// A run that had stopped early goes on where its job now has more patience, or no limit.
    pub(crate) fn continue_with(&mut self, stopping: Option<EarlyStopping>) {
        self.stopped_early &= stopping.is_some_and(|stopping| self.is_out_of(stopping));
    }

    fn is_out_of(&self, stopping: EarlyStopping) -> bool {
        self.patience.misses >= stopping.patience.max(1)
    }
}

#[cfg(test)]
mod tests;
