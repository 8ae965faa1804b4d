//! Gradients on their way from backward to the optimizer: accumulated over micro-steps, summed
//! over ranks, kept as the stage says.
//!
//! Stages 0 and 1 accumulate whole gradients and sum once a step: 0 by an all-reduce, 1 by a
//! reduce-scatter that leaves this rank its shard. Stages 2 and 3 sum every micro-step and keep only
//! shards; their whole gradients live in at most a few buffers that are in flight.
//!
//! Backward hands gradients over in the model's precision; they add up over micro-steps in the
//! precision that the job accumulates in, and travel in the one that it communicates in.
//!
//! Promise: buckets are summed in one fixed order, last bucket first, which is about the order in
//! which backward completes them; one that completes early waits for its turn, one that a rank
//! has no gradient for is sent as zeros. So every rank issues the same operations (A7).
//! Refusal: knows no tensors, nor whether gradients are on the host or a device.

use std::collections::VecDeque;

use common::spec::PrecisionKind;
use tch::TchError;

use crate::device::Device;
use crate::native::GradientSink;
use crate::storage::{Part, Storage};
use crate::zero::compress::Compressor;
use crate::zero::failure::Failure;
use crate::zero::layout::{Layout, Piece};
use crate::zero::link::{Flight, Link};

/// Buffers beside the gradients that are kept, which may be summed while backward fills the next.
const MAX_FLIGHTS: usize = 2;

#[derive(Debug)]
pub(crate) struct Reducer {
    // Dropped before the link: its drop waits for the communication thread.
    flights: VecDeque<Flight>,
    pub(crate) link: Link,
    /// Squeezes what travels; its link runs on this thread.
    compressor: Option<Compressor>,
    stage: u8,
    kinds: GradientKinds,
    /// Where gradients are kept.
    device: Device,
    layout: Layout,
    rank: usize,
    places: Vec<(usize, Piece)>,
    /// Whole gradients by bucket. From stage 2 on only those that backward is filling.
    whole: Vec<Option<Storage>>,
    /// Buffers for the wire between two uses.
    pool: Vec<Storage>,
    /// Bytes of parts of sums that were on their way beside their shards at one time, at most.
    most_landing: usize,
    /// This rank's part of the sums by bucket; at stage 0 empty, the sums are in `whole`.
    shards: Vec<Storage>,
    micro_step: MicroStep,
    arrivals: Arrivals,
    /// How often each parameter's gradient is still to come.
    awaited: Vec<u32>,
    /// Gradients that are still missing, by bucket.
    missing: Vec<usize>,
    /// Buckets below it are still to be sent in this micro-step.
    unsent: usize,
    failure: Option<Failure>,
}

/// When and how often gradients come, by parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// The first unit that uses it, which is the last to have its backward.
    pub(crate) units: Vec<usize>,
    /// Times in a micro-step: none where it is frozen; once else, unless units that are recomputed
    /// in backward, each in a backward of its own, share it.
    pub(crate) times: Vec<u32>,
}

/// The precisions that gradients go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GradientKinds {
    /// Sums over micro-steps are kept in it.
    pub(crate) accumulation: PrecisionKind,
    /// Sums over ranks are made of it.
    pub(crate) communication: PrecisionKind,
}

/// Where a micro-step stands in its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MicroStep {
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
}

impl Reducer {
    pub(crate) fn new(
        stage: u8,
        (kinds, device): (GradientKinds, Device),
        (layout, rank): (Layout, usize),
        arrivals: Arrivals,
        link: Link,
    ) -> Result<Self, TchError> {
        let buckets = layout.trained();
        let zeros = |len| Storage::zeros(kinds.accumulation, len, device);
        let keeps_whole = stage < 2;
        let whole = buckets.iter().map(|b| keeps_whole.then(|| zeros(b.len)).transpose());
        let whole = whole.collect::<Result<_, _>>()?;
        let shard_len = |len: usize| if stage == 0 { 0 } else { len / layout.world };
        let shards = buckets.iter().map(|b| zeros(shard_len(b.len))).collect::<Result<_, _>>()?;
        let places = layout.places();
        Ok(Self {
            flights: VecDeque::new(),
            link,
            compressor: None,
            stage,
            kinds,
            device,
            rank,
            whole,
            pool: Vec::new(),
            most_landing: 0,
            shards,
            micro_step: MicroStep { is_first: true, is_last: true },
            awaited: vec![0; places.len()],
            arrivals,
            missing: vec![0; buckets.len()],
            unsent: 0,
            failure: None,
            places,
            layout,
        })
    }

    /// From now on sums travel compressed, which takes a link that runs on this thread.
    pub(crate) fn compress(&mut self) {
        self.compressor = Some(Compressor::new(&self.layout, self.rank));
    }

    /// Before a micro-step's backward.
    pub(crate) fn begin(&mut self, micro_step: MicroStep) {
        self.micro_step = micro_step;
        self.awaited.copy_from_slice(&self.arrivals.times);
        let awaited = |piece: &Piece| self.arrivals.times[piece.parameter] as usize;
        for (missing, bucket) in self.missing.iter_mut().zip(self.layout.trained()) {
            *missing = bucket.pieces.iter().map(awaited).sum();
        }
        self.unsent = self.layout.num_trained;
    }

    /// Backward has come to `unit`: what is missing of later ones will not come and counts as
    /// zeros.
    pub(crate) fn pass_over(&mut self, unit: usize) {
        for parameter in 0..self.places.len() {
            if self.arrivals.units[parameter] > unit && self.awaited[parameter] > 0 {
                self.accept(parameter, None);
            }
        }
    }

    /// After it: parameters that got no gradient count as zeros. Returns once every sum is there.
    pub(crate) fn end(&mut self) -> Result<(), Failure> {
        for index in 0..self.places.len() {
            if self.awaited[index] > 0 {
                self.accept(index, None);
            }
        }
        while !self.flights.is_empty() {
            if let Err(failure) = self.land_oldest() {
                self.failure.get_or_insert(failure);
            }
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Bytes of gradients that are kept, and of buffers for those on their way.
    pub(crate) fn bytes_held(&self) -> (usize, usize) {
        let kept = self.whole.iter().flatten().chain(&self.shards).map(Storage::bytes).sum();
        let pool: usize = self.pool.iter().map(Storage::bytes).sum();
        let remembered = self.compressor.as_ref().map_or(0, Compressor::bytes_held);
        (kept, pool + self.most_landing + remembered)
    }

    /// This rank's part of the summed gradients of a bucket.
    pub(crate) fn shard(&self, bucket: usize) -> Part<'_> {
        if self.stage == 0 {
            let shard = self.layout.buckets[bucket].shard(self.layout.world, self.rank);
            self.sums(bucket).range(shard)
        } else {
            self.shards[bucket].as_ref()
        }
    }

    /// The whole summed gradients of a bucket, at stage 0.
    pub(crate) fn sums(&self, bucket: usize) -> Part<'_> {
        assert_eq!(self.stage, 0, "only stage 0 keeps whole sums");
        self.whole[bucket].as_ref().expect("between micro-steps no bucket is in flight").as_ref()
    }

    fn accept(&mut self, parameter: usize, values: Option<Part<'_>>) {
        let awaited = &mut self.awaited[parameter];
        assert!(*awaited > 0, "a gradient arrives no oftener than awaited");
        let is_first = *awaited == self.arrivals.times[parameter];
        let arrived = if values.is_some() { 1 } else { *awaited };
        *awaited -= arrived;
        // After a failure the rest of backward computes in vain; nothing more is sent.
        if self.failure.is_some() {
            return;
        }
        let (bucket, piece) = self.places[parameter];
        let overwrites = is_first && (self.stage >= 2 || self.micro_step.is_first);
        self.missing[bucket] -= arrived as usize;
        let taken =
            self.collect(bucket, piece, (values, overwrites)).and_then(|()| self.send_complete());
        if let Err(failure) = taken {
            self.failure.get_or_insert(failure);
        }
    }

    /// Puts what has come of a parameter to what is there of its bucket.
    fn collect(
        &mut self,
        bucket: usize,
        piece: Piece,
        (values, overwrites): (Option<Part<'_>>, bool),
    ) -> Result<(), Failure> {
        // From stage 2 on whole gradients are not kept, so they are collected as they will travel.
        if self.whole[bucket].is_none() {
            self.whole[bucket] = Some(self.wire_buffer(bucket)?);
        }
        let whole = self.whole[bucket].as_mut().expect("it was put there where there was none");
        let target = whole.as_mut().range(piece.offset..piece.offset + piece.len);
        Ok(match (values, overwrites) {
            (Some(values), true) => target.copy_from(values),
            (Some(values), false) => target.add(values),
            (None, true) => target.fill_zero(),
            (None, false) => Ok(()),
        }?)
    }

    /// Zeros: the gaps between parameters must be, and another bucket's gaps lie elsewhere.
    fn wire_buffer(&mut self, bucket: usize) -> Result<Storage, Failure> {
        if self.flights.len() >= MAX_FLIGHTS {
            self.land_oldest()?;
        }
        let len = self.layout.buckets[bucket].len;
        let Some(mut buffer) = self.take_pooled(len) else {
            return Ok(Storage::zeros(self.kinds.communication, len, self.device)?);
        };
        buffer.reset(len)?;
        Ok(buffer)
    }

    /// The smallest that fits, else the largest: a small bucket takes no large one's buffer.
    fn take_pooled(&mut self, len: usize) -> Option<Storage> {
        let width = match self.kinds.communication {
            PrecisionKind::Fp32 => 4,
            PrecisionKind::Bf16 | PrecisionKind::Fp16 => 2,
        };
        let misfit = |buffer: &Storage| {
            let (bytes, wanted) = (buffer.bytes(), len * width);
            (bytes < wanted, bytes.abs_diff(wanted))
        };
        let best = (0..self.pool.len()).min_by_key(|&index| misfit(&self.pool[index]))?;
        Some(self.pool.swap_remove(best))
    }

    /// Sends the buckets whose turn it is and which are complete.
    fn send_complete(&mut self) -> Result<(), Failure> {
        if self.stage < 2 && !self.micro_step.is_last {
            return Ok(());
        }
        while self.unsent > 0 && self.missing[self.unsent - 1] == 0 {
            self.unsent -= 1;
            let bucket = self.unsent;
            let input = self.departing(bucket)?;
            let output = self.landing_place(bucket)?;
            let flight = match &mut self.compressor {
                Some(compressor) => compressor.sum(self.link.inline(), bucket, (input, output))?,
                None => self.link.start_sum(bucket, input, output)?,
            };
            self.flights.push_back(flight);
            if self.lands_beside() {
                let outputs = self.flights.iter().filter_map(|f| f.output.as_ref());
                let beside = outputs.map(Storage::bytes).sum();
                self.most_landing = self.most_landing.max(beside);
            }
        }
        Ok(())
    }

    /// What travels of a complete bucket: itself, or where it is kept in another precision than
    /// the wire's a copy.
    fn departing(&mut self, bucket: usize) -> Result<Storage, Failure> {
        let whole = self.whole[bucket].take().expect("a complete bucket has its buffer");
        if whole.kind() == self.kinds.communication {
            return Ok(whole);
        }
        let mut copy = self.wire_buffer(bucket)?;
        copy.as_mut().copy_from(whole.as_ref())?;
        self.whole[bucket] = Some(whole);
        Ok(copy)
    }

    /// Where this rank's part of a sum lands; at stage 0 the whole sum lands where it departed.
    fn landing_place(&mut self, bucket: usize) -> Result<Option<Storage>, Failure> {
        if self.stage == 0 {
            return Ok(None);
        }
        let fresh = |len| Storage::zeros(self.kinds.communication, len, self.device);
        if self.lands_beside() {
            return Ok(Some(fresh(self.shards[bucket].len())?));
        }
        let nothing = fresh(0)?;
        Ok(Some(std::mem::replace(&mut self.shards[bucket], nothing)))
    }

    /// The shard of the micro-steps before is kept until this one's is added to it, and one of another
    /// precision is filled from what has landed.
    fn lands_beside(&self) -> bool {
        let adds = self.stage >= 2 && !self.micro_step.is_first;
        self.stage > 0 && (adds || self.kinds.accumulation != self.kinds.communication)
    }

    fn land_oldest(&mut self) -> Result<(), Failure> {
        let Some(mut flight) = self.flights.pop_front() else { return Ok(()) };
        flight.land()?;
        let Flight { bucket, input, output, .. } = flight;
        match (&mut self.whole[bucket], &output) {
            (home @ None, _) if self.stage < 2 => *home = Some(input),
            (Some(kept), None) => {
                kept.as_mut().copy_from(input.as_ref())?;
                self.pool.push(input);
            }
            _ => self.pool.push(input),
        }
        let Some(output) = output else { return Ok(()) };
        let shard = &mut self.shards[bucket];
        if self.stage >= 2 && !self.micro_step.is_first {
            shard.as_mut().add(output.as_ref())?;
        } else if shard.kind() == output.kind() {
            *shard = output;
        } else {
            shard.as_mut().copy_from(output.as_ref())?;
        }
        Ok(())
    }
}

impl GradientSink for Reducer {
    fn gradient(&mut self, index: usize, values: Part<'_>) {
        self.accept(index, Some(values));
    }
}
