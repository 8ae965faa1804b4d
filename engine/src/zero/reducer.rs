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
//! Refusal: knows neither tensors nor libtorch.

use std::collections::VecDeque;

use collectives::Error;
use common::spec::PrecisionKind;

use crate::native::GradientSink;
use crate::numbers::{Numbers, NumbersRef};
use crate::zero::compress::Compressor;
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
    layout: Layout,
    rank: usize,
    places: Vec<(usize, Piece)>,
    /// Whole gradients by bucket. From stage 2 on only those that backward is filling.
    whole: Vec<Option<Numbers>>,
    /// Buffers for the wire between two uses.
    pool: Vec<Numbers>,
    /// Bytes of parts of sums that were on their way beside their shards at one time, at most.
    most_landing: usize,
    /// This rank's part of the sums by bucket; at stage 0 empty, the sums are in `whole`.
    shards: Vec<Numbers>,
    micro_step: MicroStep,
    arrivals: Arrivals,
    /// How often each parameter's gradient is still to come.
    awaited: Vec<u32>,
    /// Gradients that are still missing, by bucket.
    missing: Vec<usize>,
    /// Buckets below it are still to be sent in this micro-step.
    unsent: usize,
    failure: Option<Error>,
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
        kinds: GradientKinds,
        (layout, rank): (Layout, usize),
        arrivals: Arrivals,
        link: Link,
    ) -> Self {
        let buckets = layout.trained();
        let zeros = |len| Numbers::zeros(kinds.accumulation, len);
        let keeps_whole = stage < 2;
        let whole = buckets.iter().map(|b| keeps_whole.then(|| zeros(b.len))).collect();
        let shard_len = |len: usize| if stage == 0 { 0 } else { len / layout.world };
        let shards = buckets.iter().map(|b| zeros(shard_len(b.len))).collect();
        let places = layout.places();
        Self {
            flights: VecDeque::new(),
            link,
            compressor: None,
            stage,
            kinds,
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
        }
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
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        for index in 0..self.places.len() {
            if self.awaited[index] > 0 {
                self.accept(index, None);
            }
        }
        while !self.flights.is_empty() {
            self.land_oldest();
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Bytes of gradients that are kept, and of buffers for those on their way.
    pub(crate) fn bytes_held(&self) -> (usize, usize) {
        let kept = self.whole.iter().flatten().chain(&self.shards).map(Numbers::bytes).sum();
        let pool: usize = self.pool.iter().map(Numbers::bytes).sum();
        let remembered = self.compressor.as_ref().map_or(0, Compressor::bytes_held);
        (kept, pool + self.most_landing + remembered)
    }

    /// This rank's part of the summed gradients of a bucket.
    pub(crate) fn shard(&self, bucket: usize) -> NumbersRef<'_> {
        if self.stage == 0 {
            let shard = self.layout.buckets[bucket].shard(self.layout.world, self.rank);
            self.sums(bucket).range(shard)
        } else {
            self.shards[bucket].as_ref()
        }
    }

    /// The whole summed gradients of a bucket, at stage 0.
    pub(crate) fn sums(&self, bucket: usize) -> NumbersRef<'_> {
        assert_eq!(self.stage, 0, "only stage 0 keeps whole sums");
        self.whole[bucket].as_ref().expect("between micro-steps no bucket is in flight").as_ref()
    }

    fn accept(&mut self, parameter: usize, values: Option<NumbersRef<'_>>) {
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
        self.prepare(bucket);
        let Some(whole) = &mut self.whole[bucket] else { return };
        let target = whole.as_mut().range(piece.offset..piece.offset + piece.len);
        match (values, overwrites) {
            (Some(values), true) => target.copy_from(values),
            (Some(values), false) => target.add(values),
            (None, true) => target.fill_zero(),
            (None, false) => {}
        }
        self.missing[bucket] -= arrived as usize;
        self.send_complete();
    }

    /// From stage 2 on, finds a buffer for a bucket's whole gradients. They are not kept, so they are
    /// collected as they will travel.
    fn prepare(&mut self, bucket: usize) {
        if self.whole[bucket].is_none() {
            self.whole[bucket] = Some(self.wire_buffer(bucket));
        }
    }

    /// Zeros: the gaps between parameters must be, and another bucket's gaps lie elsewhere.
    fn wire_buffer(&mut self, bucket: usize) -> Numbers {
        if self.flights.len() >= MAX_FLIGHTS {
            self.land_oldest();
        }
        let len = self.layout.buckets[bucket].len;
        match self.take_pooled(len) {
            Some(mut buffer) => {
                buffer.reset(len);
                buffer
            }
            None => Numbers::zeros(self.kinds.communication, len),
        }
    }

    /// The smallest that fits, else the largest: a small bucket takes no large one's buffer.
    fn take_pooled(&mut self, len: usize) -> Option<Numbers> {
        let width = match self.kinds.communication {
            PrecisionKind::Fp32 => 4,
            PrecisionKind::Bf16 | PrecisionKind::Fp16 => 2,
        };
        let misfit = |buffer: &Numbers| {
            let (bytes, wanted) = (buffer.bytes(), len * width);
            (bytes < wanted, bytes.abs_diff(wanted))
        };
        let best = (0..self.pool.len()).min_by_key(|&index| misfit(&self.pool[index]))?;
        Some(self.pool.swap_remove(best))
    }

    /// Sends the buckets whose turn it is and which are complete.
    fn send_complete(&mut self) {
        if self.stage < 2 && !self.micro_step.is_last {
            return;
        }
        while self.failure.is_none() && self.unsent > 0 && self.missing[self.unsent - 1] == 0 {
            self.unsent -= 1;
            let bucket = self.unsent;
            let input = self.departing(bucket);
            let output = self.landing_place(bucket);
            let flight = match &mut self.compressor {
                Some(compressor) => compressor.sum(self.link.inline(), bucket, (input, output)),
                None => self.link.start_sum(bucket, input, output),
            };
            match flight {
                Ok(flight) => {
                    self.flights.push_back(flight);
                    if self.lands_beside() {
                        let outputs = self.flights.iter().filter_map(|f| f.output.as_ref());
                        let beside = outputs.map(Numbers::bytes).sum();
                        self.most_landing = self.most_landing.max(beside);
                    }
                }
                Err(error) => self.failure = Some(error),
            }
        }
    }

    /// What travels of a complete bucket: itself, or where it is kept in another precision than
    /// the wire's a copy.
    fn departing(&mut self, bucket: usize) -> Numbers {
        let whole = self.whole[bucket].take().expect("a complete bucket has its buffer");
        if whole.kind() == self.kinds.communication {
            return whole;
        }
        let mut copy = self.wire_buffer(bucket);
        copy.as_mut().copy_from(whole.as_ref());
        self.whole[bucket] = Some(whole);
        copy
    }

    /// Where this rank's part of a sum lands; at stage 0 the whole sum lands where it departed.
    fn landing_place(&mut self, bucket: usize) -> Option<Numbers> {
        if self.stage == 0 {
            return None;
        }
        let fresh = |len| Numbers::zeros(self.kinds.communication, len);
        if self.lands_beside() {
            return Some(fresh(self.shards[bucket].len()));
        }
        Some(std::mem::replace(&mut self.shards[bucket], fresh(0)))
    }

    /// The shard of the micro-steps before is kept until this one's is added to it, and one of another
    /// precision is filled from what has landed.
    fn lands_beside(&self) -> bool {
        let adds = self.stage >= 2 && !self.micro_step.is_first;
        self.stage > 0 && (adds || self.kinds.accumulation != self.kinds.communication)
    }

    fn land_oldest(&mut self) {
        let Some(mut flight) = self.flights.pop_front() else { return };
        if let Err(error) = flight.land() {
            self.failure.get_or_insert(error);
        }
        let Flight { bucket, input, output, .. } = flight;
        match (&mut self.whole[bucket], &output) {
            (home @ None, _) if self.stage < 2 => *home = Some(input),
            (Some(kept), None) => {
                kept.as_mut().copy_from(input.as_ref());
                self.pool.push(input);
            }
            _ => self.pool.push(input),
        }
        let Some(output) = output else { return };
        let shard = &mut self.shards[bucket];
        if self.stage >= 2 && !self.micro_step.is_first {
            shard.as_mut().add(output.as_ref());
        } else if shard.kind() == output.kind() {
            *shard = output;
        } else {
            shard.as_mut().copy_from(output.as_ref());
        }
    }
}

impl GradientSink for Reducer {
    fn gradient(&mut self, index: usize, values: NumbersRef<'_>) {
        self.accept(index, Some(values));
    }
}
