//! What rank 0 writes while it trains: TensorBoard event files, `metrics/steps.csv`,
//! `metrics/validation.csv`, and the folders that a DeepSpeed configuration asks for. Every call
//! leaves whole, flushed records. After a restart nothing is told twice: files are cut back to the
//! resumed step. Refusal: decides nothing about training, and reads no clock.

use std::path::{Path, PathBuf};

use common::metric::{self, Metric};
use common::spec;
use common::status::UnixMillis;

mod deepspeed_csv;
mod event;
mod table;
mod tensorboard;

pub use deepspeed_csv::DeepSpeedCsv;
pub use table::{StepsCsv, ValidationColumns, ValidationCsv};
pub use tensorboard::TensorBoardWriter;

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// From 1.
    pub step: u64,
    /// Seen by all ranks, this step's included.
    pub samples: u64,
    pub epoch: u32,
    pub train_loss: f64,
    pub learning_rate: f64,
    /// Before clipping; infinite where the step was skipped.
    pub grad_norm: f64,
    /// That this step's loss was multiplied by; fp16 only.
    pub loss_scale: Option<f64>,
    pub step_seconds: f64,
    pub samples_per_second: f64,
    pub time: UnixMillis,
}

/// One evaluation of the validation set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValidationRecord {
    pub step: u64,
    pub samples: u64,
    pub epoch: u32,
    pub val_loss: f64,
    /// Of a classification.
    pub val_accuracy: Option<f64>,
    pub time: UnixMillis,
}

/// One value for TensorBoard; x is the number of global samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalar {
    pub metric: Metric,
    pub samples: u64,
    pub value: f64,
    pub time: UnixMillis,
}

/// Where a run continues: zero for a new one. What was written beyond it is taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pub step: u64,
    pub samples: u64,
}

/// A monitor could not be opened, which ends the run, or not write, which `report` tells.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} `{}`", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "`{}` starts with `{found}`, not with `{expected}`: it is not a file of this program; \
         move it away",
        path.display()
    )]
    ForeignFile { path: PathBuf, found: String, expected: String },
}

impl Error {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}

/// All monitors that a job asks for, as one.
#[derive(Debug)]
pub struct Monitors {
    tensorboard: Vec<TensorBoardWriter>,
    steps: Option<StepsCsv>,
    validation: Option<ValidationCsv>,
    deepspeed: Option<DeepSpeedCsv>,
}

impl Monitors {
    /// Opens what `spec` asks for; its own files lie under `run_dir`. `columns` are those of the
    /// file of validations.
    pub fn open(
        run_dir: &Path,
        spec: &spec::Monitor,
        columns: ValidationColumns,
        from: Position,
        now: UnixMillis,
    ) -> Result<Self, Error> {
        let own = spec.tensorboard.then(|| run_dir.join("tensorboard"));
        let folders = own.iter().chain(&spec.deepspeed_tensorboard_dir);
        let metrics = spec.csv.then(|| run_dir.join("metrics"));
        Ok(Self {
            tensorboard: folders
                .map(|dir| TensorBoardWriter::create(dir, from, now))
                .collect::<Result<_, _>>()?,
            steps: metrics
                .as_ref()
                .map(|dir| StepsCsv::open(&dir.join("steps.csv"), from))
                .transpose()?,
            validation: metrics
                .as_ref()
                .map(|dir| ValidationCsv::open(&dir.join("validation.csv"), columns, from))
                .transpose()?,
            deepspeed: spec
                .deepspeed_csv_dir
                .as_ref()
                .map(|dir| DeepSpeedCsv::open(dir, from))
                .transpose()?,
        })
    }

    pub fn steps(&mut self, records: &[StepRecord]) -> Result<(), Error> {
        if let Some(table) = &mut self.steps {
            table.append(records)?;
        }
        let scalars: Vec<Scalar> = records.iter().flat_map(StepRecord::scalars).collect();
        self.scalars(&scalars)
    }

    pub fn validations(&mut self, records: &[ValidationRecord]) -> Result<(), Error> {
        if let Some(table) = &mut self.validation {
            table.append(records)?;
        }
        let scalars: Vec<Scalar> = records.iter().flat_map(ValidationRecord::scalars).collect();
        self.scalars(&scalars)
    }

    /// Values that belong to no table, such as `metric::RSS_BYTES`.
    pub fn scalars(&mut self, scalars: &[Scalar]) -> Result<(), Error> {
        for writer in &mut self.tensorboard {
            writer.write(scalars)?;
        }
        match &mut self.deepspeed {
            Some(folder) => folder.append(scalars),
            None => Ok(()),
        }
    }
}

impl StepRecord {
    /// Its metrics, but for those that a step without an update does not have.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = (Metric, f64)> + use<> {
        [
            (metric::TRAIN_LOSS, Some(self.train_loss)),
            (metric::LEARNING_RATE, Some(self.learning_rate)),
            (metric::GRAD_NORM, Some(self.grad_norm)),
            (metric::LOSS_SCALE, self.loss_scale),
            (metric::SAMPLES_PER_SECOND, Some(self.samples_per_second)),
            (metric::STEP_SECONDS, Some(self.step_seconds)),
        ]
        .into_iter()
        .filter_map(|(metric, value)| Some((metric, value.filter(|value| value.is_finite())?)))
    }

    fn scalars(&self) -> impl Iterator<Item = Scalar> + use<> {
        let Self { samples, time, .. } = *self;
        self.metrics().map(move |(metric, value)| Scalar { metric, samples, value, time })
    }
}

impl ValidationRecord {
    fn scalars(&self) -> impl Iterator<Item = Scalar> + use<> {
        let Self { samples, val_loss, val_accuracy, time, .. } = *self;
        let accuracy = val_accuracy.map(|value| (metric::VAL_ACCURACY, value));
        [(metric::VAL_LOSS, val_loss)]
            .into_iter()
            .chain(accuracy)
            .map(move |(metric, value)| Scalar { metric, samples, value, time })
    }
}

/// The shortest text that reads back as the same number, in the notation of Python and Rust.
fn number(value: f64) -> String {
    format!("{value:?}")
}

#[cfg(test)]
mod tests;
