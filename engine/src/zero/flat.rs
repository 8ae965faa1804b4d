//! Flat memory that libtorch and our own loops share: the model's parameters are views of it.
//!
//! Promise: one contiguous tensor per buffer, aligned as libtorch allocates (64 bytes). On a CPU our
//! loops work in it. On a GPU libtorch does; or, where the host keeps what is updated, our loops work
//! in a copy there, and the tensor is what was published of that last. Here alone the three differ.
#![expect(unsafe_code, reason = "sees a tensor's memory as a slice")]

use std::slice::{from_raw_parts as slice, from_raw_parts_mut as slice_mut};

use common::spec::PrecisionKind;
use tch::{TchError, Tensor};

use crate::device::Device;
use crate::native::memory::uncounted;
use crate::native::{Error, device, unit};
use crate::numbers::{Numbers, NumbersMut, NumbersRef};
use crate::storage::{Part, PartMut, tensor_kind, upload};

/// A flat buffer. Its views alias it, so it is not `Sync` and stays on the training thread (A8).
#[derive(Debug)]
pub(crate) struct Flat {
    tensor: Tensor,
    /// The host's copy, where the tensor is not for our loops.
    mirror: Option<Mirror>,
    kind: PrecisionKind,
    len: usize,
    device: Device,
}

#[derive(Debug)]
struct Mirror {
    numbers: Numbers,
    /// It may have changed since it was published.
    is_news: bool,
}

impl Flat {
    pub(crate) fn zeros(kind: PrecisionKind, len: usize, on: Device) -> Result<Self, TchError> {
        let tensor = Tensor::f_zeros([len as i64], (tensor_kind(kind), on.tensors()))?;
        let mirror = || Mirror { numbers: Numbers::zeros(kind, len), is_news: false };
        Ok(Self { tensor, mirror: on.is_mirrored().then(mirror), kind, len, device: on })
    }

    /// What our loops have written becomes what the model sees.
    pub(crate) fn publish(&mut self) -> Result<(), TchError> {
        let Some(Mirror { numbers, is_news }) = &mut self.mirror else { return Ok(()) };
        // The leaves count their own changes, so autograd sees none.
        if std::mem::take(is_news) { upload(&self.tensor, numbers.as_ref()) } else { Ok(()) }
    }

    /// Gives the memory back; what was in it is lost. Views of it must not be used until it is
    /// [`Flat::restore`]d.
    pub(crate) fn free(&mut self) -> Result<(), Error> {
        // SAFETY: `&mut self` excludes slices of ours; units compute between `restore` and `free`.
        unsafe { self.resize(0) }
    }

    /// Memory again, with whatever is in it.
    pub(crate) fn restore(&mut self) -> Result<(), Error> {
        let bytes = self.len * self.tensor.kind().elt_size_in_bytes();
        // SAFETY: as above, and it is whole afterwards.
        unsafe { self.resize(bytes) }
    }

    /// # Safety
    /// As [`unit::resize_storage`].
    unsafe fn resize(&mut self, bytes: usize) -> Result<(), Error> {
        if self.device == Device::CPU {
            // SAFETY: forwarded from the caller.
            return uncounted(|| unsafe { unit::resize_storage(&self.tensor, bytes) });
        }
        if let Some(Mirror { numbers, is_news }) = &mut self.mirror {
            let len = if bytes == 0 { 0 } else { self.len };
            *numbers = Numbers::zeros(self.kind, len);
            *is_news = false;
        }
        // SAFETY: forwarded from the caller.
        uncounted(|| unsafe { device::reallocate_storage(&self.tensor, bytes) })
    }

    pub(crate) fn kind(&self) -> PrecisionKind {
        self.kind
    }

    /// Bytes of the host's copy.
    pub(crate) fn bytes_mirrored(&self) -> usize {
        self.mirror.as_ref().map_or(0, |mirror| mirror.numbers.bytes())
    }

    /// Bytes of memory that the tensor has at present.
    pub(crate) fn bytes_held(&self) -> usize {
        unit::storage_bytes(&self.tensor)
    }

    /// A tensor of shape `dims` over the elements from `offset` on.
    pub(crate) fn view(&self, offset: usize, dims: &[i64]) -> Result<Tensor, TchError> {
        let len: i64 = dims.iter().product();
        self.tensor.f_narrow(0, offset as i64, len)?.f_view(dims)
    }

    pub(crate) fn as_ref(&self) -> Part<'_> {
        if let Some(mirror) = &self.mirror {
            return Part::Host(mirror.numbers.as_ref());
        }
        if self.device.is_resident() {
            return Part::Device(self.tensor.shallow_clone());
        }
        let data = self.tensor.data_ptr();
        // SAFETY: a contiguous CPU tensor of `len` elements of `kind` that this value owns; with
        // its memory, else `data_ptr` panics.
        // libtorch writes to it only inside calls made by this thread, and none runs while the
        // slice lives: who holds it is not in libtorch.
        let numbers = unsafe {
            match self.kind {
                PrecisionKind::Fp32 => NumbersRef::Fp32(slice(data.cast(), self.len)),
                PrecisionKind::Bf16 => NumbersRef::Bf16(slice(data.cast(), self.len)),
                PrecisionKind::Fp16 => NumbersRef::Fp16(slice(data.cast(), self.len)),
            }
        };
        Part::Host(numbers)
    }

    pub(crate) fn as_mut(&mut self) -> PartMut<'_> {
        if let Some(Mirror { numbers, is_news }) = &mut self.mirror {
            *is_news = true;
            return PartMut::Host(numbers.as_mut());
        }
        if self.device.is_resident() {
            return PartMut::Device(self.tensor.shallow_clone());
        }
        let data = self.tensor.data_ptr();
        // SAFETY: as above; `&mut self` excludes other slices of ours.
        let numbers = unsafe {
            match self.kind {
                PrecisionKind::Fp32 => NumbersMut::Fp32(slice_mut(data.cast(), self.len)),
                PrecisionKind::Bf16 => NumbersMut::Bf16(slice_mut(data.cast(), self.len)),
                PrecisionKind::Fp16 => NumbersMut::Fp16(slice_mut(data.cast(), self.len)),
            }
        };
        PartMut::Host(numbers)
    }
}
