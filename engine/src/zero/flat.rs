//! Flat memory that libtorch and our own loops share: the model's parameters are views of it.
//!
//! Promise: one contiguous CPU tensor per buffer, aligned as libtorch allocates (64 bytes).
//! Refusal: no device but the CPU.
#![expect(unsafe_code, reason = "sees a tensor's memory as a slice")]

use std::slice::{from_raw_parts as slice, from_raw_parts_mut as slice_mut};

use common::spec::PrecisionKind;
use tch::{Device, Kind, TchError, Tensor};

use crate::native::memory::uncounted;
use crate::native::{Error, unit};
use crate::numbers::{NumbersMut, NumbersRef};

/// A flat buffer. Its views alias it, so it is not `Sync` and stays on the training thread (A8).
#[derive(Debug)]
pub(crate) struct Flat {
    tensor: Tensor,
    kind: PrecisionKind,
    len: usize,
}

impl Flat {
    pub(crate) fn zeros(kind: PrecisionKind, len: usize) -> Result<Self, TchError> {
        let tensor = Tensor::f_zeros([len as i64], (tensor_kind(kind), Device::Cpu))?;
        Ok(Self { tensor, kind, len })
    }

    /// Gives the memory back; what was in it is lost. Views of it must not be used until it is
    /// [`Flat::restore`]d.
    pub(crate) fn free(&mut self) -> Result<(), Error> {
        // SAFETY: `&mut self` excludes slices of ours; units compute between `restore` and `free`.
        uncounted(|| unsafe { unit::resize_storage(&self.tensor, 0) })
    }

    /// Memory again, with whatever is in it.
    pub(crate) fn restore(&mut self) -> Result<(), Error> {
        let bytes = self.len * self.tensor.kind().elt_size_in_bytes();
        // SAFETY: as above, and it is whole afterwards.
        uncounted(|| unsafe { unit::resize_storage(&self.tensor, bytes) })
    }

    pub(crate) fn kind(&self) -> PrecisionKind {
        self.kind
    }

    /// Bytes of memory that it has at present.
    pub(crate) fn bytes_held(&self) -> usize {
        unit::storage_bytes(&self.tensor)
    }

    /// A tensor of shape `dims` over the elements from `offset` on.
    pub(crate) fn view(&self, offset: usize, dims: &[i64]) -> Result<Tensor, TchError> {
        let len: i64 = dims.iter().product();
        self.tensor.f_narrow(0, offset as i64, len)?.f_view(dims)
    }

    pub(crate) fn as_ref(&self) -> NumbersRef<'_> {
        let data = self.tensor.data_ptr();
        // SAFETY: a contiguous CPU tensor of `len` elements of `kind` that this value owns; with
        // its memory, else `data_ptr` panics.
        // libtorch writes to it only inside calls made by this thread, and none runs while the
        // slice lives: who holds it is not in libtorch.
        unsafe {
            match self.kind {
                PrecisionKind::Fp32 => NumbersRef::Fp32(slice(data.cast(), self.len)),
                PrecisionKind::Bf16 => NumbersRef::Bf16(slice(data.cast(), self.len)),
                PrecisionKind::Fp16 => NumbersRef::Fp16(slice(data.cast(), self.len)),
            }
        }
    }

    pub(crate) fn as_mut(&mut self) -> NumbersMut<'_> {
        let data = self.tensor.data_ptr();
        // SAFETY: as above; `&mut self` excludes other slices of ours.
        unsafe {
            match self.kind {
                PrecisionKind::Fp32 => NumbersMut::Fp32(slice_mut(data.cast(), self.len)),
                PrecisionKind::Bf16 => NumbersMut::Bf16(slice_mut(data.cast(), self.len)),
                PrecisionKind::Fp16 => NumbersMut::Fp16(slice_mut(data.cast(), self.len)),
            }
        }
    }
}

/// libtorch's name of a precision.
pub(crate) fn tensor_kind(kind: PrecisionKind) -> Kind {
    match kind {
        PrecisionKind::Fp32 => Kind::Float,
        PrecisionKind::Bf16 => Kind::BFloat16,
        PrecisionKind::Fp16 => Kind::Half,
    }
}
