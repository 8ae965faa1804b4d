//! Hot CPU loops of recurrent layers, in pure Rust, with the instruction set chosen at run time.
//!
//! Promise: the same inputs and [`InstructionSet`] give the same bits, and a row of a batch gets
//! the same forward bits whatever the other rows are (A12); NaN and infinities come out where the
//! mathematics has them; outside input is checked before the first store. Refusal: no threads, no
//! tensors, no autograd and nothing of the other rooms; every buffer that outlives a call is the
//! caller's.

mod activation;
mod gemm;
mod scratch;
mod simd;

pub mod lstm;

pub use scratch::Scratch;
pub use simd::InstructionSet;
