//! Where a rank computes: on the CPU, or on one GPU.
//!
//! On a GPU the model's parameters, buffers, batches and activations are there, and forward and
//! backward run there. What is updated is there too (it is *resident*): gradients, masters, optimizer
//! states and the update; sums over ranks are NCCL's, or go through the host's memory. With
//! `offload_optimizer` it is the host's instead (the parameters are *mirrored*): gradients come to the
//! host as backward makes them, sums and the update are the host's with the same bits as on CPUs, and
//! parameters go back before they are used.
//!
//! Promise: a GPU that cannot be used is a typed refusal before any training. Refusal: two GPUs in one
//! rank.
//!
//! **Not yet run on a GPU**: what is tested is all of it but the device, with the CPU in its place.

use common::spec::JobSpec;
use tch::{Kind, Tensor};

use crate::native;

/// Where the model is, and where what is updated is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    tensors: tch::Device,
    state: StatePlace,
}

/// Where parameters are updated, with their gradients and optimizer states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatePlace {
    /// In the memory that the model computes in, by our own loops.
    Host,
    /// In a copy that the host keeps.
    Mirrored,
    /// In the memory that the model computes in, by libtorch's operations.
    Resident,
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
    pub const CPU: Self = Self { tensors: tch::Device::Cpu, state: StatePlace::Host };

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
        Ok(Self { tensors, state: StatePlace::Resident })
    }

    /// The CPU in the place of a GPU that the optimizer is offloaded from.
    #[cfg(test)]
    pub(crate) const MIRRORED: Self =
        Self { tensors: tch::Device::Cpu, state: StatePlace::Mirrored };

    /// The CPU in a GPU's place.
    #[cfg(test)]
    pub(crate) const RESIDENT: Self =
        Self { tensors: tch::Device::Cpu, state: StatePlace::Resident };

    /// Is called by each thread that makes tensors on it, or lets NCCL use it, before it does.
    pub fn enter(self) -> Result<(), crate::Error> {
        match self.tensors {
            // Within libtorch's count: `cuda` has checked.
            tch::Device::Cuda(index) => Ok(native::device::enter_cuda(index as i8)?),
            _ => Ok(()),
        }
    }

    /// As the job wants it: what a GPU does not keep the host does.
    #[must_use]
    pub fn of_job(self, spec: &JobSpec) -> Self {
        match self.state {
            StatePlace::Resident if spec.zero.offload_optimizer.is_some() => {
                Self { state: StatePlace::Mirrored, ..self }
            }
            _ => self,
        }
    }

    pub(crate) fn tensors(self) -> tch::Device {
        self.tensors
    }

    pub(crate) fn is_gpu(self) -> bool {
        self.tensors != tch::Device::Cpu
    }

    /// Of a GPU's memory, where it keeps what is updated and tells.
    pub(crate) fn free_bytes(self) -> Option<u64> {
        match self.tensors {
            // Without an answer there is nothing to warn of.
            tch::Device::Cuda(index) if self.is_resident() => {
                native::device::free_bytes(index as i8).ok()
            }
            _ => None,
        }
    }

    pub(crate) fn is_mirrored(self) -> bool {
        self.state == StatePlace::Mirrored
    }

    /// Gradients and optimizer states are with the model, on a GPU.
    pub fn is_resident(self) -> bool {
        self.state == StatePlace::Resident
    }
}
