//! One part of a data set as samples, whatever a sample is.

use tch::Tensor;

use super::images::ImageSamples;
use super::windows::{SeriesSamples, Truth};
use super::{Error, Task};

/// Samples that are gathered into batches by their index; cheap to clone.
#[derive(Debug, Clone)]
pub enum Samples {
    Series(SeriesSamples),
    Images(ImageSamples),
}

impl Samples {
    /// At least 1.
    #[expect(clippy::len_without_is_empty, reason = "a part without samples is None")]
    pub fn len(&self) -> usize {
        match self {
            Self::Series(samples) => samples.len(),
            Self::Images(samples) => samples.len(),
        }
    }

    /// What is learnt of them.
    pub fn task(&self) -> Task {
        match self {
            Self::Series(_) => Task::Regression,
            Self::Images(_) => Task::Classification,
        }
    }

    /// Gathers samples, in the order of `indices`: `x_btf` and `y_bo` (fp32) of a series, `x_bchw`
    /// (fp32) and the classes `y_b` (i64) of images. On the CPU.
    pub fn batch(&self, indices: &[u32]) -> Result<(Tensor, Tensor), Error> {
        match self {
            Self::Series(samples) => samples.batch(indices),
            Self::Images(samples) => samples.batch(indices),
        }
    }

    /// All values of the part, in their order.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        match self {
            Self::Series(samples) => samples.hash(hasher),
            Self::Images(samples) => samples.hash(hasher),
        }
    }

    /// A sample in the data's own units; only series have such.
    pub(super) fn truth(&self, index: u32) -> Result<Truth<'_>, Error> {
        match self {
            Self::Series(samples) => samples.truth(index),
            Self::Images(_) => Err(Error::NoUnits),
        }
    }
}

/// Where a batch is gathered before it is a tensor.
pub(super) fn buffer<T>(samples: usize, each: usize) -> Result<Vec<T>, Error> {
    let values = samples.saturating_mul(each);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(values).map_err(|_| Error::OutOfMemory { samples, values })?;
    Ok(buffer)
}

pub(super) fn tensor<T: tch::kind::Element>(values: &[T], dims: &[i64]) -> Result<Tensor, Error> {
    Tensor::f_from_slice(values)
        .and_then(|flat: Tensor| flat.f_view(dims))
        .map_err(|source| Error::Torch { operation: "make a batch", source })
}
