//! ZeRO stages 0, 1 and 2: who holds which part of parameters, gradients and optimizer states, and
//! the communication that this takes.
//!
//! | stage | gradients | optimizer states | traffic of a step |
//! |---|---|---|---|
//! | 0 | whole, all-reduced | whole | all-reduce of gradients |
//! | 1 | whole, reduce-scattered once a step | sharded | reduce-scatter, all-gather of parameters |
//! | 2 | sharded, reduce-scattered every micro-step | sharded | as 1, per micro-step |
//!
//! Promise: the same world gives the same bits at every stage (with one micro-step a step, where
//! sums have one order), because sums go in rank order, every norm is made of the same shards and
//! the update is element by element. Refusal: the model does not know; it sees its parameters,
//! which are views of flat buffers here.

use std::cell::RefCell;
use std::rc::Rc;

use collectives::Communicator;
use common::spec::{GradientCompression, JobSpec, PrecisionKind};

use crate::error::Error;
use crate::model::Model;
use crate::native::GradientHooks;
use crate::optimizer::{Optimizer, Shard, StateName, Update, sum_of_squares};
use crate::zero::buffers::Buffers;
use crate::zero::layout::{Extent, Layout, Slice, bucket_size};
use crate::zero::link::Link;
use crate::zero::reducer::{GradientKinds, Reducer};
use crate::zero::weights::Weights;

mod buffers;
mod compress;
mod flat;
mod layer_wise;
pub(crate) mod layout;
mod link;
mod reducer;
mod weights;

pub(crate) use reducer::MicroStep;

/// The state of one rank: parameters, optimizer states, and its way to the others.
pub(crate) struct Zero {
    stage: u8,
    rank: usize,
    layout: Layout,
    optimizer: Optimizer,
    // They come off before the reducer goes.
    _hooks: GradientHooks,
    reducer: Rc<RefCell<Reducer>>,
    names: Vec<String>,
    shapes: Vec<Vec<i64>>,
    weights: Weights,
    /// By bucket, then in the order of [`Optimizer::states`]: whole at stage 0, this rank's shard
    /// else.
    states: Vec<Vec<Vec<f32>>>,
    buffers: Buffers,
}

/// All weights and buffers, to come back to.
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
    /// Moves the model's parameters into flat buffers, with rank 0's values, and hooks their
    /// gradients. Collective.
    pub(crate) fn new(
        model: &mut Model,
        spec: &JobSpec,
        communicator: Communicator,
    ) -> Result<Self, Error> {
        let stage = spec.zero.stage;
        if stage > 2 {
            return Err(Error::Stage { stage });
        }
        let (rank, world) = (communicator.rank() as usize, communicator.world() as usize);
        let extents: Vec<Extent> = model
            .parameters()
            .iter()
            .map(|p| Extent { unit: p.unit, len: p.tensor.numel() })
            .collect();
        let size =
            bucket_size(spec.zero.reduce_bucket_size, spec.zero.overlap_comm, model.num_elements());
        let layout = Layout::plan(&extents, world, size);
        // Alone there is nothing to send.
        let compresses =
            spec.training.gradient_compression == GradientCompression::Int8 && world > 1;
        let mut link = Link::new(communicator, spec.zero.overlap_comm && !compresses)
            .map_err(Error::communication("start the communication thread", 0))?;
        let precision = &spec.training.precision;
        let updated = |bucket: usize| match (stage, &layout.buckets[bucket]) {
            (0, bucket) => 0..bucket.len,
            (_, bucket) => bucket.shard(world, rank),
        };
        let weights = Weights::flatten(model, &layout, precision.effective, updated, &mut link)?;
        let mut buffers = Buffers::of(model)?;
        buffers.share(&mut link)?;
        let kinds = GradientKinds {
            accumulation: precision.grad_accumulation,
            communication: match spec.training.gradient_compression {
                GradientCompression::None => precision.communication,
                GradientCompression::Bf16 => PrecisionKind::Bf16,
                GradientCompression::Fp16 => PrecisionKind::Fp16,
                GradientCompression::Int8 => PrecisionKind::Fp32,
            },
        };
        let mut reducer = Reducer::new(stage, kinds, layout.clone(), rank, link);
        if compresses {
            reducer.compress();
        }
        let reducer = Rc::new(RefCell::new(reducer));
        let leaves = model.parameters().iter().map(|p| p.tensor.shallow_clone()).collect();
        let hooks = GradientHooks::install(leaves, reducer.clone())?;
        let held = |len: usize| if stage == 0 { len } else { len / world };
        let optimizer = Optimizer::new(&spec.training.optimizer);
        let state = |name: &StateName, len: usize| vec![optimizer.initial(*name); held(len)];
        let states_of = |len| optimizer.states().iter().map(|name| state(name, len)).collect();
        let states = layout.buckets.iter().map(|bucket| states_of(bucket.len)).collect();
        Ok(Self {
            stage,
            rank,
            optimizer,
            _hooks: hooks,
            reducer,
            names: model.parameters().iter().map(|p| p.name.clone()).collect(),
            shapes: model.parameters().iter().map(|p| p.tensor.size()).collect(),
            weights,
            states,
            buffers,
            layout,
        })
    }

    /// Before a backward: its gradients will be collected as a part of the step's.
    pub(crate) fn begin_micro_step(&self, micro_step: MicroStep) {
        self.reducer.borrow_mut().begin(micro_step);
    }

    /// After it. Once the last micro-step of a step has ended, the sums over ranks are there.
    pub(crate) fn end_micro_step(&self) -> Result<(), collectives::Error> {
        self.reducer.borrow_mut().end()
    }

    /// The training communicator, for small reductions between steps.
    pub(crate) fn with_link<T>(&self, body: impl FnOnce(&mut Link) -> T) -> T {
        body(&mut self.reducer.borrow_mut().link)
    }

    /// This rank's part of the squared norm of the summed gradients.
    pub(crate) fn gradient_squares(&self) -> f64 {
        let reducer = self.reducer.borrow();
        let mut scratch = Vec::new();
        (0..self.layout.buckets.len())
            .map(|bucket| sum_of_squares(reducer.shard(bucket).widened(&mut scratch)))
            .sum()
    }

    /// The first parameter of which this rank's part of the summed gradient is not finite.
    pub(crate) fn first_bad_gradient(&self) -> Option<usize> {
        let reducer = self.reducer.borrow();
        self.layout
            .slices(self.rank)
            .into_iter()
            .filter(|s| {
                let range = s.shard_offset..s.shard_offset + s.len;
                !reducer.shard(s.bucket).range(range).all_finite()
            })
            .map(|s| s.parameter)
            .min()
    }

    pub(crate) fn name(&self, parameter: usize) -> &str {
        &self.names[parameter]
    }

    pub(crate) fn num_parameters(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn shape(&self, parameter: usize) -> &[i64] {
        &self.shapes[parameter]
    }

    /// Updates the parameters from the summed gradients; at stages 1 and 2 each rank its shard,
    /// then all gather. Collective.
    pub(crate) fn update(&mut self, update: Update) -> Result<(), collectives::Error> {
        let layer_wise = self.optimizer.layer_wise();
        let mut reducer = self.reducer.borrow_mut();
        let mut scratch = Vec::new();
        for (bucket, states) in self.states.iter_mut().enumerate() {
            let sums = if self.stage == 0 { reducer.sums(bucket) } else { reducer.shard(bucket) };
            let gradients = sums.widened(&mut scratch);
            self.weights.update(bucket, |parameters| {
                self.optimizer.apply(update, &mut Shard { parameters, gradients, states });
            });
            if self.stage > 0 && layer_wise.is_none() {
                reducer.link.all_gather(self.weights.bytes_mut(bucket))?;
            }
        }
        drop(reducer);
        layer_wise.map_or(Ok(()), |lamb| self.move_layers(lamb, update))
    }

    /// The parts of the state that this rank owns, whatever the stage.
    pub(crate) fn owned(&self) -> Vec<Slice> {
        self.layout.slices(self.rank)
    }

    /// Every part of the state that this rank holds: what loading a checkpoint must fill.
    /// Parameters are whole on every rank, optimizer states at stage 0.
    pub(crate) fn held(&self, kind: StateKind) -> Vec<Slice> {
        if kind != StateKind::Parameter && self.stage > 0 {
            return self.owned();
        }
        // One rank's shard of a world of one is everything.
        Layout { world: 1, buckets: self.layout.buckets.clone() }.slices(0)
    }

    /// The elements of a slice of [`Zero::owned`], parameters in fp32.
    pub(crate) fn read(&self, kind: StateKind, slice: &Slice) -> &[f32] {
        let shard = self.layout.buckets[slice.bucket].shard(self.layout.world, self.rank);
        let values = match kind {
            StateKind::Parameter => {
                let start = shard.start + slice.shard_offset;
                return self.weights.read(slice.bucket, start..start + slice.len);
            }
            StateKind::State(name) => &self.states[slice.bucket][self.slot(name)],
        };
        let base = if self.stage == 0 { shard.start } else { 0 };
        &values[base + slice.shard_offset..][..slice.len]
    }

    /// The elements of a slice of [`Zero::owned`] in a snapshot.
    pub(crate) fn read_from<'a>(&self, snapshot: &'a Snapshot, slice: &Slice) -> &'a [f32] {
        let shard = self.layout.buckets[slice.bucket].shard(self.layout.world, self.rank);
        let start = shard.start + slice.shard_offset;
        self.weights.read_from(&snapshot.weights, slice.bucket, start..start + slice.len)
    }

    /// Sets the elements of a slice of [`Zero::held`].
    pub(crate) fn write(&mut self, kind: StateKind, slice: &Slice, values: &[f32]) {
        let target = match kind {
            StateKind::Parameter => {
                return self.weights.write(slice.bucket, slice.shard_offset, values);
            }
            StateKind::State(name) => {
                let slot = self.slot(name);
                &mut self.states[slice.bucket][slot]
            }
        };
        target[slice.shard_offset..][..slice.len].copy_from_slice(values);
    }

    /// Sets the elements of a slice of the parameters of [`Zero::held`] in a snapshot.
    pub(crate) fn write_to(&self, snapshot: &mut Snapshot, slice: &Slice, values: &[f32]) {
        self.weights.write_to(&mut snapshot.weights, slice.bucket, slice.shard_offset, values);
    }

    /// What this run's state is made of: the parameters and what its optimizer keeps.
    pub(crate) fn kinds(&self) -> Vec<StateKind> {
        let states = self.optimizer.states().iter().map(|name| StateKind::State(*name));
        std::iter::once(StateKind::Parameter).chain(states).collect()
    }

    fn slot(&self, name: StateName) -> usize {
        let states = self.optimizer.states();
        states.iter().position(|it| *it == name).expect("asked for a kind of `Zero::kinds`")
    }

    /// A copy of all parameters and buffers, to come back to.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot { weights: self.weights.snapshot(), buffers: self.buffers.snapshot()? })
    }

    /// Exchanges the parameters and buffers with a snapshot's.
    pub(crate) fn swap(&mut self, snapshot: &mut Snapshot) -> Result<(), Error> {
        self.weights.swap(&mut snapshot.weights);
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

impl std::fmt::Debug for Zero {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zero")
            .field("stage", &self.stage)
            .field("rank", &self.rank)
            .field("buckets", &self.layout.buckets.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
