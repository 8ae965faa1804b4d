//! Moves parameters by the norms of their whole (LAMB), whoever holds which part of them.
//!
//! Promise: a norm is the sum of the ranks' parts in rank order, at every stage, so stages agree
//! bit for bit. Refusal: what is computed from the norms is the optimizer's.

use std::ops::Range;

use tch::TchError;

use crate::optimizer::{Lamb, Shard, TensorShard, Update};
use crate::zero::Zero;
use crate::zero::failure::Failure;
use crate::zero::layout::Slice;
use crate::zero::states::{States, ours};
use crate::zero::weights::Updated;

/// What this rank updates of a bucket; gradients are behind it.
enum Moved<'a> {
    Host(Shard<'a>),
    Device(TensorShard<'a>),
}

impl Zero {
    /// The moments are those of this update already. Collective.
    pub(super) fn move_layers(&mut self, lamb: Lamb, update: Update) -> Result<(), Failure> {
        let parts = self.updated_parts();
        let mut squares = vec![[0.0_f64; 2]; self.names.len()];
        self.on_each_bucket(&parts, |slice, range, moved| {
            let [weights, direction] = match moved {
                Moved::Host(shard) => lamb.squares(range, shard),
                Moved::Device(shard) => lamb.squares_on_tensors(range, shard)?,
            };
            squares[slice.parameter][0] += weights;
            squares[slice.parameter][1] += direction;
            Ok(())
        })?;
        if self.stage > 0 {
            let sums = bytemuck::cast_slice_mut(&mut squares);
            self.reducer.borrow_mut().link.sum_f64(sums)?;
        }
        self.on_each_bucket(&parts, |slice, range, moved| {
            let squares = squares[slice.parameter];
            match moved {
                Moved::Host(shard) => {
                    lamb.advance(update, range, squares, shard);
                    Ok(())
                }
                Moved::Device(shard) => lamb.advance_on_tensors(update, range, squares, shard),
            }
        })?;
        if self.stage > 0 {
            let (mut reducer, mut weights) = (self.reducer.borrow_mut(), self.weights.borrow_mut());
            for (index, bucket) in self.layout.trained().iter().enumerate() {
                if !bucket.is_sharded {
                    reducer.link.all_gather(weights.whole_mut(index))?;
                }
            }
        }
        Ok(())
    }

    /// What this rank updates, in rank order, and where each slice begins in it: at stage 0 what
    /// all ranks would, else its own part.
    fn updated_parts(&self) -> Vec<(Slice, usize)> {
        let ranks = if self.stage == 0 { 0..self.layout.world } else { self.rank..self.rank + 1 };
        let of_rank = |rank| {
            self.layout.slices(rank).into_iter().map(move |slice| {
                let shard = self.layout.buckets[slice.bucket].shard(self.layout.world, rank);
                let start = if self.stage == 0 { shard.start } else { 0 };
                (slice, start + slice.shard_offset)
            })
        };
        ranks.flat_map(of_rank).collect()
    }

    fn on_each_bucket(
        &mut self,
        parts: &[(Slice, usize)],
        mut visit: impl FnMut(&Slice, Range<usize>, &mut Moved<'_>) -> Result<(), TchError>,
    ) -> Result<(), TchError> {
        for (bucket, states) in self.states.iter_mut().enumerate() {
            self.weights.borrow_mut().update(bucket, |parameters| {
                let there;
                let mut moved = match (parameters, states) {
                    (Updated::Host(parameters), States::Host(states)) => {
                        let states = ours(states);
                        Moved::Host(Shard { parameters, gradients: &[], states })
                    }
                    (Updated::Device(parameters), States::Device(states)) => {
                        there = parameters;
                        // Nobody looks at gradients any more.
                        let (parameters, gradients) = (&there, &there);
                        Moved::Device(TensorShard { parameters, gradients, states })
                    }
                    _ => unreachable!("what is updated is in one memory"),
                };
                parts
                    .iter()
                    .filter(|(slice, _)| slice.bucket == bucket)
                    .try_for_each(|(slice, at)| visit(slice, *at..*at + slice.len, &mut moved))
            })?;
        }
        Ok(())
    }
}
