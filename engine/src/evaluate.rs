//! Validation and test: every sample once, the ranks' shares weighted by their sizes, no dropout,
//! no gradients.
//!
//! Promise: every rank returns the same numbers, because they are made of reduced sums.

use tch::{Reduction, Tensor, no_grad_guard};

use crate::data::{Samples, TestErrors};
use crate::error::Error;
use crate::model::{Model, Pass, Plain};
use crate::zero::Zero;

/// What an evaluation reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evaluation<'a> {
    pub(crate) model: &'a Model,
    pub(crate) zero: &'a Zero,
    pub(crate) rank: u32,
    pub(crate) world: u32,
    /// Samples that all ranks together take at once.
    pub(crate) batch_size: u64,
    /// At most so many batches.
    pub(crate) max_batches: Option<u64>,
    /// For messages.
    pub(crate) step: u64,
}

/// Sums over all ranks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evaluated {
    /// Mean squared error in the units of training.
    pub(crate) loss: f64,
    pub(crate) samples: u64,
    pub(crate) errors: TestErrors,
}

/// Which errors are wanted besides the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Loss,
    OwnUnits,
}

impl Evaluation<'_> {
    /// Collective.
    pub(crate) fn run(&self, samples: &Samples, detail: Detail) -> Result<Evaluated, Error> {
        let _no_grad = no_grad_guard();
        let mut loss = 0.0;
        let mut errors = TestErrors::default();
        let taken = self.max_batches.map_or(u64::MAX, |n| n.saturating_mul(self.batch_size));
        let len = taken.min(samples.len() as u64);
        let mut from = 0;
        while from < len {
            let end = from.saturating_add(self.batch_size).min(len);
            let run = common::batch::rank_run(from..end, self.world, self.rank);
            // Sample indices are u32: loading refuses longer series.
            let indices: Vec<u32> = (run.start as u32..run.end as u32).collect();
            if !indices.is_empty() {
                let (x_btf, y_bo) = samples.batch(&indices)?;
                let predicted_bo = self.model.forward(&x_btf, Pass::Evaluate, &Plain)?;
                loss += mean_squared_error(&predicted_bo, &y_bo)? * indices.len() as f64;
                if detail == Detail::OwnUnits {
                    errors.add(samples, &indices, &predicted_bo)?;
                }
            }
            from = end;
        }
        self.sum_over_ranks(loss, len, errors)
    }

    fn sum_over_ranks(&self, loss: f64, len: u64, errors: TestErrors) -> Result<Evaluated, Error> {
        let mut sums = [0.0; 1 + TestErrors::LEN];
        sums[0] = loss;
        sums[1..].copy_from_slice(&errors.to_array());
        self.zero
            .with_link(|link| link.sum_f64(&mut sums))
            .map_err(Error::communication("sum the ranks' evaluations", self.step))?;
        let [loss, errors @ ..] = sums;
        let loss = loss / len as f64;
        if !loss.is_finite() {
            return Err(Error::NotFinite {
                step: self.step,
                what: "the loss of the evaluation".to_owned(),
                loss,
            });
        }
        Ok(Evaluated { loss, samples: len, errors: TestErrors::from_array(errors) })
    }
}

fn mean_squared_error(predicted_bo: &Tensor, y_bo: &Tensor) -> Result<f64, Error> {
    predicted_bo
        .f_mse_loss(y_bo, Reduction::Mean)
        .and_then(|loss| loss.f_double_value(&[]))
        .map_err(Error::torch("compute the loss of an evaluation"))
}
