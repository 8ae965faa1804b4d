//! What can be wrong with a call.

use super::Shape;

/// A call that cannot be carried out; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("LSTM of {name} {size}: expected 1 to {limit}")]
    Size { name: &'static str, size: usize, limit: usize },
    #[error("LSTM of {shape:?} needs buffers of more than {limit} floats")]
    TooLarge { shape: Shape, limit: usize },
    #[error("{name} of an LSTM has {found} floats: expected {expected}")]
    Length { name: &'static str, found: usize, expected: usize },
    #[error("rows of {name} of an LSTM are {stride} floats apart: expected {width} to {limit}")]
    Stride { name: &'static str, stride: usize, width: usize, limit: usize },
    #[error("{name} of an LSTM has {length} floats: too few for {count} rows {stride} apart")]
    TooFewRows { name: &'static str, length: usize, count: usize, stride: usize },
}
