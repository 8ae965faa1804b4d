//! The ZeRO stages: who holds which part of parameters, gradients and optimizer states, and the
//! communication that this takes.
//!
//! | stage | parameters | gradients | optimizer states | traffic of a step |
//! |---|---|---|---|---|
//! | 0 | whole | whole, all-reduced | whole | all-reduce of gradients |
//! | 1 | whole | whole, reduce-scattered once a step | sharded | reduce-scatter, all-gather of parameters |
//! | 2 | whole | sharded, reduce-scattered every micro-step | sharded | as 1, per micro-step |
//! | 3 | sharded; whole while their unit computes | as 2 | sharded | as 2, and a second all-gather per micro-step instead of one per step |
//!
//! Promise: the same world gives the same bits at every stage (with one micro-step a step, where
//! sums have one order), because sums go in rank order, every norm is made of the same shards and
//! the update is element by element. Refusal: the model does not know; it sees its parameters,
//! which are views of flat buffers here, and what is laid around its units.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use common::spec::{GradientCompression, JobSpec, PrecisionKind};
use common::status::RankMemory;
use tch::TchError;

use crate::device::Device;
use crate::error::Error;
use crate::freeze;
use crate::model::Model;
use crate::native::GradientHooks;
use crate::optimizer::Optimizer;
use crate::zero::around::Around;
use crate::zero::buffers::Buffers;
use crate::zero::gather::{Gatherer, Journey};
use crate::zero::itinerary::{Bounds, Route};
use crate::zero::layout::{Bucket, Extent, Layout, Rules, bucket_size};
use crate::zero::link::Link;
use crate::zero::reducer::{GradientKinds, Reducer};
use crate::zero::states::States;
use crate::zero::uses::Uses;
use crate::zero::weights::Weights;

mod around;
mod buffers;
mod compress;
mod failure;
mod flat;
mod gather;
mod itinerary;
mod layer_wise;
pub(crate) mod layout;
mod link;
mod loan;
mod reducer;
mod state;
mod states;
mod update;
mod uses;
mod weights;

pub(crate) use failure::Failure;
pub(crate) use link::Communicators;
pub(crate) use loan::{Desk, Loan, Place};
pub(crate) use reducer::MicroStep;
pub(crate) use state::{Snapshot, StateKind};

/// The state of one rank: parameters, optimizer states, and its way to the others.
pub(crate) struct Zero {
    stage: u8,
    rank: usize,
    layout: Layout,
    optimizer: Optimizer,
    // They come off before the reducer goes.
    _hooks: GradientHooks,
    around: Around,
    reducer: Rc<RefCell<Reducer>>,
    names: Vec<String>,
    shapes: Vec<Vec<i64>>,
    trained: Vec<bool>,
    weights: Rc<RefCell<Weights>>,
    /// By bucket that is trained: whole at stage 0, this rank's shard else.
    states: Vec<States>,
    /// Where the last loan of states comes back to.
    loan: Option<Arc<Desk>>,
    buffers: Buffers,
}

impl Zero {
    /// [`Zero::on`] the CPU.
    #[cfg(test)]
    pub(crate) fn new(
        model: &mut Model,
        spec: &JobSpec,
        communicator: collectives::Communicator,
    ) -> Result<Self, Error> {
        let communicators = Communicators { host: communicator, device: None };
        Self::on(Device::CPU, model, spec, communicators)
    }

    /// Moves the model's parameters into flat buffers on `device`, with rank 0's values, and hooks
    /// the gradients of those that are trained. Collective.
    pub(crate) fn on(
        device: Device,
        model: &mut Model,
        spec: &JobSpec,
        communicators: Communicators,
    ) -> Result<Self, Error> {
        let stage = spec.zero.stage;
        let host = &communicators.host;
        let (rank, world) = (host.rank() as usize, host.world() as usize);
        let trained = freeze(model, &spec.training.freeze)?;
        let recomputes = spec.training.activation_checkpointing;
        let uses = Uses::of(model, &trained);
        let layout = plan_layout(model, spec, &trained, world);
        // Alone there is nothing to send.
        let compresses =
            spec.training.gradient_compression == GradientCompression::Int8 && world > 1;
        if compresses && device.is_resident() {
            return Err(INT8_ON_A_GPU);
        }
        let overlaps = spec.zero.overlap_comm && !compresses;
        let mut link = Link::new(communicators, device, overlaps)
            .map_err(Error::zero("prepare the communication", 0))?;
        let overlaps = link.is_overlapped();
        let held = |bucket: usize| match (stage, &layout.buckets[bucket]) {
            // What is frozen is never updated, only saved: by its owner.
            (0, bucket_layout) if layout.is_trained(bucket) => 0..bucket_layout.len,
            (_, bucket_layout) => bucket_layout.shard(world, rank),
        };
        let kind = (spec.training.precision.effective, device);
        let weights = Weights::flatten(model, &layout, kind, held, &mut link)?;
        let weights = Rc::new(RefCell::new(weights));
        let mut buffers = Buffers::of(model, device)?;
        buffers.share(&mut link)?;
        let arrivals = uses.arrivals(recomputes);
        let kinds = (gradient_kinds(spec), device);
        let mut reducer = Reducer::new(stage, kinds, (layout.clone(), rank), arrivals, link)
            .map_err(Error::torch("allocate gradients"))?;
        if compresses {
            reducer.compress();
        }
        let reducer = Rc::new(RefCell::new(reducer));
        let leaves = model.parameters().iter().map(|p| p.tensor.shallow_clone()).enumerate();
        let leaves = leaves.filter(|(index, _)| trained[*index]).collect();
        let hooks = GradientHooks::install(leaves, device, reducer.clone())?;
        let gatherer = layout.buckets.iter().any(|bucket| bucket.is_sharded).then(|| {
            let lens: Vec<usize> = layout.buckets.iter().map(|bucket| bucket.len).collect();
            let needs = uses.sharded_buckets(&layout);
            let first_trained = uses.first_trained();
            let bounds = bounds(spec, overlaps);
            let route = Route { needs: &needs, lens: &lens, first_trained, bounds };
            Rc::new(RefCell::new(Gatherer::new(route, weights.clone(), reducer.clone())))
        });
        let held = |len: usize| if stage == 0 { len } else { len / world };
        let optimizer = Optimizer::new(&spec.training.optimizer);
        let initial = |bucket: &Bucket| States::initial(&optimizer, held(bucket.len), device);
        let states = layout.trained().iter().map(initial).collect::<Result<_, _>>();
        let states = states.map_err(Error::torch("allocate optimizer states"))?;
        Ok(Self {
            stage,
            rank,
            optimizer,
            _hooks: hooks,
            around: Around::new(gatherer, recomputes),
            reducer,
            names: model.parameters().iter().map(|p| p.name.clone()).collect(),
            shapes: model.parameters().iter().map(|p| p.tensor.size()).collect(),
            trained,
            weights,
            states,
            loan: None,
            buffers,
            layout,
        })
    }

    /// What must be laid around the model's units in every pass.
    pub(crate) fn around(&self) -> &Around {
        &self.around
    }

    /// Before a forward and its backward: the gradients will be collected as a part of those of
    /// `step`.
    pub(crate) fn begin_micro_step(&self, micro_step: MicroStep, step: u64) -> Result<(), Error> {
        self.weights.borrow_mut().publish()?;
        self.reducer.borrow_mut().begin(micro_step);
        if let Some(gatherer) = self.around.gatherer() {
            gatherer.borrow_mut().begin(Journey::Training, step);
        }
        Ok(())
    }

    /// After them, also where this rank had nothing to compute. Once the last micro-step of a step
    /// has ended, the sums over ranks are there.
    pub(crate) fn end_micro_step(&self, step: u64) -> Result<(), Error> {
        if let Some(gatherer) = self.around.gatherer() {
            gatherer.borrow_mut().end()?;
        }
        let ended = self.reducer.borrow_mut().end();
        ended.map_err(Error::zero("sum gradients", step))
    }

    /// Before a forward without backward.
    pub(crate) fn begin_evaluation(&self, step: u64) -> Result<(), Error> {
        self.weights.borrow_mut().publish()?;
        if let Some(gatherer) = self.around.gatherer() {
            gatherer.borrow_mut().begin(Journey::Evaluation, step);
        }
        Ok(())
    }

    /// After it, also where this rank had nothing to compute.
    pub(crate) fn end_evaluation(&self) -> Result<(), Error> {
        match self.around.gatherer() {
            Some(gatherer) => gatherer.borrow_mut().end(),
            None => Ok(()),
        }
    }

    /// Why a backward failed, of which libtorch says `source`.
    pub(crate) fn backward_failure(&self, source: TchError) -> Error {
        let torch = || Error::Torch { operation: "run backward", source };
        self.around.take_failure().unwrap_or_else(torch)
    }

    /// The training communicator, for small reductions between steps.
    pub(crate) fn with_link<T>(&self, body: impl FnOnce(&mut Link) -> T) -> T {
        body(&mut self.reducer.borrow_mut().link)
    }

    /// What this rank holds at present, measured; of buffers the most that it held. Activations are not
    /// its own.
    pub(crate) fn memory(&self) -> RankMemory {
        let weights = self.weights.borrow();
        let (parameters, masters) = weights.bytes_held();
        let (gradients, buffers) = self.reducer.borrow().bytes_held();
        let states = self.states.iter().map(States::bytes);
        RankMemory {
            parameters: parameters as u64,
            gradients: gradients as u64,
            optimizer: (masters + states.sum::<usize>()) as u64,
            buffers: (buffers + weights.most_gathered()) as u64,
            activations: 0,
        }
    }

    /// What a person should know of how the job's settings work out.
    pub(crate) fn note(&self, spec: &JobSpec) -> Option<String> {
        let is_alone = self.layout.world == 1;
        (self.stage == 3 && !is_alone && self.around.gatherer().is_none()).then(|| {
            format!(
                "ZeRO stage 3 keeps every parameter whole on every rank: none has more than \
                 stage3_param_persistence_threshold = {} elements",
                spec.zero.stage3.param_persistence_threshold
            )
        })
    }
}

const INT8_ON_A_GPU: Error = Error::NotOnGpu {
    what: "training.gradient-compression = \"int8\"",
    instead: "set it to \"none\" or \"bf16\", or offload_optimizer in the DeepSpeed configuration",
};

/// Marks the parameters that the job freezes; tells which ones are trained.
fn freeze(model: &Model, patterns: &[String]) -> Result<Vec<bool>, Error> {
    let names: Vec<&str> = model.parameters().iter().map(|p| p.name.as_str()).collect();
    let trained = freeze::trained(&names, patterns)?;
    for (parameter, &is_trained) in model.parameters().iter().zip(&trained) {
        // Marks the leaf itself; what comes back is another handle of it.
        let _ = parameter
            .tensor
            .f_set_requires_grad(is_trained)
            .map_err(Error::torch("freeze a parameter"))?;
    }
    Ok(trained)
}

fn gradient_kinds(spec: &JobSpec) -> GradientKinds {
    let precision = &spec.training.precision;
    GradientKinds {
        accumulation: precision.grad_accumulation,
        communication: match spec.training.gradient_compression {
            GradientCompression::None => precision.communication,
            GradientCompression::Bf16 => PrecisionKind::Bf16,
            GradientCompression::Fp16 => PrecisionKind::Fp16,
            GradientCompression::Int8 => PrecisionKind::Fp32,
        },
    }
}

fn plan_layout(model: &Model, spec: &JobSpec, trained: &[bool], world: usize) -> Layout {
    let parameters = model.parameters().iter().zip(trained);
    let extents: Vec<Extent> = parameters
        .map(|(p, &is_trained)| Extent { unit: p.unit, len: p.tensor.numel(), is_trained })
        .collect();
    let zero = &spec.zero;
    let rules = Rules {
        bucket_size: bucket_size(zero.reduce_bucket_size, zero.overlap_comm, model.num_elements()),
        // Alone, a rank's shard is everything: it would be copied and not save a byte.
        shards_above: (zero.stage == 3 && world > 1)
            .then(|| elements(zero.stage3.param_persistence_threshold)),
    };
    Layout::plan(&extents, world, rules)
}

/// Without a communication thread a gather ahead of its time gains nothing.
fn bounds(spec: &JobSpec, overlaps: bool) -> Bounds {
    let stage3 = &spec.zero.stage3;
    Bounds {
        prefetch: if overlaps { elements(stage3.prefetch_bucket_size) } else { 0 },
        max_live: elements(stage3.max_live_parameters),
        max_reuse: elements(stage3.max_reuse_distance),
    }
}

fn elements(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
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
