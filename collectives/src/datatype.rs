//! The element types and reductions that travel with every operation's header.
//!
//! Knows sizes and names; the arithmetic is `reduce`'s.

use std::fmt;

/// The element type of a buffer, in native byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// bfloat16; reductions accumulate in f32 and round once.
    Bf16,
    /// IEEE 754 binary16; reductions accumulate in f32 and round once.
    F16,
    /// Signed 64-bit integers; sums wrap, means truncate towards zero.
    I64,
    /// Bytes; sums wrap, means accumulate wide and truncate.
    U8,
}

impl DataType {
    /// Every type, for tables and tests.
    pub const ALL: [Self; 6] = [Self::F32, Self::F64, Self::Bf16, Self::F16, Self::I64, Self::U8];

    /// Bytes in one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::I64 => "i64",
            Self::U8 => "u8",
        })
    }
}

/// How the ranks' elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// x0 + x1 + ... in rank order.
    Sum,
    /// The sum in rank order, divided once by the world size.
    Mean,
    /// The largest; NaN if any element is NaN.
    Max,
    /// The smallest; NaN if any element is NaN.
    Min,
}

impl ReduceOp {
    /// Every reduction, for tables and tests.
    pub const ALL: [Self; 4] = [Self::Sum, Self::Mean, Self::Max, Self::Min];

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.code() == code)
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Min => "min",
        })
    }
}
