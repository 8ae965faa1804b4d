//! `[data]`: where samples come from and how they are cut and scaled.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Data {
    pub source: DataSource,
    /// Rows of history that one sample holds (T in the shape legends); None: samples are no
    /// windows of a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Rows after the window whose targets are predicted; None as `window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<u32>,
    pub shuffle: bool,
    pub drop_last: bool,
}

/// Where samples come from; in TOML and JSON an object with `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum DataSource {
    /// Seed 001: `samples` windows to train on, `validation-samples` of a second series.
    Sine { samples: u32, validation_samples: u32, noise: f64 },
    /// Seed 000: `samples` time steps of `features` series, `split` in time order.
    SyntheticTimeseries {
        samples: u32,
        features: u32,
        sampling_rate: f64,
        noise: f64,
        split: [f64; 3],
        normalization: Normalization,
    },
    Csv {
        /// Absolute.
        path: PathBuf,
        /// Inputs by name, or by index as text with `header = false`. Empty: every numeric column.
        columns: Vec<String>,
        /// Predicted columns. Empty: the same as `columns`.
        targets: Vec<String>,
        header: bool,
        /// Train, validation, test parts of the rows, in time order.
        split: [f64; 3],
        normalization: Normalization,
        missing: Missing,
    },
    /// Handwritten digits of 8 x 8 pixels with their classes, one a line, gzipped or not.
    Digits {
        /// Absolute.
        path: PathBuf,
        /// Train, validation, test parts of each class.
        split: [f64; 3],
    },
}

impl DataSource {
    /// The file that holds it, where there is one.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Csv { path, .. } | Self::Digits { path, .. } => Some(path),
            Self::Sine { .. } | Self::SyntheticTimeseries { .. } => None,
        }
    }

    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Csv { path, .. } | Self::Digits { path, .. } => Some(path),
            Self::Sine { .. } | Self::SyntheticTimeseries { .. } => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    None,
    /// Zero mean and unit variance, fitted on the training part.
    Standard,
    /// To 0..1, fitted on the training part.
    MinMax,
    /// Each window relative to its last value, divided by the training part's deviation of such
    /// differences.
    Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    Error,
    Drop,
    Interpolate,
}
