//! Flat f32 memory that libtorch and our own loops share: the model's parameters are views of it.
//!
//! Promise: one contiguous CPU tensor per buffer, aligned as libtorch allocates (64 bytes).
//! Refusal: no device but the CPU.
#![expect(unsafe_code, reason = "sees a tensor's memory as a slice")]

use tch::{Device, Kind, TchError, Tensor};

/// A flat buffer. Its views alias it, so it is not `Sync` and stays on the training thread (A8).
#[derive(Debug)]
pub(crate) struct Flat {
    tensor: Tensor,
    len: usize,
}

impl Flat {
    pub(crate) fn zeros(len: usize) -> Result<Self, TchError> {
        let tensor = Tensor::f_zeros([len as i64], (Kind::Float, Device::Cpu))?;
        Ok(Self { tensor, len })
    }

    /// A tensor of shape `dims` over the elements from `offset` on.
    pub(crate) fn view(&self, offset: usize, dims: &[i64]) -> Result<Tensor, TchError> {
        let len: i64 = dims.iter().product();
        self.tensor.f_narrow(0, offset as i64, len)?.f_view(dims)
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: a contiguous f32 CPU tensor of `len` elements that this value owns. libtorch
        // writes to it only inside calls made by this thread, and none runs while the slice lives:
        // who holds it is not in libtorch.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above; `&mut self` excludes other slices of ours.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), self.len) }
    }
}
