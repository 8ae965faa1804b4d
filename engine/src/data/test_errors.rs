//! Errors on the test part in the data's own units, beside the naive last value.

use tch::{Kind, Tensor};

use super::{Error, Samples};

/// Sums of the errors of predictions in the data's own units. Each rank adds its share of the test
/// part; the sums are reduced as an array, then divided.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TestErrors {
    /// Predicted values (samples × outputs).
    values: f64,
    absolute: f64,
    squared: f64,
    /// Of predicting the window's last value.
    naive_absolute: f64,
}

impl TestErrors {
    pub const LEN: usize = 4;

    /// Adds the predictions `y_bo` (as the model gives them) for these samples.
    pub fn add(&mut self, samples: &Samples, indices: &[u32], y_bo: &Tensor) -> Result<(), Error> {
        let outputs = match indices.first() {
            Some(&index) => samples.truth(index)?.future.len(),
            None => return Ok(()),
        };
        let expected = [indices.len() as i64, outputs as i64];
        if y_bo.size() != expected {
            return Err(Error::PredictionShape { found: y_bo.size(), expected });
        }
        let mut predicted = vec![0.0f64; indices.len() * outputs];
        let copied = y_bo.f_to_kind(Kind::Double).and_then(|y| y.f_contiguous()).and_then(|y| {
            let len = predicted.len();
            y.f_copy_data(&mut predicted, len)
        });
        copied.map_err(|source| Error::Torch { operation: "read predictions", source })?;
        for (&index, predicted) in indices.iter().zip(predicted.chunks_exact(outputs)) {
            let truth = samples.truth(index)?;
            for (i, (&output, &actual)) in predicted.iter().zip(truth.future).enumerate() {
                let target = i % truth.last.len();
                let error = truth.predicted(target, output) - actual;
                self.values += 1.0;
                self.absolute += error.abs();
                self.squared += error * error;
                self.naive_absolute += (truth.last[target] - actual).abs();
            }
        }
        Ok(())
    }

    pub fn to_array(self) -> [f64; Self::LEN] {
        [self.values, self.absolute, self.squared, self.naive_absolute]
    }

    pub fn from_array([values, absolute, squared, naive_absolute]: [f64; Self::LEN]) -> Self {
        Self { values, absolute, squared, naive_absolute }
    }

    /// Mean absolute error; NaN before the first prediction.
    pub fn mae(self) -> f64 {
        self.absolute / self.values
    }

    /// Root of the mean squared error.
    pub fn rmse(self) -> f64 {
        libm::sqrt(self.squared / self.values)
    }

    /// Mean absolute error of predicting each window's last value.
    pub fn naive_mae(self) -> f64 {
        self.naive_absolute / self.values
    }
}
