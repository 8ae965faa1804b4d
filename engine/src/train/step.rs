//! One optimizer step.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tch::Tensor;

use super::breakdown::Phase;
use super::{GlobalBatch, Trainer};
use crate::error::Error;
use crate::loss;
use crate::model::Pass;
use crate::monitor::StepRecord;
use crate::optimizer::{Update, clip_coefficient};
use crate::report::now;
use crate::rng::DropoutKey;
use crate::zero::MicroStep;

/// What the ranks agree on once a step, by one small sum in rank order.
#[derive(Debug, Clone, Copy)]
struct Agreement {
    /// Mean over the global batch, before the update.
    loss: f64,
    /// Of the gradients without the factor on them.
    grad_norm: f64,
    stop_asked: bool,
}

/// What a micro-step's loss is multiplied by: its share of the global batch, so that the ranks' and
/// micro-steps' gradients add up to that of the mean, however uneven their runs are; and what keeps
/// them in range on their way.
#[derive(Debug, Clone, Copy)]
struct Weight {
    weight: f64,
    factor: f64,
}

/// What people hear of a step.
#[derive(Debug, Clone, Copy)]
struct Told {
    agreed: Agreement,
    rate: f64,
    loss_scale: Option<f64>,
    started: Instant,
}

impl Agreement {
    fn is_finite(self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

impl Trainer {
    /// Returns whether any rank was asked to stop.
    pub(super) fn step(&mut self, order: &[u32], batch: &GlobalBatch) -> Result<bool, Error> {
        let started = Instant::now();
        self.pulse().begin_step(self.state.step + 1);
        let factor = self.precision.factor(&self.state.precision);
        let loss_scale = self.precision.scale(&self.state.precision);
        let counting = self.measure.start_counting()?;
        let loss = self.accumulate(order, batch, factor)?;
        self.measure.end_counting(counting);
        let agreed = self.agree(loss, factor)?;
        let rate = self.schedule.rate(self.state.updates());
        let mut saving = Duration::ZERO;
        if agreed.is_finite() {
            saving = self.recall()?;
            self.update(agreed, rate, factor)?;
        } else {
            self.skip(agreed)?;
        }
        // Saves are no part of a step.
        self.tell_step(batch, Told { agreed, rate, loss_scale, started: started + saving });
        Ok(agreed.stop_asked)
    }

    /// Waits for a save that still copies what the update changes. Returns how long.
    fn recall(&mut self) -> Result<Duration, Error> {
        if !self.zero.has_lent() {
            return Ok(Duration::ZERO);
        }
        let (started, patience) = (Instant::now(), self.saver.patience());
        self.measure.breakdown.time(Phase::Save, || self.zero.recall(patience))?;
        let waited = started.elapsed();
        self.saver.waited(waited);
        Ok(waited)
    }

    fn update(&mut self, agreed: Agreement, rate: f64, factor: f64) -> Result<(), Error> {
        let clipping = self.spec.training.gradient_clipping;
        let update = Update {
            number: self.state.updates() + 1,
            rate,
            gradient_scale: clip_coefficient(clipping, agreed.grad_norm) / factor as f32,
            betas: self.schedule.betas(self.state.updates()),
        };
        self.measure
            .breakdown
            .time(Phase::Optimizer, || self.zero.update(update))
            .map_err(Error::zero("update the parameters", self.state.step + 1))?;
        self.precision.on_update(&mut self.state.precision);
        Ok(())
    }

    /// Before anything is changed: weights, optimizer states and schedule stay as they were.
    fn skip(&mut self, agreed: Agreement) -> Result<(), Error> {
        let step = self.state.step + 1;
        let what = self.first_not_finite(step)?;
        let note =
            self.precision.on_overflow(&mut self.state.precision, (step, what), agreed.loss)?;
        if let Some(note) = note {
            self.report.note(note);
        }
        Ok(())
    }

    /// Runs the micro-steps; afterwards the summed gradients are with `zero`. Returns this rank's
    /// part of the global mean loss.
    fn accumulate(
        &mut self,
        order: &[u32],
        batch: &GlobalBatch,
        factor: f64,
    ) -> Result<f64, Error> {
        let mut loss = 0.0;
        for index in 0..batch.micro_steps {
            let micro_step =
                MicroStep { is_first: index == 0, is_last: index + 1 == batch.micro_steps };
            let step_number = self.state.step + 1;
            self.zero.begin_micro_step(micro_step, step_number)?;
            // A rank without samples in this micro-step still takes part in its sums.
            let run = batch.run(index, self.rank);
            if !run.is_empty() {
                // Dropout depends on the place in the run alone, so a resumed one draws the same.
                let (seed, step) = (self.spec.job.seed, self.state.step);
                let key = DropoutKey { seed, rank: self.rank, step, micro_step: index };
                let weight = run.len() as f64 / batch.len() as f64;
                let pass = Pass::Train(key);
                loss += self.forward_backward(&order[run], pass, Weight { weight, factor })?;
            }
            self.measure.breakdown.time(Phase::Reduce, || self.zero.end_micro_step(step_number))?;
        }
        Ok(loss)
    }

    fn forward_backward(
        &self,
        indices: &[u32],
        pass: Pass,
        Weight { weight, factor }: Weight,
    ) -> Result<f64, Error> {
        let clock = &self.measure.breakdown;
        let (x, y) = clock.time(Phase::Fetch, || self.data.train.batch(indices))?;
        let predicted_bo =
            clock.time(Phase::Forward, || self.model.forward(&x, pass, self.zero.around()))?;
        let loss = loss::mean(self.data.train.task(), &predicted_bo, &y)
            .and_then(|loss: Tensor| loss.f_mul_scalar(weight))
            .map_err(Error::torch("compute the loss"))?;
        let backward = |loss: &Tensor| match factor {
            1.0 => loss.f_backward(),
            factor => loss.f_mul_scalar(factor)?.f_backward(),
        };
        clock
            .time(Phase::Backward, || backward(&loss))
            .map_err(|source| self.zero.backward_failure(source))?;
        loss.f_double_value(&[]).map_err(Error::torch("read the loss"))
    }

    fn agree(&self, loss: f64, factor: f64) -> Result<Agreement, Error> {
        let stop = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        if self.pulse().strays() {
            let stray = self.zero.with_link(|link| link.sum_f64(&mut [0.0]));
            stray.map_err(Error::communication("go astray", self.state.step + 1))?;
        }
        let mut sums = [loss, self.zero.gradient_squares()?, stop];
        self.measure
            .breakdown
            .time(Phase::Reduce, || self.zero.with_link(|link| link.sum_f64(&mut sums)))
            .map_err(Error::communication("agree on the step", self.state.step + 1))?;
        let [loss, squares, stop] = sums;
        Ok(Agreement { loss, grad_norm: squares.sqrt() / factor, stop_asked: stop > 0.0 })
    }

    /// Collective.
    fn first_not_finite(&self, step: u64) -> Result<String, Error> {
        let nothing = i64::MAX;
        let mut first = [self.zero.first_bad_gradient()?.map_or(nothing, |index| index as i64)];
        self.zero
            .with_link(|link| link.min_i64(&mut first))
            .map_err(Error::communication("find the first bad gradient", step))?;
        Ok(match first {
            [index] if index != nothing => {
                format!("the gradient of `{}`", self.zero.name(index as usize))
            }
            _ => "the loss".to_owned(),
        })
    }

    fn tell_step(&mut self, batch: &GlobalBatch, told: Told) {
        let Told { agreed, rate, loss_scale, started } = told;
        let epoch = self.state.epoch + 1;
        let grad_norm = if agreed.is_finite() { agreed.grad_norm } else { f64::INFINITY };
        if agreed.is_finite() {
            let warning = self.state.on_step(batch.len(), agreed.loss, grad_norm);
            warning.into_iter().for_each(|warning| self.report.note(warning));
        } else {
            self.state.on_skipped_step(batch.len(), agreed.loss);
        }
        let end = Instant::now();
        let step_seconds = (end - started).as_secs_f64();
        self.pulse().end_step(end - started);
        self.pace.on_step(end, batch.len(), step_seconds, grad_norm);
        let record = StepRecord {
            step: self.state.step,
            samples: self.state.samples,
            epoch,
            train_loss: agreed.loss,
            learning_rate: rate,
            grad_norm,
            loss_scale,
            step_seconds,
            samples_per_second: batch.len() as f64 / step_seconds,
            time: now(),
        };
        self.report.step(record);
        self.report.progress(self.live());
        let prints = self.spec.training.steps_per_print;
        let prints =
            self.rank == 0 && prints.is_some_and(|n| self.state.step.is_multiple_of(n.max(1)));
        if prints {
            self.print(&record);
        }
        self.measure.tell_step(&mut self.report, &record, prints);
        self.report.pace(&record, self.measure.breakdown.shares());
        let samples = (0..batch.micro_steps).map(|index| batch.run(index, self.rank).len() as u64);
        let measured = (&record, samples.sum(), self.world);
        if let Some(Err(error)) = self.measure.profile(&self.spec, &self.data, measured) {
            self.report.note(format!("no FLOPS profile: {}", crate::error::chain(&error)));
        }
        self.measure.breakdown.reset();
    }

    /// What DeepSpeed prints every `steps_per_print`, and the loss.
    fn print(&self, record: &StepRecord) {
        tracing::info!(
            step = record.step,
            skipped = self.state.step - self.state.updates(),
            lr = record.learning_rate,
            mom = ?self.momentum(),
            loss = record.train_loss,
            grad_norm = record.grad_norm,
            running_samples_per_second = self.pace.samples_per_second(),
            samples_per_second = record.samples_per_second,
            "trained"
        );
    }

    /// Of the update that was made last.
    fn momentum(&self) -> Option<[f64; 2]> {
        let updates = self.state.updates().saturating_sub(1);
        self.schedule.betas(updates).or_else(|| self.spec.training.optimizer.rule.betas())
    }
}
