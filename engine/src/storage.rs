//! Flat numbers in the memory of the host, where our own loops work on them, or of the device that
//! the model is on, where libtorch does.
//!
//! Promise: the same operations with the same bits on both, rounding as [`crate::numbers`] says; a copy
//! from one to the other changes none. Refusal: adds nothing across the two.

use std::ops::Range;

use common::spec::PrecisionKind;
use tch::{TchError, Tensor};

use crate::device::Device;
use crate::numbers::{Numbers, NumbersMut, NumbersRef};

mod on_device;
mod squares;

pub(crate) use on_device::{DeviceNumbers, download, precision_kind, tensor_kind, upload};
pub(crate) use squares::Squares;

/// Numbers that are owned.
#[derive(Debug)]
pub(crate) enum Storage {
    Host(Numbers),
    Device(DeviceNumbers),
}

/// Numbers that are read.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    Host(NumbersRef<'a>),
    /// Flat and dense.
    Device(Tensor),
}

/// Numbers that are written.
#[derive(Debug)]
pub(crate) enum PartMut<'a> {
    Host(NumbersMut<'a>),
    /// Flat and dense; another handle of what is written.
    Device(Tensor),
}

impl Storage {
    /// Where what is updated lives.
    pub(crate) fn zeros(kind: PrecisionKind, len: usize, on: Device) -> Result<Self, TchError> {
        match on.is_resident() {
            true => DeviceNumbers::zeros(kind, len, on.tensors()).map(Self::Device),
            false => Ok(Self::Host(Numbers::zeros(kind, len))),
        }
    }

    /// Makes it `len` zeros and keeps its memory where that is enough.
    pub(crate) fn reset(&mut self, len: usize) -> Result<(), TchError> {
        match self {
            Self::Host(numbers) => {
                numbers.reset(len);
                Ok(())
            }
            Self::Device(numbers) => numbers.reset(len),
        }
    }

    pub(crate) fn kind(&self) -> PrecisionKind {
        match self {
            Self::Host(numbers) => numbers.kind(),
            Self::Device(numbers) => numbers.kind(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(numbers) => numbers.len(),
            Self::Device(numbers) => numbers.len(),
        }
    }

    /// Of memory, used or not.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Host(numbers) => numbers.bytes(),
            Self::Device(numbers) => numbers.bytes(),
        }
    }

    pub(crate) fn as_ref(&self) -> Part<'_> {
        match self {
            Self::Host(numbers) => Part::Host(numbers.as_ref()),
            Self::Device(numbers) => Part::Device(numbers.tensor()),
        }
    }

    pub(crate) fn as_mut(&mut self) -> PartMut<'_> {
        match self {
            Self::Host(numbers) => PartMut::Host(numbers.as_mut()),
            Self::Device(numbers) => PartMut::Device(numbers.tensor()),
        }
    }
}

impl Part<'_> {
    pub(crate) fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(numbers) => Self::Host(numbers.range(range)),
            Self::Device(tensor) => Self::Device(on_device::range(&tensor, range)),
        }
    }

    pub(crate) fn all_finite(&self) -> Result<bool, TchError> {
        match self {
            Self::Host(numbers) => Ok(numbers.all_finite()),
            Self::Device(tensor) => on_device::all_finite(tensor),
        }
    }

    /// Shows them in fp32, in the host's memory.
    pub(crate) fn show<T>(self, take: impl FnOnce(&[f32]) -> T) -> Result<T, TchError> {
        match self {
            Self::Host(numbers) => Ok(take(numbers.widened(&mut Vec::new()))),
            Self::Device(tensor) => {
                let mut values = vec![0.0; tensor.numel()];
                download(&tensor, NumbersMut::Fp32(&mut values))?;
                Ok(take(&values))
            }
        }
    }

    /// A copy in the host's memory.
    pub(crate) fn to_numbers(&self) -> Result<Numbers, TchError> {
        match self {
            Self::Host(numbers) => Ok(numbers.to_numbers()),
            Self::Device(tensor) => {
                let kind = precision_kind(tensor);
                let mut numbers = Numbers::zeros(kind, tensor.numel());
                download(tensor, numbers.as_mut())?;
                Ok(numbers)
            }
        }
    }
}

impl PartMut<'_> {
    pub(crate) fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::Host(numbers) => Self::Host(numbers.range(range)),
            Self::Device(tensor) => Self::Device(on_device::range(&tensor, range)),
        }
    }

    pub(crate) fn fill_zero(self) -> Result<(), TchError> {
        match self {
            Self::Host(numbers) => {
                numbers.fill_zero();
                Ok(())
            }
            Self::Device(mut tensor) => tensor.f_zero_().map(drop),
        }
    }

    /// Becomes `values`, which are equally many.
    pub(crate) fn copy_from(self, values: Part<'_>) -> Result<(), TchError> {
        match (self, values) {
            (Self::Host(to), Part::Host(from)) => {
                to.copy_from(from);
                Ok(())
            }
            (Self::Device(mut to), Part::Device(from)) => to.f_copy_(&from),
            (Self::Device(to), Part::Host(from)) => upload(&to, from),
            (Self::Host(to), Part::Device(from)) => download(&from, to),
        }
    }

    /// Exchanges them with equally many of the same precision.
    pub(crate) fn exchange(self, values: &mut Numbers) -> Result<(), TchError> {
        match self {
            Self::Host(numbers) => {
                numbers.bytes().swap_with_slice(values.as_mut().bytes());
                Ok(())
            }
            Self::Device(tensor) => {
                let news =
                    std::mem::replace(values, Part::Device(tensor.shallow_clone()).to_numbers()?);
                upload(&tensor, news.as_ref())
            }
        }
    }

    /// Adds `values`, which are equally many and in the same memory.
    pub(crate) fn add(self, values: Part<'_>) -> Result<(), TchError> {
        match (self, values) {
            (Self::Host(to), Part::Host(from)) => {
                to.add(from);
                Ok(())
            }
            (Self::Device(mut to), Part::Device(from)) => to.f_add_(&from).map(drop),
            _ => unreachable!("what is added up is in one memory"),
        }
    }
}

#[cfg(test)]
mod tests;
