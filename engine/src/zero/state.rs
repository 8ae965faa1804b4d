//! The state of a rank as checkpoints see it: which slices of which tensors it owns and holds.
//!
//! Promise: all ranks together own every element of every kind once, whatever the stage; what is
//! written to the held slices of all kinds is the whole state. Refusal: no files.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::optimizer::StateName;
use crate::zero::layout::Slice;
use crate::zero::loan::{Loan, Place};
use crate::zero::states::States;
use crate::zero::{buffers, weights};

use super::Zero;
use super::buffers::Buffers;

/// All weights that this rank has, and all buffers, to come back to.
#[derive(Debug)]
pub(crate) struct Snapshot {
    weights: weights::Snapshot,
    pub(crate) buffers: buffers::Snapshot,
}

/// What a slice of the state belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateKind {
    Parameter,
    State(StateName),
}

impl Zero {
    pub(crate) fn name(&self, parameter: usize) -> &str {
        &self.names[parameter]
    }

    pub(crate) fn num_parameters(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn shape(&self, parameter: usize) -> &[i64] {
        &self.shapes[parameter]
    }

    /// What this run's state is made of: the parameters and what its optimizer keeps.
    pub(crate) fn kinds(&self) -> Vec<StateKind> {
        let states = self.optimizer.states().iter().map(|name| StateKind::State(*name));
        std::iter::once(StateKind::Parameter).chain(states).collect()
    }

    /// Frozen parameters have no optimizer states.
    pub(crate) fn has(&self, kind: StateKind, parameter: usize) -> bool {
        kind == StateKind::Parameter || self.trained[parameter]
    }

    /// The parts of the state that this rank owns, whatever the stage; of every kind that their
    /// parameter [`Zero::has`].
    pub(crate) fn owned(&self) -> Vec<Slice> {
        self.layout.slices(self.rank)
    }

    /// Every part of the state that this rank holds: what loading a checkpoint must fill.
    /// Parameters are whole on every rank unless they are sharded, optimizer states at stage 0.
    /// A slice's place in the shard is its place in what is held.
    pub(crate) fn held(&self, kind: StateKind) -> Vec<Slice> {
        let is_whole = |bucket: usize| match kind {
            StateKind::Parameter => !self.layout.buckets[bucket].is_sharded,
            StateKind::State(_) => self.stage == 0,
        };
        let whole = self.layout.whole().into_iter().filter(|slice| is_whole(slice.bucket));
        let owned = self.owned().into_iter().filter(|slice| !is_whole(slice.bucket));
        whole.chain(owned).filter(|slice| self.has(kind, slice.parameter)).collect()
    }

    /// Shows the elements of a slice of [`Zero::owned`], parameters in fp32, wherever they are.
    pub(crate) fn read<T>(
        &self,
        kind: StateKind,
        slice: &Slice,
        take: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, Error> {
        let shard = self.layout.buckets[slice.bucket].shard(self.layout.world, self.rank);
        let taken = match kind {
            StateKind::Parameter => {
                let start = shard.start + slice.shard_offset;
                self.weights.borrow().read(slice.bucket, start..start + slice.len, take)
            }
            StateKind::State(name) => {
                let Place { bucket, state, range } = self.place(name, slice);
                self.states[bucket].read(state, range, take)
            }
        };
        taken.map_err(Error::torch("read the state of training"))
    }

    /// Where a slice of [`Zero::owned`] lies in the optimizer's states.
    fn place(&self, name: StateName, slice: &Slice) -> Place {
        let shard = self.layout.buckets[slice.bucket].shard(self.layout.world, self.rank);
        let base = if self.stage == 0 { shard.start } else { 0 };
        let start = base + slice.shard_offset;
        Place { bucket: slice.bucket, state: self.slot(name), range: start..start + slice.len }
    }

    /// Lends the optimizer's states, where they are in the host's memory. An earlier loan is back.
    /// Before they change next, this one must be: see [`Zero::recall`].
    pub(crate) fn lend(&mut self) -> Option<Loan> {
        let host = |states: &States| match states {
            States::Host(states) => Some(Arc::clone(states)),
            States::Device(_) => None,
        };
        let loan = Loan::new(self.states.iter().map(host).collect::<Option<_>>()?);
        self.loan = Some(loan.desk());
        Some(loan)
    }

    /// Where a slice of [`Zero::owned`] is found in a loan. None: of this kind nothing is lent.
    pub(crate) fn lent(&self, kind: StateKind, slice: &Slice) -> Option<Place> {
        match kind {
            StateKind::Parameter => None,
            StateKind::State(name) => Some(self.place(name, slice)),
        }
    }

    /// Whether something was lent since the last [`Zero::recall`].
    pub(crate) fn has_lent(&self) -> bool {
        self.loan.is_some()
    }

    /// Waits until nothing is lent: what comes next changes it.
    pub(crate) fn recall(&mut self, patience: Duration) -> Result<(), Error> {
        let is_back = self.loan.as_ref().is_none_or(|desk| desk.wait(patience));
        if !is_back {
            return Err(Error::SaveHangs { after: patience });
        }
        self.loan = None;
        Ok(())
    }

    /// Shows the elements of a slice of [`Zero::owned`] in a snapshot.
    pub(crate) fn read_from<T>(
        &self,
        snapshot: &Snapshot,
        slice: &Slice,
        take: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, Error> {
        let shard = self.layout.buckets[slice.bucket].shard(self.layout.world, self.rank);
        let start = shard.start + slice.shard_offset;
        let place = (slice.bucket, start..start + slice.len);
        let taken = self.weights.borrow().read_from(&snapshot.weights, place, take);
        taken.map_err(Error::torch("read the best weights"))
    }

    /// Sets the elements of a slice of [`Zero::held`], of which nothing is lent.
    pub(crate) fn write(
        &mut self,
        kind: StateKind,
        slice: &Slice,
        values: &[f32],
    ) -> Result<(), Error> {
        let written = match kind {
            StateKind::Parameter => {
                let start = self.parameter_start(slice);
                self.weights.borrow_mut().write(slice.bucket, start, values)
            }
            StateKind::State(name) => {
                let slot = self.slot(name);
                self.states[slice.bucket].write(slot, slice.shard_offset, values)
            }
        };
        written.map_err(Error::torch("set the state of training"))
    }

    /// Sets the elements of a slice of the parameters of [`Zero::held`] in a snapshot.
    pub(crate) fn write_to(
        &self,
        snapshot: &mut Snapshot,
        slice: &Slice,
        values: &[f32],
    ) -> Result<(), Error> {
        let start = self.parameter_start(slice);
        let written =
            self.weights.borrow().write_to(&mut snapshot.weights, slice.bucket, start, values);
        written.map_err(Error::torch("set the best weights"))
    }

    /// Where in its bucket a slice of the held parameters starts.
    fn parameter_start(&self, slice: &Slice) -> usize {
        let bucket = &self.layout.buckets[slice.bucket];
        let base =
            if bucket.is_sharded { bucket.shard(self.layout.world, self.rank).start } else { 0 };
        base + slice.shard_offset
    }

    fn slot(&self, name: StateName) -> usize {
        let states = self.optimizer.states();
        states.iter().position(|it| *it == name).expect("asked for a kind of `Zero::kinds`")
    }

    /// A copy of the parameters that this rank has, and of the buffers, to come back to.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let weights = self.weights.borrow().snapshot();
        let weights = weights.map_err(Error::torch("copy the weights"))?;
        Ok(Snapshot { weights, buffers: self.buffers.snapshot()? })
    }

    /// Exchanges the parameters and buffers with a snapshot's.
    pub(crate) fn swap(&mut self, snapshot: &mut Snapshot) -> Result<(), Error> {
        let swapped = self.weights.borrow_mut().swap(&mut snapshot.weights);
        swapped.map_err(Error::torch("exchange the weights"))?;
        let buffers = self.buffers.snapshot()?;
        self.buffers.restore(&snapshot.buffers)?;
        snapshot.buffers = buffers;
        Ok(())
    }

    pub(crate) fn is_first_rank(&self) -> bool {
        self.rank == 0
    }

    /// What the model remembers beside its parameters.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    pub(crate) fn buffers_mut(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// Every rank takes over rank 0's buffers: before they are used or saved. Collective.
    pub(crate) fn share_buffers(&mut self) -> Result<(), Error> {
        self.buffers.share(&mut self.reducer.borrow_mut().link)
    }
}
