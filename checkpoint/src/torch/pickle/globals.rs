//! The names that a pickle may use. None of them is ever called: each has a fixed, harmless
//! meaning here.

use std::fmt;

use crate::torch::tensor::DType;

/// An allowed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    RebuildFromType,
    Size,
    Storage(DType),
    /// A class whose objects stay records of what they would be made of.
    Inert(&'static str),
    /// A name that is only passed on, such as a type of element.
    Word(&'static str),
}

/// Module, name, meaning.
const ALLOWED: &[(&str, &str, Global)] = &[
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch._tensor", "_rebuild_from_type_v2", Global::RebuildFromType),
    ("torch", "Size", Global::Size),
    ("torch", "Tensor", Global::Word("torch.Tensor")),
    ("torch.nn.parameter", "Parameter", Global::Word("torch.nn.parameter.Parameter")),
    ("torch", "FloatStorage", Global::Storage(DType::F32)),
    ("torch", "DoubleStorage", Global::Storage(DType::F64)),
    ("torch", "HalfStorage", Global::Storage(DType::F16)),
    ("torch", "BFloat16Storage", Global::Storage(DType::Bf16)),
    ("torch", "LongStorage", Global::Storage(DType::I64)),
    ("torch", "IntStorage", Global::Storage(DType::I32)),
    ("torch", "ShortStorage", Global::Storage(DType::I16)),
    ("torch", "CharStorage", Global::Storage(DType::I8)),
    ("torch", "ByteStorage", Global::Storage(DType::U8)),
    ("torch", "BoolStorage", Global::Storage(DType::Bool)),
    ("torch", "float32", Global::Word("torch.float32")),
    ("torch", "float16", Global::Word("torch.float16")),
    ("torch", "bfloat16", Global::Word("torch.bfloat16")),
    ("torch", "device", Global::Inert("torch.device")),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler", Global::Inert("LossScaler")),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler", Global::Inert("DynamicLossScaler")),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum", Global::Inert("ZeroStageEnum")),
    ("deepspeed.utils.tensor_fragment", "fragment_address", Global::Inert("fragment_address")),
];

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        let allowed = ALLOWED.iter().find(|(m, n, _)| (*m, *n) == (module, name));
        allowed.map(|(_, _, meaning)| *meaning)
    }
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = ALLOWED.iter().find(|(_, _, meaning)| meaning == self);
        match found {
            Some((module, name, _)) => write!(f, "{module}.{name}"),
            None => f.write_str("an allowed name"),
        }
    }
}
