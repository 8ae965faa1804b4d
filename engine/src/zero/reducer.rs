//! Gradients on their way from backward to the optimizer: accumulated over micro-steps, summed
//! over ranks, kept as the stage says.
//!
//! Stages 0 and 1 accumulate whole gradients and sum once a step: 0 by an all-reduce, 1 by a
//! reduce-scatter that leaves this rank its shard. Stage 2 sums every micro-step and keeps only
//! shards; its whole gradients live in at most a few buffers that are in flight.
//!
//! Promise: buckets are summed in one fixed order, last bucket first, which is about the order in
//! which backward completes them; one that completes early waits for its turn, one that a rank
//! has no gradient for is sent as zeros. So every rank issues the same operations (A7).
//! Refusal: knows neither tensors nor libtorch.

use std::collections::VecDeque;

use collectives::Error;

use crate::native::GradientSink;
use crate::zero::layout::{Layout, Piece};
use crate::zero::link::{Flight, Link};

/// At stage 2, buffers of whole gradients that may be summed while backward fills the next one.
const MAX_FLIGHTS: usize = 2;

#[derive(Debug)]
pub(crate) struct Reducer {
    // Dropped before the link: its drop waits for the communication thread.
    flights: VecDeque<Flight>,
    pub(crate) link: Link,
    stage: u8,
    layout: Layout,
    rank: usize,
    places: Vec<(usize, Piece)>,
    /// Whole gradients by bucket. At stage 2 only those that backward is filling.
    whole: Vec<Option<Vec<f32>>>,
    /// At stage 2, buffers between two uses.
    pool: Vec<Vec<f32>>,
    /// This rank's part of the sums by bucket; at stage 0 empty, the sums are in `whole`.
    shards: Vec<Vec<f32>>,
    micro_step: MicroStep,
    arrived: Vec<bool>,
    /// Gradients that are still missing, by bucket.
    missing: Vec<usize>,
    /// Buckets below it are still to be sent in this micro-step.
    unsent: usize,
    failure: Option<Error>,
}

/// Where a micro-step stands in its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MicroStep {
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
}

impl Reducer {
    pub(crate) fn new(stage: u8, layout: Layout, rank: usize, link: Link) -> Self {
        let buckets = &layout.buckets;
        let keeps_whole = stage < 2;
        let whole = buckets.iter().map(|b| keeps_whole.then(|| vec![0.0; b.len])).collect();
        let shard_len = |len: usize| if stage == 0 { 0 } else { len / layout.world };
        let shards = buckets.iter().map(|b| vec![0.0; shard_len(b.len)]).collect();
        let places = layout.places();
        Self {
            flights: VecDeque::new(),
            link,
            stage,
            rank,
            whole,
            pool: Vec::new(),
            shards,
            micro_step: MicroStep { is_first: true, is_last: true },
            arrived: vec![false; places.len()],
            missing: vec![0; buckets.len()],
            unsent: 0,
            failure: None,
            places,
            layout,
        }
    }

    /// Before a micro-step's backward.
    pub(crate) fn begin(&mut self, micro_step: MicroStep) {
        self.micro_step = micro_step;
        self.arrived.fill(false);
        for (missing, bucket) in self.missing.iter_mut().zip(&self.layout.buckets) {
            *missing = bucket.pieces.len();
        }
        self.unsent = self.layout.buckets.len();
    }

    /// After it: parameters that got no gradient count as zeros. Returns once every sum is there.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        for index in 0..self.places.len() {
            if !self.arrived[index] {
                self.accept(index, None);
            }
        }
        while !self.flights.is_empty() {
            self.land_oldest();
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    /// This rank's part of the summed gradients of a bucket.
    pub(crate) fn shard(&self, bucket: usize) -> &[f32] {
        if self.stage == 0 {
            &self.sums(bucket)[self.layout.buckets[bucket].shard(self.layout.world, self.rank)]
        } else {
            &self.shards[bucket]
        }
    }

    /// The whole summed gradients of a bucket, at stage 0.
    pub(crate) fn sums(&self, bucket: usize) -> &[f32] {
        assert_eq!(self.stage, 0, "only stage 0 keeps whole sums");
        self.whole[bucket].as_deref().expect("between micro-steps no bucket is in flight")
    }

    fn accept(&mut self, parameter: usize, values: Option<&[f32]>) {
        assert!(!self.arrived[parameter], "a gradient arrives once in a micro-step");
        self.arrived[parameter] = true;
        // After a failure the rest of backward computes in vain; nothing more is sent.
        if self.failure.is_some() {
            return;
        }
        let (bucket, piece) = self.places[parameter];
        let overwrites = self.stage == 2 || self.micro_step.is_first;
        self.prepare(bucket);
        let Some(whole) = &mut self.whole[bucket] else { return };
        let target = &mut whole[piece.offset..piece.offset + piece.len];
        match (values, overwrites) {
            (Some(values), true) => target.copy_from_slice(values),
            (Some(values), false) => {
                target.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            (None, true) => target.fill(0.0),
            (None, false) => {}
        }
        self.missing[bucket] -= 1;
        self.send_complete();
    }

    /// At stage 2, finds a buffer for a bucket's whole gradients.
    fn prepare(&mut self, bucket: usize) {
        if self.whole[bucket].is_some() {
            return;
        }
        if self.flights.len() >= MAX_FLIGHTS {
            self.land_oldest();
        }
        let mut buffer = self.pool.pop().unwrap_or_default();
        // The gaps between parameters must be zeros, and another bucket's gaps lie elsewhere.
        buffer.clear();
        buffer.resize(self.layout.buckets[bucket].len, 0.0);
        self.whole[bucket] = Some(buffer);
    }

    /// Sends the buckets whose turn it is and which are complete.
    fn send_complete(&mut self) {
        if self.stage < 2 && !self.micro_step.is_last {
            return;
        }
        while self.failure.is_none() && self.unsent > 0 && self.missing[self.unsent - 1] == 0 {
            self.unsent -= 1;
            let bucket = self.unsent;
            let whole = self.whole[bucket].take().expect("a complete bucket has its buffer");
            let output = match self.stage {
                0 => None,
                // The shard of the micro-steps before is kept until this one's is added to it.
                2 if !self.micro_step.is_first => Some(vec![0.0; self.shards[bucket].len()]),
                _ => Some(std::mem::take(&mut self.shards[bucket])),
            };
            match self.link.start_sum(bucket, whole, output) {
                Ok(flight) => self.flights.push_back(flight),
                Err(error) => self.failure = Some(error),
            }
        }
    }

    fn land_oldest(&mut self) {
        let Some(mut flight) = self.flights.pop_front() else { return };
        if let Err(error) = flight.land() {
            self.failure.get_or_insert(error);
        }
        let bucket = flight.bucket;
        match (self.stage, flight.output) {
            (2, Some(output)) => {
                self.pool.push(flight.input);
                if self.micro_step.is_first {
                    self.shards[bucket] = output;
                } else {
                    let sums = self.shards[bucket].iter_mut().zip(output);
                    sums.for_each(|(sum, value)| *sum += value);
                }
            }
            (_, output) => {
                self.whole[bucket] = Some(flight.input);
                if let Some(output) = output {
                    self.shards[bucket] = output;
                }
            }
        }
    }
}

impl GradientSink for Reducer {
    fn gradient(&mut self, index: usize, values: &[f32]) {
        self.accept(index, Some(values));
    }
}
