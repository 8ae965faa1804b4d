//! What the loss is multiplied by so that gradients of 16 bits stay in range, and what becomes of a
//! step whose gradients are not finite.
//!
//! Promise: pure, and decides by what was reduced over the ranks, so all decide the same (A7). The
//! dynamic scale is that of DeepSpeed's ZeRO optimizers, step by step, at every stage; where
//! DeepSpeed gives up, the run ends with a history of what overflowed. Refusal: no tensors.

use std::fmt;

use common::spec::{self, LossScale, OnOverflow};
use serde::{Deserialize, Serialize};

pub(crate) mod cpu;
mod dynamic;

use dynamic::Dynamic;

/// Overflows that a history remembers.
const REMEMBERED: usize = 12;
/// So many steps in a row without one update, where no scale can fall any more, and the run ends:
/// other samples do not help either.
const MAX_IN_A_ROW: u64 = 100;

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error(
        "step {step}: {what} is not finite (loss {loss}); lower the learning rate, clip \
         gradients or check the data"
    )]
    NotFinite { step: u64, what: String, loss: f64 },
    #[error(
        "step {step}: {what} overflows fp16 and the loss scale is at its floor of {floor} \
         (fp16.min_loss_scale); {skipped} steps were skipped, the last ones: {history}; lower the \
         learning rate, clip gradients (gradient_clipping), normalise the data or train in bf16"
    )]
    AtTheFloor { step: u64, what: String, floor: f64, skipped: u64, history: History },
    #[error(
        "step {step}: {what} is not finite, as at each of the {in_a_row} steps before it: nothing \
         is learned any more; the last ones: {history}; lower the learning rate, clip gradients \
         or check the data"
    )]
    NeverFinite { step: u64, what: String, in_a_row: u64, history: History },
}

impl Error {
    pub(crate) fn step(&self) -> u64 {
        match self {
            Self::NotFinite { step, .. }
            | Self::AtTheFloor { step, .. }
            | Self::NeverFinite { step, .. } => *step,
        }
    }
}

/// The newest overflows, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History(Vec<Overflow>);

/// A step whose gradients or loss were not finite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Overflow {
    step: u64,
    /// What was not finite: ``the gradient of `fc.weight` ``, the first in the model's order.
    what: String,
    /// The loss scale of that step.
    scale: f64,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Overflow { step, what, scale }) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}step {step} {what} at scale {scale}")?;
        }
        Ok(())
    }
}

/// What a run remembers; travels in a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Steps without an update.
    pub(crate) skipped: u64,
    in_a_row: u64,
    history: History,
    /// None before the first step, and without a dynamic scale.
    dynamic: Option<Dynamic>,
}

/// The job's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Precision {
    on_overflow: OnOverflow,
    loss_scale: Option<LossScale>,
    /// Gradients cross the wire as so many times their share of the mean.
    wire_factor: f64,
}

impl Precision {
    pub(crate) fn new(spec: &spec::Precision, world: u32) -> Self {
        // The loss is a share of the global mean, so a sum over ranks needs no division
        // afterwards: gradients are prescaled. Where they travel in 16 bits their size matters,
        // and they take the one that DeepSpeed gives them.
        let is_narrow = spec.communication != spec::PrecisionKind::Fp32;
        let wire_factor = if is_narrow && !spec.prescale_gradients {
            f64::from(world) / spec.gradient_predivide_factor
        } else {
            1.0
        };
        Self { on_overflow: spec.on_overflow, loss_scale: spec.loss_scale, wire_factor }
    }

    /// The loss scale of the next step; None where there is none.
    pub(crate) fn scale(&self, state: &State) -> Option<f64> {
        self.loss_scale.map(|loss_scale| match loss_scale {
            LossScale::Static { value } => value,
            LossScale::Dynamic(settings) => state.dynamic_or(&settings).scale(),
        })
    }

    /// What the loss of the next step, and with it every gradient, is multiplied by.
    pub(crate) fn factor(&self, state: &State) -> f64 {
        self.scale(state).unwrap_or(1.0) * self.wire_factor
    }

    /// The step was made.
    pub(crate) fn on_update(&self, state: &mut State) {
        state.in_a_row = 0;
        if let Some(LossScale::Dynamic(settings)) = &self.loss_scale {
            let mut dynamic = state.dynamic_or(settings);
            dynamic.on_update(settings);
            state.dynamic = Some(dynamic);
        }
    }

    /// The step cannot be made: `what` is not finite. It is skipped, which the text tells where it
    /// is worth a word, or the run ends.
    pub(crate) fn on_overflow(
        &self,
        state: &mut State,
        (step, what): (u64, String),
        loss: f64,
    ) -> Result<Option<String>, Error> {
        if self.on_overflow == OnOverflow::Fail {
            return Err(Error::NotFinite { step, what, loss });
        }
        let scale = self.scale(state).unwrap_or(1.0);
        state.remember(Overflow { step, what: what.clone(), scale });
        let history = || state.history.clone();
        if let Some(LossScale::Dynamic(settings)) = &self.loss_scale {
            let mut dynamic = state.dynamic_or(settings);
            if dynamic.on_overflow(settings).is_err() {
                let (floor, skipped) = (settings.min, state.skipped);
                return Err(Error::AtTheFloor { step, what, floor, skipped, history: history() });
            }
            state.dynamic = Some(dynamic);
        } else if state.in_a_row > MAX_IN_A_ROW {
            let in_a_row = state.in_a_row - 1;
            return Err(Error::NeverFinite { step, what, in_a_row, history: history() });
        }
        let skipped = state.skipped;
        let is_power_of_ten = 10_u64.pow(skipped.ilog10()) == skipped;
        Ok(is_power_of_ten.then(|| self.told(state, step, &what, scale)))
    }

    fn told(&self, state: &State, step: u64, what: &str, scale: f64) -> String {
        let scale = match self.scale(state) {
            Some(next) if next != scale => format!("; the loss scale goes from {scale} to {next}"),
            Some(_) => format!("; the loss scale stays at {scale}"),
            None => String::new(),
        };
        format!(
            "step {step}: {what} is not finite, the step is skipped ({} so far){scale}",
            state.skipped
        )
    }
}

impl State {
    fn dynamic_or(&self, settings: &spec::DynamicLossScale) -> Dynamic {
        self.dynamic.unwrap_or_else(|| Dynamic::new(settings))
    }

    fn remember(&mut self, overflow: Overflow) {
        self.skipped += 1;
        self.in_a_row += 1;
        self.history.0.push(overflow);
        if self.history.0.len() > REMEMBERED {
            self.history.0.remove(0);
        }
    }
}

#[cfg(test)]
mod tests;
