//! Where a rank computes: on the CPU, or on one GPU.
//!
//! On a GPU the model's parameters, buffers, batches and activations are there, and forward and
//! backward run there. Gradients come to the host as backward makes them; sums over ranks, masters,
//! optimizer states and the update are the host's, as with `offload_optimizer`; parameters go back
//! before they are used. So everything but the model itself is the same code, with the same bits in
//! the same order, on both.
//!
//! Promise: a GPU that cannot be used is a typed refusal before any training. Refusal: NCCL and
//! updates on the GPU; two GPUs in one rank.
//!
//! **Not yet run on a GPU**: what is tested is all of it but the device, with a second copy of the
//! parameters on the CPU in the GPU's place.

use tch::{Kind, Tensor};

use crate::native;

/// Where the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    tensors: tch::Device,
    /// The host keeps a copy of the parameters, which is the one that is updated.
    is_mirrored: bool,
}

/// Why a rank cannot compute on its GPU.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A libtorch for CPUs, or CUDA's libraries are missing.
    #[error(
        "this trainer's libtorch has no CUDA: {reason}; give the worker one that has: `make setup \
         DEVICE=cuda` installs it, `worker join --libtorch DIR` names it"
    )]
    NoCuda {
        /// What the loader says.
        reason: String,
    },
    /// No driver, no such GPU, one that is in use for itself alone.
    #[error("GPU {index} cannot be used: {reason}")]
    Unusable {
        /// Its number among those that this process sees.
        index: u32,
        /// What libtorch says.
        reason: String,
    },
}

impl Device {
    /// The host's processors.
    pub const CPU: Self = Self { tensors: tch::Device::Cpu, is_mirrored: false };

    /// A GPU, by its number among those that `CUDA_VISIBLE_DEVICES` lets this process see. Loads
    /// CUDA and makes a first tensor there, so that a missing driver is known now.
    pub fn cuda(index: u32) -> Result<Self, DeviceError> {
        native::device::load_cuda().map_err(|reason| DeviceError::NoCuda { reason })?;
        let unusable = |reason| DeviceError::Unusable { index, reason };
        let Ok(number) = i8::try_from(index) else {
            return Err(unusable("libtorch counts GPUs to 127".to_owned()));
        };
        let tensors = tch::Device::Cuda(index as usize);
        let first = Tensor::f_zeros([1], (Kind::Float, tensors));
        drop(first.map_err(|error| unusable(crate::error::chain(&error)))?);
        native::device::enter_cuda(number)
            .map_err(|error| unusable(crate::error::chain(&error)))?;
        Ok(Self { tensors, is_mirrored: true })
    }

    /// The CPU in a GPU's place.
    #[cfg(test)]
    pub(crate) const MIRRORED: Self = Self { tensors: tch::Device::Cpu, is_mirrored: true };

    /// Is called by the training thread before it makes a tensor.
    pub(crate) fn enter(self) -> Result<(), crate::Error> {
        match self.tensors {
            // Within libtorch's count: `cuda` has checked.
            tch::Device::Cuda(index) => Ok(native::device::enter_cuda(index as i8)?),
            _ => Ok(()),
        }
    }

    pub(crate) fn tensors(self) -> tch::Device {
        self.tensors
    }

    pub(crate) fn is_gpu(self) -> bool {
        self.tensors != tch::Device::Cpu
    }

    pub(crate) fn is_mirrored(self) -> bool {
        self.is_mirrored
    }
}
