//! Windows over a series that is kept once; batches are gathered, never materialised.

use std::ops::Range;
use std::sync::Arc;

use tch::Tensor;

use super::Error;
use super::samples::{buffer, tensor};
use super::scaling::Affine;

/// One part of a series as samples: sample i is the window that starts at the part's row i, and
/// the targets of the `horizon` rows after it. Cheap to clone: the series is shared.
#[derive(Debug, Clone)]
pub struct SeriesSamples {
    series: Arc<Series>,
    /// First row of the part.
    first: usize,
    len: usize,
}

/// A series, kept once for all its parts.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) inputs: Inputs,
    pub(super) columns: usize,
    /// Row-major, rows × targets, in their own units.
    pub(super) outputs: Vec<f64>,
    /// Per target; relative to the window's last value where `inputs` are.
    pub(super) target_scaling: Vec<Affine>,
    pub(super) window: usize,
    pub(super) horizon: usize,
}

/// Row-major, rows × columns.
#[derive(Debug)]
pub(super) enum Inputs {
    /// As the model sees them: a window is one copy.
    Ready(Vec<f32>),
    /// In their own units: each window is taken relative to its last row and divided by the
    /// column's scale. Kept in f64, because the difference of two large values is small.
    Relative { values: Vec<f64>, scales: Vec<f64> },
}

impl Series {
    pub(super) fn targets(&self) -> usize {
        self.target_scaling.len()
    }

    fn last_outputs(&self, start: usize) -> &[f64] {
        let row = start + self.window - 1;
        &self.outputs[row * self.targets()..(row + 1) * self.targets()]
    }

    fn future_outputs(&self, start: usize) -> &[f64] {
        let row = start + self.window;
        &self.outputs[row * self.targets()..(row + self.horizon) * self.targets()]
    }

    fn is_relative(&self) -> bool {
        matches!(self.inputs, Inputs::Relative { .. })
    }

    fn push_inputs(&self, start: usize, to: &mut Vec<f32>) {
        let window = start * self.columns..(start + self.window) * self.columns;
        match &self.inputs {
            Inputs::Ready(values) => to.extend_from_slice(&values[window]),
            Inputs::Relative { values, scales } => {
                let last = window.end - self.columns..window.end;
                let last = &values[last];
                for row in values[window].chunks_exact(self.columns) {
                    to.extend(
                        row.iter().zip(last).zip(scales).map(|((v, l), s)| ((v - l) / s) as f32),
                    );
                }
            }
        }
    }

    fn push_targets(&self, start: usize, to: &mut Vec<f32>) {
        let last = self.is_relative().then(|| self.last_outputs(start));
        for (i, &value) in self.future_outputs(start).iter().enumerate() {
            let target = i % self.targets();
            let base = last.map_or(0.0, |last| last[target]);
            to.push(self.target_scaling[target].apply(value - base) as f32);
        }
    }
}

/// One sample in the data's own units, for the errors of the test part.
pub(super) struct Truth<'a> {
    pub(super) last: &'a [f64],
    pub(super) future: &'a [f64],
    relative: bool,
    scaling: &'a [Affine],
}

impl Truth<'_> {
    /// A prediction of target `target` in the data's own units.
    pub(super) fn predicted(&self, target: usize, output: f64) -> f64 {
        let base = if self.relative { self.last[target] } else { 0.0 };
        base + self.scaling[target].invert(output)
    }
}

impl SeriesSamples {
    /// The samples within `rows`; None if not one fits.
    pub(super) fn of(series: &Arc<Series>, rows: Range<usize>) -> Option<Self> {
        let len = (rows.len() + 1).checked_sub(series.window + series.horizon)?;
        (len > 0).then(|| Self { series: Arc::clone(series), first: rows.start, len })
    }

    /// At least 1.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gathers samples, in the order of `indices`, into `x_btf` and `y_bo` (fp32, CPU).
    pub(super) fn batch(&self, indices: &[u32]) -> Result<(Tensor, Tensor), Error> {
        let series = &*self.series;
        let output_features = series.horizon * series.targets();
        let mut inputs = buffer(indices.len(), series.window * series.columns)?;
        let mut outputs = buffer(indices.len(), output_features)?;
        for &index in indices {
            let start = self.start(index)?;
            series.push_inputs(start, &mut inputs);
            series.push_targets(start, &mut outputs);
        }
        let batch = indices.len() as i64;
        let x_btf = tensor(&inputs, &[batch, series.window as i64, series.columns as i64])?;
        let y_bo = tensor(&outputs, &[batch, output_features as i64])?;
        Ok((x_btf, y_bo))
    }

    /// All values of the part's rows, in their order.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        let series = &*self.series;
        let rows = self.first..self.first + self.len + series.window + series.horizon - 1;
        let inputs = rows.start * series.columns..rows.end * series.columns;
        match &series.inputs {
            Inputs::Ready(values) => hasher.update(bytemuck::cast_slice(&values[inputs])),
            Inputs::Relative { values, .. } => hasher.update(bytemuck::cast_slice(&values[inputs])),
        };
        let outputs = rows.start * series.targets()..rows.end * series.targets();
        hasher.update(bytemuck::cast_slice(&series.outputs[outputs]));
    }

    pub(super) fn truth(&self, index: u32) -> Result<Truth<'_>, Error> {
        let start = self.start(index)?;
        let series = &*self.series;
        Ok(Truth {
            last: series.last_outputs(start),
            future: series.future_outputs(start),
            relative: series.is_relative(),
            scaling: &series.target_scaling,
        })
    }

    /// The row at which a sample's window starts.
    fn start(&self, index: u32) -> Result<usize, Error> {
        if (index as usize) < self.len {
            Ok(self.first + index as usize)
        } else {
            Err(Error::NoSuchSample { index, len: self.len })
        }
    }
}
