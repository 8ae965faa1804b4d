//! The units that a model is made of, and the hand that may be laid around each of them.
//!
//! Promise: in training, a unit's forward follows from its input, its weights and its pass alone, so
//! it can be run again in backward and gives the same bits. Refusal: a unit knows nothing of its neighbours,
//! of ranks or of where its weights lie.

use std::fmt;
use std::rc::Rc;

use tch::Tensor;

use super::{Buffer, Error, Parameter};
use crate::rng::{self, DropoutKey, Stream};

/// A layer or block whose parameters are used together: what is gathered, freed and recomputed as
/// one.
pub trait Unit: fmt::Debug {
    fn forward(&self, input: &Tensor, pass: UnitPass) -> Result<Tensor, Error>;

    /// Its leaves, in torch's order; the model's parameters are handles of the same tensors.
    fn parameters(&self) -> &[Parameter];

    /// What it remembers of the batches that it was trained on.
    fn buffers(&self) -> &[Buffer] {
        &[]
    }
}

/// What one unit's forward is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitPass {
    Evaluate,
    Train(UnitKey),
    /// `Train` with the same key and input once more, for a backward whose activations were not
    /// kept. Whatever a unit remembers of the batches that it has seen stays as it is.
    Recompute(UnitKey),
}

/// From what a unit's dropout draws: its own stream, so that it does not depend on what other
/// units drew before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitKey {
    pub dropout: DropoutKey,
    pub unit: u64,
}

impl UnitPass {
    pub fn is_training(self) -> bool {
        self != Self::Evaluate
    }

    /// None while evaluating.
    pub(super) fn dropout(self) -> Option<Stream> {
        match self {
            Self::Evaluate => None,
            Self::Train(UnitKey { dropout, unit }) | Self::Recompute(UnitKey { dropout, unit }) => {
                Some(rng::dropout(dropout, unit))
            }
        }
    }
}

/// Runs a unit's forward, and what must happen around it: its weights may have to come before and
/// to go after, its activations may have to be made again in backward.
pub trait AroundUnit {
    /// `index` is the unit's number in forward order.
    fn run(
        &self,
        index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        pass: UnitPass,
    ) -> Result<Tensor, crate::Error>;
}

/// Nothing around it: the weights are there and stay.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl AroundUnit for Plain {
    fn run(
        &self,
        _index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        pass: UnitPass,
    ) -> Result<Tensor, crate::Error> {
        Ok(unit.forward(input, pass)?)
    }
}
