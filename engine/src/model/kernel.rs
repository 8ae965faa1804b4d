//! Which code runs recurrent layers: libtorch's, or the `kernels` room's.
//!
//! The choice follows from the job and the CPU alone, so that equal machines give equal bits (A12).

use common::spec::{Model, RecurrentKernel};
use tch::{Device, Kind, Tensor};

use super::Error;
use super::recurrent::Cell;
use crate::native;

/// The code that runs a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Libtorch,
    /// Ours; weights that are not fp32 are an error.
    Native,
    /// Ours where the weights are fp32, else libtorch's.
    NativeIfFp32,
}

impl Kernel {
    /// Whether a layer with this input runs on ours.
    pub(super) fn is_native_for(self, x: &Tensor) -> bool {
        match self {
            Self::NativeIfFp32 if x.device() != Device::Cpu => false,
            _ => self.is_native_for_kind(x.kind()),
        }
    }

    /// Whether weights of this kind run on ours, on a CPU.
    fn is_native_for_kind(self, weights: Kind) -> bool {
        match self {
            Self::Libtorch => false,
            Self::Native => true,
            Self::NativeIfFp32 => weights == Kind::Float,
        }
    }
}

/// `auto` is ours where it was measured to be faster: LSTM layers on one thread of a CPU with AVX2 or
/// AVX-512. More threads libtorch uses all.
pub(super) fn choose(asked: RecurrentKernel, cell: Cell) -> Result<Kernel, Error> {
    match (asked, cell) {
        (RecurrentKernel::Libtorch, _) | (RecurrentKernel::Auto, Cell::Gru) => Ok(Kernel::Libtorch),
        (RecurrentKernel::Native, Cell::Lstm) => Ok(Kernel::Native),
        (RecurrentKernel::Native, Cell::Gru) => {
            Error::setting("model.kernel", "native", "libtorch or auto: only an LSTM has our own")
        }
        (RecurrentKernel::Auto, Cell::Lstm) => {
            let has_vectors = native::kernel_instructions().name() != "portable";
            let is_faster = has_vectors && tch::get_num_threads() == 1;
            Ok(if is_faster { Kernel::NativeIfFp32 } else { Kernel::Libtorch })
        }
    }
}

/// What decides the bits besides the job (A12): libtorch's instruction set, and that of our kernel
/// where layers with weights of this kind run on it.
pub(crate) fn instruction_set(model: &Model, weights: Kind) -> Result<String, Error> {
    let kernel = match model {
        Model::Lstm(recurrent) => choose(recurrent.kernel, Cell::Lstm)?,
        Model::Gru(recurrent) => choose(recurrent.kernel, Cell::Gru)?,
        Model::Cnn(_) => Kernel::Libtorch,
    };
    let libtorchs = native::cpu_capability()?;
    Ok(if kernel.is_native_for_kind(weights) {
        format!("{libtorchs}, lstm kernel {}", native::kernel_instructions().name())
    } else {
        libtorchs
    })
}
