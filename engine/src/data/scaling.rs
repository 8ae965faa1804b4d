//! From a column's own units to the model's and back, fitted on the training part alone.

use common::spec::Normalization;

/// `normalised = (value - offset) / scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub(super) offset: f64,
    pub(super) scale: f64,
}

impl Affine {
    pub(super) const IDENTITY: Self = Self { offset: 0.0, scale: 1.0 };

    pub(super) fn apply(self, value: f64) -> f64 {
        (value - self.offset) / self.scale
    }

    pub(super) fn invert(self, value: f64) -> f64 {
        value * self.scale + self.offset
    }
}

/// What the fit may look at: column `column` of a row-major matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column<'a> {
    pub(super) values: &'a [f64],
    pub(super) columns: usize,
    pub(super) column: usize,
}

impl Column<'_> {
    fn iter(&self) -> impl Iterator<Item = f64> + Clone {
        self.values.iter().skip(self.column).step_by(self.columns).copied()
    }

    fn at(&self, row: usize) -> f64 {
        self.values[row * self.columns + self.column]
    }

    fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
}

/// Fits a column that is scaled as a whole (every mode but `window`). None: it is constant, so
/// only its offset can be taken.
pub(super) fn fit(normalization: Normalization, train: Column<'_>) -> (Affine, Spread) {
    match normalization {
        Normalization::None | Normalization::Window => (Affine::IDENTITY, Spread::Some),
        Normalization::Standard => {
            let (mean, deviation) = moments(train.iter());
            scaled(mean, deviation)
        }
        Normalization::MinMax => {
            let low = train.iter().fold(f64::INFINITY, f64::min);
            let high = train.iter().fold(f64::NEG_INFINITY, f64::max);
            scaled(low, high - low)
        }
    }
}

/// Whether a column varies over the training part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    Some,
    /// It is only shifted: there is nothing to divide by.
    Constant,
}

/// The deviation of `value - last value of the window` over every window of the training part that
/// a sample has. Targets are divided by it as well: their own differences are smaller (one step
/// ahead is nearer than a whole window back), and a model that predicts values well below 1 from
/// inputs around 1 trained better than one whose targets were blown up to unit variance (weekly
/// CO2, best test MAE 0.285 against 0.30 ppm).
pub(super) fn fit_differences(
    train: Column<'_>,
    [window, horizon]: [usize; 2],
) -> (Affine, Spread) {
    let lasts = window - 1..train.rows().saturating_sub(horizon);
    let differences = lasts
        .flat_map(|last| (last + 1 - window..last).map(move |row| train.at(row) - train.at(last)));
    let (_, deviation) = moments(differences);
    scaled(0.0, deviation)
}

fn scaled(offset: f64, scale: f64) -> (Affine, Spread) {
    // Rounding leaves a constant column a deviation of about 1e-16 of its size.
    if scale > 1e-12 * offset.abs().max(f64::MIN_POSITIVE) && scale.is_finite() {
        (Affine { offset, scale }, Spread::Some)
    } else {
        (Affine { offset, scale: 1.0 }, Spread::Constant)
    }
}

/// Mean and population deviation, in two passes: one pass of squares loses the digits of a series
/// that lies far from zero.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let (sum, count) = values.clone().fold((0.0, 0u64), |(s, n), v| (s + v, n + 1));
    if count == 0 {
        return (0.0, 0.0);
    }
    let mean = sum / count as f64;
    let squares: f64 = values.map(|v| (v - mean) * (v - mean)).sum();
    (mean, libm::sqrt(squares / count as f64))
}
