//! The loop: fetch, forward, backward, reduce, check finite, clip, step, report, save.
//!
//! Promise: every rank decides the same at the same step, because what it decides on is either the
//! job's, or was reduced over the ranks (A7). Refusal: knows neither how the state is sharded
//! (`zero`) nor how it is stored (`save`).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::position;
use common::spec::{JobSpec, Validate};
use common::status::{Live, TestResult};

use crate::data::{self, Dataset, TestErrors};
use crate::error::Error;
use crate::evaluate::{Detail, Evaluated, Evaluation};
use crate::model::Model;
use crate::monitor::ValidationRecord;
use crate::precision::Precision;
use crate::pulse::Pulse;
use crate::report::{Report, now};
use crate::save::{Saver, Urgency};
use crate::schedule::Schedule;
use crate::zero::{Snapshot, Zero};

mod breakdown;
mod measure;
mod pace;
mod plan;
mod state;
mod step;

use breakdown::Phase;
pub(crate) use measure::Measure;
pub(crate) use pace::Pace;
pub(crate) use plan::{Error as PlanError, GlobalBatch, Plan};
pub(crate) use state::State;

/// One rank, ready to train.
#[derive(Debug)]
pub(crate) struct Trainer {
    pub(crate) spec: JobSpec,
    pub(crate) rank: u32,
    pub(crate) world: u32,
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) precision: Precision,
    pub(crate) data: Dataset,
    pub(crate) model: Model,
    pub(crate) zero: Zero,
    pub(crate) state: State,
    /// The weights of the best validation, where they are needed and not the present ones.
    pub(crate) best_weights: Option<Snapshot>,
    pub(crate) report: Report,
    pub(crate) measure: Measure,
    pub(crate) saver: Saver,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) pace: Pace,
    pub(crate) started: Instant,
    /// The step of the checkpoint that this attempt continued from.
    pub(crate) resumed_at: Option<u64>,
}

/// How the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// A graceful stop was asked for.
    Stopped,
}

impl Trainer {
    /// Trains to the end of the run, or to the step at which the ranks agree to stop. The last
    /// state is saved either way.
    pub(crate) fn train(&mut self) -> Result<End, Error> {
        let end = self.train_epochs()?;
        // Only a run that had no step left to make comes here without a validation of its end.
        if end == End::Done && self.spec.training.validate != Validate::Never {
            self.validate_once()?;
        }
        self.save(Urgency::Final)?;
        Ok(end)
    }

    fn train_epochs(&mut self) -> Result<End, Error> {
        while !self.is_done() {
            if self.plan.batch_at(self.state.epoch_samples).is_none() {
                // A checkpoint of another batch size ended too near to the epoch's end.
                self.state.on_epoch_end();
                continue;
            }
            let order = data::order(
                self.spec.job.seed,
                u64::from(self.state.epoch),
                self.data.train.len(),
                self.spec.data.shuffle,
            );
            while let Some(batch) = self.plan.batch_at(self.state.epoch_samples) {
                let stop_asked = self.step(&order, &batch)?;
                let ends_epoch = self.plan.batch_at(self.state.epoch_samples).is_none();
                if ends_epoch {
                    self.state.on_epoch_end();
                }
                if self.is_validation_due(ends_epoch) {
                    self.validate_once()?;
                }
                if self.is_save_due(ends_epoch) {
                    self.save(Urgency::Periodic)?;
                }
                if self.is_done() {
                    return Ok(End::Done);
                }
                if stop_asked {
                    return Ok(End::Stopped);
                }
                if ends_epoch {
                    break;
                }
            }
        }
        Ok(End::Done)
    }

    fn is_done(&self) -> bool {
        self.plan.is_done(&self.state)
    }

    /// Also after the last step, whatever the interval: its checkpoint tells the loss and, if it is
    /// the best, is kept and found as such.
    fn is_validation_due(&self, ends_epoch: bool) -> bool {
        let is_turn = match self.spec.training.validate {
            Validate::EveryEpochs(n) => ends_epoch && self.state.epoch.is_multiple_of(n.max(1)),
            Validate::EverySteps(n) => self.state.step.is_multiple_of(n.max(1)),
            Validate::Never => return false,
        };
        is_turn || self.is_done()
    }

    fn is_save_due(&self, ends_epoch: bool) -> bool {
        let spec = &self.spec.checkpoint;
        let by_step = spec.every_steps.is_some_and(|n| self.state.step.is_multiple_of(n.max(1)));
        let by_epoch = ends_epoch
            && spec.every_epochs.is_some_and(|n| self.state.epoch.is_multiple_of(n.max(1)));
        by_step || by_epoch
    }

    /// Validates the present weights, unless that was done or there is nothing to validate on.
    fn validate_once(&mut self) -> Result<(), Error> {
        if self.state.validation_here().is_some() {
            return Ok(());
        }
        let Some(samples) = self.data.validation.clone() else { return Ok(()) };
        self.zero.share_buffers()?;
        let Evaluated { loss, accuracy, .. } = self.evaluate(&samples, Detail::Loss)?;
        let stopping = self.spec.training.early_stopping;
        let is_best = self.state.on_validation(loss, accuracy, stopping);
        // A run that has made all its steps was not stopped before its time.
        self.state.stopped_early &= self.state.step < self.plan.total_steps;
        if is_best {
            self.best_weights =
                self.data.test.is_some().then(|| self.zero.snapshot()).transpose()?;
        }
        tracing::info!(
            step = self.state.step,
            epoch = self.state.epoch,
            loss,
            accuracy,
            is_best,
            "validated"
        );
        self.report.validation(ValidationRecord {
            step: self.state.step,
            samples: self.state.samples,
            epoch: self.state.epoch,
            val_loss: loss,
            val_accuracy: accuracy,
            time: now(),
        });
        self.report.progress(self.live());
        Ok(())
    }

    fn evaluate(&self, samples: &data::Samples, detail: Detail) -> Result<Evaluated, Error> {
        let is_validation = detail == Detail::Loss;
        let evaluation = Evaluation {
            model: &self.model,
            zero: &self.zero,
            rank: self.rank,
            world: self.world,
            batch_size: self.plan.evaluation_batch(),
            max_batches: self.spec.training.max_eval_steps.filter(|_| is_validation),
            step: self.state.step,
            pulse: self.pulse(),
        };
        evaluation.run(samples, detail)
    }

    /// The test part, once, on the best weights; on the last ones where nothing was validated.
    pub(crate) fn test(&mut self) -> Result<Option<TestResult>, Error> {
        let Some(samples) = self.data.test.clone() else { return Ok(None) };
        let mut best = self.best_weights.take();
        self.zero.share_buffers()?;
        if let Some(best) = &mut best {
            self.zero.swap(best)?;
        }
        let evaluated = self.evaluate(&samples, Detail::OwnUnits);
        if let Some(best) = &mut best {
            self.zero.swap(best)?;
        }
        let Evaluated { loss, accuracy, samples, errors } = evaluated?;
        if let Some(accuracy) = accuracy {
            let State { step, samples, .. } = self.state;
            self.report.test_accuracy(step, samples, accuracy);
        }
        Ok(Some(TestResult {
            loss,
            mae: errors.map(TestErrors::mae),
            rmse: errors.map(TestErrors::rmse),
            naive_mae: errors.map(TestErrors::naive_mae),
            accuracy,
            samples,
        }))
    }

    fn save(&mut self, urgency: Urgency) -> Result<(), Error> {
        self.pulse().enter(position::Phase::Save);
        self.zero.share_buffers()?;
        let mut state = self.state.clone();
        state.seconds_before += self.started.elapsed().as_secs_f64();
        // The best weights travel along where they are not the present ones.
        let best = self
            .best_weights
            .as_ref()
            .filter(|_| state.best.is_some_and(|best| best.step != state.step));
        let saving = self.saver.stall();
        self.saver.save(&mut self.zero, &state, best, urgency)?;
        self.pulse().end_save(self.saver.slowest());
        let stalled = self.saver.stall().saturating_sub(saving).as_secs_f64();
        self.measure.breakdown.add(Phase::Save, stalled);
        for note in self.saver.notes() {
            self.report.note(note);
        }
        Ok(())
    }

    pub(crate) fn live(&self) -> Live {
        let state = &self.state;
        Live {
            step: state.step,
            resumed_at_step: self.resumed_at,
            max_steps: Some(self.plan.total_steps),
            epoch: self.epoch_number(),
            epochs: self.plan.epochs,
            samples: state.samples,
            loss: state.last_loss,
            val_loss: state.last_val_loss,
            val_accuracy: state.last_val_accuracy,
            learning_rate: state.updates().checked_sub(1).map(|k| self.schedule.rate(k)),
            grad_norm: self.pace.grad_norm(),
            samples_per_second: self.pace.samples_per_second(),
            eta_seconds: self.pace.eta_seconds(self.plan.total_steps.saturating_sub(state.step)),
        }
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        self.measure.breakdown.pulse()
    }

    /// The epoch that is under way, from 1; the last one once it is over.
    fn epoch_number(&self) -> u32 {
        let is_between = self.state.epoch_samples == 0 && self.state.epoch > 0;
        if is_between { self.state.epoch } else { self.state.epoch + 1 }
    }
}
