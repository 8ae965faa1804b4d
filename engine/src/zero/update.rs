//! From summed gradients to updated parameters, on the host or on a device.

use tch::Kind;

use crate::error::Error;
use crate::optimizer::{Shard, TensorShard, Update};
use crate::storage::{Part, Squares};
use crate::zero::Zero;
use crate::zero::failure::Failure;
use crate::zero::states::{States, ours};
use crate::zero::weights::Updated;

impl Zero {
    /// This rank's part of the squared norm of the summed gradients. The host waits here for what a
    /// device has to compute.
    pub(crate) fn gradient_squares(&self) -> Result<f64, Error> {
        let reducer = self.reducer.borrow();
        let mut squares = Squares::default();
        (0..self.layout.num_trained)
            .try_for_each(|bucket| squares.add(reducer.shard(bucket)))
            .and_then(|()| squares.total())
            .map_err(Error::torch("measure the gradients"))
    }

    /// The first parameter of which this rank's part of the summed gradient is not finite.
    pub(crate) fn first_bad_gradient(&self) -> Result<Option<usize>, Error> {
        let reducer = self.reducer.borrow();
        let mut first = None;
        for slice in self.layout.slices(self.rank) {
            let is_later = first.is_some_and(|first| first <= slice.parameter);
            if !self.layout.is_trained(slice.bucket) || is_later {
                continue;
            }
            let range = slice.shard_offset..slice.shard_offset + slice.len;
            let is_finite = reducer.shard(slice.bucket).range(range).all_finite();
            if !is_finite.map_err(Error::torch("look for a gradient that is not finite"))? {
                first = Some(slice.parameter);
            }
        }
        Ok(first)
    }

    /// Updates the parameters from the summed gradients; from stage 1 on each rank its shard, then
    /// all gather what is whole on every rank. What was lent is back: see [`Zero::recall`]. Collective.
    pub(crate) fn update(&mut self, update: Update) -> Result<(), Failure> {
        let layer_wise = self.optimizer.layer_wise();
        let mut reducer = self.reducer.borrow_mut();
        let mut weights = self.weights.borrow_mut();
        let mut scratch = Vec::new();
        for (bucket, states) in self.states.iter_mut().enumerate() {
            let sums = if self.stage == 0 { reducer.sums(bucket) } else { reducer.shard(bucket) };
            weights.update(bucket, |parameters| match (parameters, sums, states) {
                (Updated::Host(parameters), Part::Host(sums), States::Host(states)) => {
                    let gradients = sums.widened(&mut scratch);
                    let states = ours(states);
                    self.optimizer.apply(update, &mut Shard { parameters, gradients, states });
                    Ok(())
                }
                (Updated::Device(parameters), Part::Device(sums), States::Device(states)) => {
                    let (parameters, gradients) = (&parameters, &sums.f_to_kind(Kind::Float)?);
                    let shard = TensorShard { parameters, gradients, states };
                    self.optimizer.apply_on_tensors(update, &shard)
                }
                _ => unreachable!("what is updated is in one memory"),
            })?;
            if self.stage > 0 && layer_wise.is_none() && !self.layout.buckets[bucket].is_sharded {
                reducer.link.all_gather(weights.whole_mut(bucket))?;
            }
        }
        drop((reducer, weights));
        layer_wise.map_or(Ok(()), |lamb| self.move_layers(lamb, update))
    }
}
