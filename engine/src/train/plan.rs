//! How a run is cut: epochs into steps, steps into micro-steps, micro-steps into the runs of ranks.
//!
//! Promise: pure, and the same on every rank; the global batches of an epoch do not depend on the
//! world. Refusal: holds no data.

use std::ops::Range;

use common::batch::{self, BatchPlan};
use common::spec::JobSpec;

use crate::train::State;

/// A job that cannot make one step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Batch(#[from] batch::Error),
    #[error(
        "the training part has {samples} samples, fewer than one global batch of {batch_size}; \
         lower batch-size to at most {samples}, or set data.drop-last = false"
    )]
    NoFullBatch { samples: u64, batch_size: u64 },
}

/// A run's shape.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) batch: BatchPlan,
    train_samples: u64,
    drop_last: bool,
    max_steps: u64,
    pub(crate) epochs: u32,
    pub(crate) steps_per_epoch: u64,
    /// The job ends after it.
    pub(crate) total_steps: u64,
}

/// One global batch: consecutive samples of the epoch's order, and its micro-steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GlobalBatch {
    pub(crate) samples: Range<u64>,
    pub(crate) micro_steps: u64,
    world: u32,
}

impl Plan {
    pub(crate) fn new(spec: &JobSpec, world: u32, train_samples: u64) -> Result<Self, Error> {
        let batch = batch::plan(&spec.training.batch, world)?;
        let batch_size = batch.batch_size.value;
        let drop_last = spec.data.drop_last;
        let steps_per_epoch =
            if drop_last { train_samples / batch_size } else { train_samples.div_ceil(batch_size) };
        if steps_per_epoch == 0 {
            return Err(Error::NoFullBatch { samples: train_samples, batch_size });
        }
        let (epochs, max_steps) =
            (spec.training.epochs, spec.training.max_steps.unwrap_or(u64::MAX));
        let total_steps = (steps_per_epoch * u64::from(epochs)).min(max_steps);
        Ok(Self {
            batch,
            train_samples,
            drop_last,
            max_steps,
            epochs,
            steps_per_epoch,
            total_steps,
        })
    }

    /// Finds the place in the data of a state that only counted samples: as many whole epochs, and
    /// the rest into the next one.
    pub(crate) fn locate(&self, state: &mut State) -> Option<String> {
        if !std::mem::take(&mut state.lacks_position) {
            return None;
        }
        let size = self.batch.batch_size.value;
        let per_epoch =
            if self.drop_last { self.steps_per_epoch * size } else { self.train_samples };
        state.epoch = u32::try_from(state.samples / per_epoch).unwrap_or(u32::MAX);
        state.epoch_samples = state.samples % per_epoch;
        Some(format!(
            "the imported checkpoint has no position in the data: {} samples are epoch {} and {} \
             samples, by this job's data and batch size",
            state.samples, state.epoch, state.epoch_samples
        ))
    }

    /// Counts the steps anew from where a run continues. That changes nothing, unless what was
    /// saved had another batch size.
    pub(crate) fn continue_from(&mut self, state: &State) {
        let left = u64::from(self.epochs.saturating_sub(state.epoch)) * self.steps_per_epoch;
        let size = self.batch.batch_size.value;
        let behind = self.steps_per_epoch - self.steps_from(state.epoch_samples, size);
        let total = state.step.saturating_add(left.saturating_sub(behind));
        self.total_steps = total.min(self.max_steps);
    }

    /// Whether no step is left to make.
    pub(crate) fn is_done(&self, state: &State) -> bool {
        let State { step, epoch, stopped_early, .. } = *state;
        step >= self.total_steps || epoch >= self.epochs || stopped_early
    }

    /// Steps of an epoch from sample `from` of its order on.
    fn steps_from(&self, from: u64, size: u64) -> u64 {
        let left = self.train_samples.saturating_sub(from);
        if self.drop_last { left / size } else { left.div_ceil(size) }
    }

    /// The batch that starts at sample `from` of an epoch's order; None at the epoch's end.
    pub(crate) fn batch_at(&self, from: u64) -> Option<GlobalBatch> {
        let size = self.batch.batch_size.value;
        let left = self.train_samples.saturating_sub(from);
        if left == 0 || (self.drop_last && left < size) {
            return None;
        }
        let len = left.min(size);
        let micro_steps = if len == size {
            self.batch.gradient_accumulation.value
        } else {
            len.div_ceil(self.batch.micro_batch_size.value * u64::from(self.batch.world))
        };
        Some(GlobalBatch { samples: from..from + len, micro_steps, world: self.batch.world })
    }

    /// Samples that all ranks together take in one batch of an evaluation.
    pub(crate) fn evaluation_batch(&self) -> u64 {
        self.batch.micro_batch_size.value.saturating_mul(u64::from(self.batch.world))
    }
}

impl GlobalBatch {
    pub(crate) fn len(&self) -> u64 {
        self.samples.end - self.samples.start
    }

    /// What `rank` takes in micro-step `index`, as positions in the epoch's order. May be empty.
    pub(crate) fn run(&self, index: u64, rank: u32) -> Range<usize> {
        let micro_step = batch::run(self.len(), self.micro_steps, index);
        let run = batch::rank_run(micro_step, self.world, rank);
        // Positions index a `Vec`, so they fit.
        (self.samples.start + run.start) as usize..(self.samples.start + run.end) as usize
    }
}

#[cfg(test)]
mod tests;
