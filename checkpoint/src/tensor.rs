//! What a slice of a tensor is: whose, of which tensor, from where to where.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Longer names are no torch names; the limit keeps foreign headers from flooding a terminal.
const MAX_NAME_LEN: usize = 512;

/// What a slice belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorKind {
    /// A weight, under torch's name.
    Parameter,
    /// An optimizer's state of the parameter with the same name, under torch's word for it: the
    /// mean of its gradients (Adam and kin, Lion),
    ExpAvg,
    /// of their squares (Adam and kin),
    ExpAvgSq,
    /// the velocity (SGD, RMSprop),
    MomentumBuffer,
    /// the sum of the squares (Adagrad),
    Sum,
    /// the mean of the squares (RMSprop),
    SquareAvg,
    /// and the mean (centered RMSprop).
    GradAvg,
    /// State of the model that is not trained.
    Buffer,
    /// The parameter's weight at the best validation, where that is not the present one.
    Best,
}

impl TensorKind {
    /// Every kind that an optimizer keeps.
    pub const OPTIMIZER_STATES: [Self; 6] = [
        Self::ExpAvg,
        Self::ExpAvgSq,
        Self::MomentumBuffer,
        Self::Sum,
        Self::SquareAvg,
        Self::GradAvg,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parameter => "parameter",
            Self::ExpAvg => "exp_avg",
            Self::ExpAvgSq => "exp_avg_sq",
            Self::MomentumBuffer => "momentum_buffer",
            Self::Sum => "sum",
            Self::SquareAvg => "square_avg",
            Self::GradAvg => "grad_avg",
            Self::Buffer => "buffer",
            Self::Best => "best",
        }
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The element types that a shard may hold, under safetensors' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DataType {
    /// Bytes of one element.
    pub fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    pub(crate) fn to_safetensors(self) -> safetensors::Dtype {
        use safetensors::Dtype;
        match self {
            Self::F64 => Dtype::F64,
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
            Self::I64 => Dtype::I64,
            Self::I32 => Dtype::I32,
            Self::I16 => Dtype::I16,
            Self::I8 => Dtype::I8,
            Self::U8 => Dtype::U8,
            Self::Bool => Dtype::BOOL,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_safetensors().fmt(f)
    }
}

/// A run of consecutive elements of one tensor, flattened in C order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceMeta {
    pub name: String,
    pub kind: TensorKind,
    pub dtype: DataType,
    /// Of the whole tensor; `[]` is a scalar.
    pub global_shape: Vec<u64>,
    /// First element.
    pub offset: u64,
    /// Number of elements.
    pub len: u64,
}

/// A slice that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SliceProblem {
    #[error("a tensor's name must be 1 to {MAX_NAME_LEN} printable characters, not {name:?}")]
    Name { name: String },
    #[error("shape {shape:?} of `{name}` has more bytes than a file can hold")]
    Shape { name: String, shape: Vec<u64> },
    #[error("elements {offset} and {len} more leave `{name}`, which has {elements}")]
    Range { name: String, offset: u64, len: u64, elements: u64 },
    #[error("a slice of {expected} bytes of `{name}` came with {found} bytes")]
    Bytes { name: String, expected: u64, found: u64 },
    #[error("slice `{key}` is there twice")]
    Twice { key: String },
    #[error("its slices need a header of {found} bytes; the limit is {limit}")]
    Header { found: u64, limit: u64 },
}

impl SliceMeta {
    /// Elements of the whole tensor.
    pub fn elements(&self) -> Result<u64, SliceProblem> {
        elements(&self.global_shape, self.dtype).ok_or_else(|| SliceProblem::Shape {
            name: self.name.clone(),
            shape: self.global_shape.clone(),
        })
    }

    /// Element range in the flattened tensor; valid once [`SliceMeta::check`] passed.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }

    /// Bytes of the slice; valid once [`SliceMeta::check`] passed.
    pub fn bytes(&self) -> u64 {
        self.len.saturating_mul(self.dtype.size())
    }

    /// Refuses what no tensor can have; after it no arithmetic on the slice overflows.
    pub fn check(&self) -> Result<(), SliceProblem> {
        check_name(&self.name)?;
        let elements = self.elements()?;
        match self.offset.checked_add(self.len) {
            Some(end) if end <= elements => Ok(()),
            _ => Err(SliceProblem::Range {
                name: self.name.clone(),
                offset: self.offset,
                len: self.len,
                elements,
            }),
        }
    }

    fn is_whole(&self) -> bool {
        self.offset == 0 && self.elements() == Ok(self.len)
    }

    /// The slice's name inside a shard: unique there, and readable with any safetensors tool.
    pub(crate) fn key(&self) -> String {
        let Self { kind, name, offset, .. } = self;
        if self.is_whole() {
            format!("{kind}/{name}")
        } else {
            format!("{kind}/{name}[{offset}..{}]", self.range().end)
        }
    }

    /// The shape inside a shard: the tensor's own where the slice is all of it, else flat.
    pub(crate) fn shape_in_shard(&self) -> Vec<u64> {
        if self.is_whole() { self.global_shape.clone() } else { vec![self.len] }
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), SliceProblem> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_LEN;
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(SliceProblem::Name { name: name.chars().take(80).collect() })
}

/// Elements of a tensor whose bytes a file offset can still count.
fn elements(shape: &[u64], dtype: DataType) -> Option<u64> {
    let elements = shape.iter().try_fold(1_u64, |product, size| product.checked_mul(*size))?;
    let bytes = elements.checked_mul(dtype.size())?;
    i64::try_from(bytes).is_ok().then_some(elements)
}
