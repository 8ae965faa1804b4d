//! Flat numbers in one of the three precisions: fp32, bf16, fp16.
//!
//! Promise: what is copied between two precisions rounds once, to nearest even, and not at all
//! towards a wider one; sums in 16 bits are made in fp32 and rounded once, as torch makes them.
//! Refusal: no tensors, no arithmetic beyond sums.

use std::ops::Range;

use common::spec::PrecisionKind;
use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

/// Elements converted at a time: both blocks of a sum stay in the first-level cache.
const BLOCK: usize = 1024;

/// Numbers that are owned.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    Fp32(Vec<f32>),
    Bf16(Vec<bf16>),
    Fp16(Vec<f16>),
}

/// Numbers that are borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NumbersRef<'a> {
    Fp32(&'a [f32]),
    Bf16(&'a [bf16]),
    Fp16(&'a [f16]),
}

/// Numbers that are borrowed for writing.
#[derive(Debug)]
pub(crate) enum NumbersMut<'a> {
    Fp32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    Fp16(&'a mut [f16]),
}

impl Numbers {
    pub(crate) fn zeros(kind: PrecisionKind, len: usize) -> Self {
        match kind {
            PrecisionKind::Fp32 => Self::Fp32(vec![0.0; len]),
            PrecisionKind::Bf16 => Self::Bf16(vec![bf16::ZERO; len]),
            PrecisionKind::Fp16 => Self::Fp16(vec![f16::ZERO; len]),
        }
    }

    /// Makes it `len` zeros and keeps its memory.
    pub(crate) fn reset(&mut self, len: usize) {
        match self {
            Self::Fp32(values) => refill(values, len, 0.0),
            Self::Bf16(values) => refill(values, len, bf16::ZERO),
            Self::Fp16(values) => refill(values, len, f16::ZERO),
        }
    }

    pub(crate) fn kind(&self) -> PrecisionKind {
        self.as_ref().kind()
    }

    pub(crate) fn len(&self) -> usize {
        self.as_ref().len()
    }

    /// Of memory, used or not.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Fp32(values) => values.capacity() * size_of::<f32>(),
            Self::Bf16(values) => values.capacity() * size_of::<bf16>(),
            Self::Fp16(values) => values.capacity() * size_of::<f16>(),
        }
    }

    pub(crate) fn as_ref(&self) -> NumbersRef<'_> {
        match self {
            Self::Fp32(values) => NumbersRef::Fp32(values),
            Self::Bf16(values) => NumbersRef::Bf16(values),
            Self::Fp16(values) => NumbersRef::Fp16(values),
        }
    }

    pub(crate) fn as_mut(&mut self) -> NumbersMut<'_> {
        match self {
            Self::Fp32(values) => NumbersMut::Fp32(values),
            Self::Bf16(values) => NumbersMut::Bf16(values),
            Self::Fp16(values) => NumbersMut::Fp16(values),
        }
    }
}

fn refill<T: Copy>(values: &mut Vec<T>, len: usize, value: T) {
    values.clear();
    values.resize(len, value);
}

impl<'a> NumbersRef<'a> {
    pub(crate) fn kind(self) -> PrecisionKind {
        match self {
            Self::Fp32(_) => PrecisionKind::Fp32,
            Self::Bf16(_) => PrecisionKind::Bf16,
            Self::Fp16(_) => PrecisionKind::Fp16,
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Self::Fp32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Fp16(values) => values.len(),
        }
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Fp32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
            Self::Fp16(values) => bytemuck::cast_slice(values),
        }
    }

    pub(crate) fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::Fp32(values) => Self::Fp32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
            Self::Fp16(values) => Self::Fp16(&values[range]),
        }
    }

    /// As fp32: itself where it is, else converted into `scratch`.
    pub(crate) fn widened<'b>(self, scratch: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        if let Self::Fp32(values) = self {
            return values;
        }
        scratch.resize(self.len(), 0.0);
        self.widen(scratch);
        scratch
    }

    pub(crate) fn to_numbers(self) -> Numbers {
        match self {
            Self::Fp32(values) => Numbers::Fp32(values.to_vec()),
            Self::Bf16(values) => Numbers::Bf16(values.to_vec()),
            Self::Fp16(values) => Numbers::Fp16(values.to_vec()),
        }
    }

    pub(crate) fn all_finite(self) -> bool {
        match self {
            Self::Fp32(values) => values.iter().all(|value| value.is_finite()),
            Self::Bf16(values) => values.iter().all(|value| value.is_finite()),
            Self::Fp16(values) => values.iter().all(|value| value.is_finite()),
        }
    }

    /// `out` is equally long.
    fn widen(self, out: &mut [f32]) {
        match self {
            Self::Fp32(values) => out.copy_from_slice(values),
            Self::Bf16(values) => values.convert_to_f32_slice(out),
            Self::Fp16(values) => values.convert_to_f32_slice(out),
        }
    }
}

impl<'a> NumbersMut<'a> {
    pub(crate) fn as_ref(&self) -> NumbersRef<'_> {
        match self {
            Self::Fp32(values) => NumbersRef::Fp32(values),
            Self::Bf16(values) => NumbersRef::Bf16(values),
            Self::Fp16(values) => NumbersRef::Fp16(values),
        }
    }

    pub(crate) fn bytes(self) -> &'a mut [u8] {
        match self {
            Self::Fp32(values) => bytemuck::cast_slice_mut(values),
            Self::Bf16(values) => bytemuck::cast_slice_mut(values),
            Self::Fp16(values) => bytemuck::cast_slice_mut(values),
        }
    }

    pub(crate) fn range(self, range: Range<usize>) -> Self {
        match self {
            Self::Fp32(values) => Self::Fp32(&mut values[range]),
            Self::Bf16(values) => Self::Bf16(&mut values[range]),
            Self::Fp16(values) => Self::Fp16(&mut values[range]),
        }
    }

    pub(crate) fn fill_zero(self) {
        self.bytes().fill(0);
    }

    /// Becomes `values`, which are equally many.
    pub(crate) fn copy_from(self, values: NumbersRef<'_>) {
        match (self, values) {
            (Self::Fp32(to), from) => from.widen(to),
            (to, NumbersRef::Fp32(from)) => to.narrow(from),
            (Self::Bf16(to), NumbersRef::Bf16(from)) => to.copy_from_slice(from),
            (Self::Fp16(to), NumbersRef::Fp16(from)) => to.copy_from_slice(from),
            (to, from) => to.join(from, |_, value| value),
        }
    }

    /// Adds `values`, which are equally many.
    pub(crate) fn add(mut self, values: NumbersRef<'_>) {
        if let (Self::Fp32(to), NumbersRef::Fp32(from)) = (&mut self, values) {
            return to.iter_mut().zip(from).for_each(|(sum, value)| *sum += value);
        }
        self.join(values, |sum, value| sum + value);
    }

    /// Replaces every element by what `body` makes, in fp32, of it and its partner in `values`.
    fn join(mut self, values: NumbersRef<'_>, body: impl Fn(f32, f32) -> f32) {
        assert_eq!(self.as_ref().len(), values.len(), "partners are equally many");
        let (mut own, mut other) = ([0.0; BLOCK], [0.0; BLOCK]);
        for start in (0..values.len()).step_by(BLOCK) {
            let range = start..values.len().min(start + BLOCK);
            let (own, other) = (&mut own[..range.len()], &mut other[..range.len()]);
            self.as_ref().range(range.clone()).widen(own);
            values.range(range.clone()).widen(other);
            own.iter_mut().zip(other).for_each(|(own, other)| *own = body(*own, *other));
            self.reborrow().range(range).narrow(own);
        }
    }

    fn reborrow(&mut self) -> NumbersMut<'_> {
        match self {
            Self::Fp32(values) => NumbersMut::Fp32(values),
            Self::Bf16(values) => NumbersMut::Bf16(values),
            Self::Fp16(values) => NumbersMut::Fp16(values),
        }
    }

    fn narrow(self, values: &[f32]) {
        match self {
            Self::Fp32(to) => to.copy_from_slice(values),
            Self::Bf16(to) => to.convert_from_f32_slice(values),
            Self::Fp16(to) => to.convert_from_f32_slice(values),
        }
    }
}

#[cfg(test)]
mod tests;
