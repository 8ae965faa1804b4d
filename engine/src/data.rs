//! Where samples come from: synthetic series and CSV files, split in time order, normalised by the
//! training part alone; images with classes, split by class. Kept once and gathered into batches;
//! windows of a series are never materialised. Everything depends on the settings and the seed
//! only, so every rank loads the same. Refusal: knows no rank; who wants a slice of a batch asks for its indices.
//!
//! Shapes: b batch, t time (the window), f input features, o outputs (horizon × targets, in time
//! order: all targets of the first predicted row, then of the second).

use common::spec::{self, DataSource};

mod csv_file;
mod digits;
mod error;
mod images;
mod order;
mod samples;
mod scaling;
mod split;
mod synthetic;
mod test_errors;
mod windows;

pub use error::Error;
pub use images::ImageSamples;
pub use order::order;
pub use samples::Samples;
pub use test_errors::TestErrors;
pub use windows::SeriesSamples;

use crate::model::Input;

/// What is learnt, and by which loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Numbers, by the mean of squared errors.
    Regression,
    /// Classes, by the mean of cross-entropies.
    Classification,
}

/// Samples to train on, to validate and to test with.
#[derive(Debug)]
pub struct Dataset {
    pub train: Samples,
    /// None where the split leaves none.
    pub validation: Option<Samples>,
    /// None where the split leaves none, and for `sine`.
    pub test: Option<Samples>,
    /// What the model reads.
    pub input: Input,
    /// o: horizon × targets or the number of classes, the model's output size.
    pub output_features: usize,
    /// Names of the input columns.
    pub columns: Vec<String>,
    /// Names of the predicted columns.
    pub targets: Vec<String>,
    /// What a person should hear once: gaps filled, rows dropped, columns chosen or left out.
    pub notes: Vec<String>,
}

impl Dataset {
    /// The same where every value is: ranks compare it before they train together.
    pub(crate) fn fingerprint(&self) -> i64 {
        let mut hasher = blake3::Hasher::new();
        for part in [Some(&self.train), self.validation.as_ref(), self.test.as_ref()] {
            part.inspect(|part| part.hash(&mut hasher));
        }
        let hash = hasher.finalize();
        let first = hash.as_bytes().first_chunk().expect("a hash is longer than eight bytes");
        i64::from_le_bytes(*first)
    }
}

/// Reads or makes the data of `spec`. `seed` draws the noise of synthetic series.
pub fn load(spec: &spec::Data, seed: u64) -> Result<Dataset, Error> {
    match &spec.source {
        DataSource::Sine { samples, validation_samples, noise } => {
            synthetic::sine(Windows::of(spec)?, [*samples, *validation_samples], *noise, seed)
        }
        DataSource::SyntheticTimeseries { normalization, split, .. } => {
            let windows = Windows::of(spec)?;
            let table = synthetic::timeseries(&spec.source, seed)?;
            split::dataset(table, windows, *split, *normalization)
        }
        DataSource::Csv { normalization, split, .. } => {
            let windows = Windows::of(spec)?;
            let table = csv_file::read(&spec.source)?;
            split::dataset(table, windows, *split, *normalization)
        }
        DataSource::Digits { path, split } => digits::read(path, *split),
    }
}

/// The rows of a series that one sample takes.
#[derive(Debug, Clone, Copy)]
struct Windows {
    window: u32,
    horizon: u32,
}

impl Windows {
    fn of(spec: &spec::Data) -> Result<Self, Error> {
        let positive = |key, value: Option<u32>| match value {
            Some(value @ 1..) => Ok(value),
            Some(value) => Err(Error::setting(key, value, "at least 1")),
            None => Err(Error::setting(key, "none", "at least 1: the data is a series")),
        };
        Ok(Self {
            window: positive("data.window", spec.window)?,
            horizon: positive("data.horizon", spec.horizon)?,
        })
    }
}

/// A multivariate series in its own units, before it is split.
#[derive(Debug)]
struct Table {
    rows: usize,
    /// Row-major, rows × columns.
    inputs: Vec<f64>,
    columns: Vec<String>,
    /// Row-major, rows × targets.
    outputs: Vec<f64>,
    targets: Vec<String>,
    notes: Vec<String>,
    /// For messages about too few rows: the file, or the kind of the series.
    origin: String,
}

/// 8 GiB of f64 in one series: beyond that, a rank would need a loader that streams.
const MAX_VALUES: u64 = 1 << 30;

/// Refuses a series that would not fit, before it is allocated.
fn check_size(origin: &str, rows: u64, columns: u64) -> Result<(), Error> {
    // Sample indices are u32.
    let fits = rows <= u64::from(u32::MAX)
        && rows.checked_mul(columns).is_some_and(|values| values <= MAX_VALUES);
    if fits {
        Ok(())
    } else {
        Err(Error::TooLarge { origin: origin.to_owned(), rows, columns, limit: MAX_VALUES })
    }
}

#[cfg(test)]
mod tests;
