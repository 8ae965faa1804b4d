//! Flat numbers in the memory of a device, by libtorch's operations.

use std::ops::Range;

use common::spec::PrecisionKind;
use tch::{Kind, TchError, Tensor};

use crate::native::memory::uncounted;
use crate::numbers::{NumbersMut, NumbersRef};

/// Numbers that are owned. They are kept and no activations, so neither their memory's coming nor its
/// going is counted as such.
#[derive(Debug)]
pub(crate) struct DeviceNumbers {
    /// All of its memory; the numbers are the first `len` elements.
    room: Tensor,
    len: usize,
}

impl DeviceNumbers {
    pub(super) fn zeros(
        kind: PrecisionKind,
        len: usize,
        device: tch::Device,
    ) -> Result<Self, TchError> {
        let room = uncounted(|| Tensor::f_zeros([len as i64], (tensor_kind(kind), device)))?;
        Ok(Self { room, len })
    }

    pub(super) fn reset(&mut self, len: usize) -> Result<(), TchError> {
        if len > self.room.numel() {
            *self = Self::zeros(self.kind(), len, self.room.device())?;
            return Ok(());
        }
        self.len = len;
        self.tensor().f_zero_().map(drop)
    }

    pub(super) fn kind(&self) -> PrecisionKind {
        precision_kind(&self.room)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.room.numel() * self.room.kind().elt_size_in_bytes()
    }

    /// Another handle of the numbers.
    pub(crate) fn tensor(&self) -> Tensor {
        range(&self.room, 0..self.len)
    }
}

impl Drop for DeviceNumbers {
    fn drop(&mut self) {
        let room = std::mem::replace(&mut self.room, Tensor::new());
        uncounted(|| drop(room));
    }
}

/// Another handle of some of the numbers of a flat tensor.
pub(super) fn range(tensor: &Tensor, range: Range<usize>) -> Tensor {
    tensor.narrow(0, range.start as i64, range.len() as i64)
}

pub(super) fn all_finite(tensor: &Tensor) -> Result<bool, TchError> {
    tensor.f_isfinite()?.f_all()?.f_int64_value(&[]).map(|all| all != 0)
}

/// Copies numbers of the host to equally many of a device.
pub(crate) fn upload(to: &Tensor, from: NumbersRef<'_>) -> Result<(), TchError> {
    let len = [from.len() as i64];
    let from =
        uncounted(|| Tensor::f_from_data_size(from.bytes(), &len, tensor_kind(from.kind())))?;
    let copied = to.shallow_clone().f_copy_(&from);
    uncounted(|| drop(from));
    copied
}

/// Copies numbers of a device to equally many of the host.
pub(crate) fn download(from: &Tensor, to: NumbersMut<'_>) -> Result<(), TchError> {
    let kind = tensor_kind(to.as_ref().kind());
    from.f_to_kind(kind)?.f_copy_data_u8(to.bytes(), from.numel())
}

/// libtorch's name of a precision.
pub(crate) fn tensor_kind(kind: PrecisionKind) -> Kind {
    match kind {
        PrecisionKind::Fp32 => Kind::Float,
        PrecisionKind::Bf16 => Kind::BFloat16,
        PrecisionKind::Fp16 => Kind::Half,
    }
}

/// Our name of what [`tensor_kind`] names.
pub(crate) fn precision_kind(tensor: &Tensor) -> PrecisionKind {
    match tensor.kind() {
        Kind::BFloat16 => PrecisionKind::Bf16,
        Kind::Half => PrecisionKind::Fp16,
        _ => PrecisionKind::Fp32,
    }
}
