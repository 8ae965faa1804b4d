//! Validation and test: every sample once, the ranks' shares weighted by their sizes, no dropout,
//! no gradients.
//!
//! Promise: every rank returns the same numbers, because they are made of reduced sums.

use common::position::Phase;
use tch::no_grad_guard;

use crate::data::{Samples, Task, TestErrors};
use crate::error::Error;
use crate::loss;
use crate::model::{Model, Pass};
use crate::pulse::Pulse;
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
    pub(crate) pulse: &'a Pulse,
}

/// Sums over all ranks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evaluated {
    /// The mean of what training makes small, in its units.
    pub(crate) loss: f64,
    /// Share of the samples whose class was predicted; of a classification.
    pub(crate) accuracy: Option<f64>,
    pub(crate) samples: u64,
    /// Of a regression, where they were asked for.
    pub(crate) errors: Option<TestErrors>,
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
        let task = samples.task();
        let (mut loss, mut correct) = (0.0, 0.0);
        let mut errors = TestErrors::default();
        let taken = self.max_batches.map_or(u64::MAX, |n| n.saturating_mul(self.batch_size));
        let len = taken.min(samples.len() as u64);
        let mut from = 0;
        while from < len {
            self.pulse.enter(Phase::Validate);
            let end = from.saturating_add(self.batch_size).min(len);
            let run = common::batch::rank_run(from..end, self.world, self.rank);
            // Sample indices are u32: loading refuses longer series.
            let indices: Vec<u32> = (run.start as u32..run.end as u32).collect();
            self.zero.begin_evaluation(self.step)?;
            // A rank without samples still takes part in what the others need of it.
            if !indices.is_empty() {
                let (x, y) = samples.batch(&indices)?;
                let predicted_bo = self.model.forward(&x, Pass::Evaluate, self.zero.around())?;
                let mean = loss::mean(task, &predicted_bo, &y)
                    .and_then(|loss| loss.f_double_value(&[]))
                    .map_err(Error::torch("compute the loss of an evaluation"))?;
                loss += mean * indices.len() as f64;
                match (task, detail) {
                    (Task::Regression, Detail::Loss) => {}
                    (Task::Regression, Detail::OwnUnits) => {
                        errors.add(samples, &indices, &predicted_bo)?;
                    }
                    (Task::Classification, _) => {
                        correct += loss::correct(&predicted_bo, &y)
                            .map_err(Error::torch("count the predicted classes"))?;
                    }
                }
            }
            self.zero.end_evaluation()?;
            from = end;
        }
        let [loss, correct, errors @ ..] = self.sum_over_ranks([loss, correct], errors)?;
        let loss = loss / len as f64;
        if !loss.is_finite() {
            let what = "the loss of the evaluation".to_owned();
            return Err(Error::NotFinite { step: self.step, what, loss });
        }
        let (is_regression, wants_errors) = (task == Task::Regression, detail == Detail::OwnUnits);
        Ok(Evaluated {
            loss,
            accuracy: (!is_regression).then(|| correct / len as f64),
            samples: len,
            errors: (is_regression && wants_errors).then(|| TestErrors::from_array(errors)),
        })
    }

    fn sum_over_ranks(
        &self,
        [loss, correct]: [f64; 2],
        errors: TestErrors,
    ) -> Result<[f64; 2 + TestErrors::LEN], Error> {
        let mut sums = [0.0; 2 + TestErrors::LEN];
        sums[0] = loss;
        sums[1] = correct;
        sums[2..].copy_from_slice(&errors.to_array());
        self.zero
            .with_link(|link| link.sum_f64(&mut sums))
            .map_err(Error::communication("sum the ranks' evaluations", self.step))?;
        Ok(sums)
    }
}
