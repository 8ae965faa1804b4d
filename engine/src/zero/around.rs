//! What is laid around each unit of a model: its weights come and go (stage 3), its activations
//! are made again in backward (activation checkpointing).
//!
//! Promise: the same losses and gradients, to the bit, as with nothing around it. What fails inside
//! backward is kept and comes out as what it was, not as libtorch's word for it.

use std::cell::RefCell;
use std::rc::Rc;

use tch::Tensor;

use crate::error::Error;
use crate::model::{AroundUnit, Unit, UnitKey, UnitPass};
use crate::native::unit::{Stop, backward, before_backward, recompute_in_backward};
use crate::zero::gather::Gatherer;
use crate::zero::itinerary::Direction;

/// Shared with the graphs of the passes under way.
#[derive(Debug, Clone)]
pub(crate) struct Around {
    /// At stage 3.
    gatherer: Option<Rc<RefCell<Gatherer>>>,
    recomputes: bool,
    /// Why a backward was called off.
    failure: Rc<RefCell<Option<Error>>>,
}

impl Around {
    pub(crate) fn new(gatherer: Option<Rc<RefCell<Gatherer>>>, recomputes: bool) -> Self {
        Self { gatherer, recomputes, failure: Rc::new(RefCell::new(None)) }
    }

    /// At stage 3.
    pub(crate) fn gatherer(&self) -> Option<&Rc<RefCell<Gatherer>>> {
        self.gatherer.as_ref()
    }

    /// Why the last backward failed, where it was not libtorch's own failure.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.borrow_mut().take()
    }

    fn begin(&self, unit: usize, direction: Direction) -> Result<(), Error> {
        match &self.gatherer {
            Some(gatherer) => gatherer.borrow_mut().begin_visit(unit, direction),
            None => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Error> {
        match &self.gatherer {
            Some(gatherer) => gatherer.borrow_mut().end_visit(),
            None => Ok(()),
        }
    }

    /// Runs a unit for training and keeps nothing but its input for backward.
    fn run_lightly(
        &self,
        index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        key: UnitKey,
    ) -> Result<Tensor, Error> {
        // With a graph that is dropped at once: without one, oneDNN takes other kernels, and their
        // last bits differ.
        let alone = detached(input, input.requires_grad())?;
        let output = unit.forward(&alone, UnitPass::Train(key))?;
        if !output.requires_grad() {
            // Nothing up to here is trained.
            return Ok(output);
        }
        let output = detached(&output, false)?;
        let (around, unit) = (self.clone(), unit.clone());
        let recompute = move |input: &Tensor, gradient: &Tensor| {
            let made = around.recompute((index, &unit), key, input, gradient);
            around.or_stop(made)
        };
        Ok(recompute_in_backward(input, output, recompute)?)
    }

    /// A unit's forward once more, and its backward; returns the gradient of its input.
    fn recompute(
        &self,
        (index, unit): (usize, &Rc<dyn Unit>),
        key: UnitKey,
        input: &Tensor,
        gradient: &Tensor,
    ) -> Result<Option<Tensor>, Error> {
        self.begin(index, Direction::Backward)?;
        let output = tch::with_grad(|| unit.forward(input, UnitPass::Recompute(key)))?;
        if let Err(error) = backward(&output, gradient) {
            return Err(self.take_failure().unwrap_or(Error::Native(error)));
        }
        self.end()?;
        Ok(input.requires_grad().then(|| input.grad()))
    }

    fn or_stop<T>(&self, result: Result<T, Error>) -> Result<T, Stop> {
        result.map_err(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            Stop
        })
    }
}

impl AroundUnit for Around {
    fn run(
        &self,
        index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        pass: UnitPass,
    ) -> Result<Tensor, Error> {
        self.begin(index, Direction::Forward)?;
        let output = match pass {
            UnitPass::Train(key) if self.recomputes => self.run_lightly(index, unit, input, key)?,
            _ => unit.forward(input, pass)?,
        };
        self.end()?;
        let gathers = self.gatherer.is_some() && !self.recomputes && pass.is_training();
        if !gathers || !output.requires_grad() {
            return Ok(output);
        }
        // A unit that hands its input through: hooks of one tensor run in the order of the units,
        // which is the wrong one, so it gets a node of its own.
        let output = match output.data_ptr() == input.data_ptr() {
            true => {
                output.f_alias().map_err(Error::torch("tell a unit's output from its input"))?
            }
            false => output,
        };
        let around = self.clone();
        before_backward(&output, move || around.or_stop(around.begin(index, Direction::Backward)))?;
        Ok(output)
    }
}

/// The same values outside the graph.
fn detached(tensor: &Tensor, requires_gradient: bool) -> Result<Tensor, Error> {
    tensor
        .f_detach()
        .and_then(|alone: Tensor| alone.f_set_requires_grad(requires_gradient))
        .map_err(Error::torch("take a unit's input out of the graph"))
}
