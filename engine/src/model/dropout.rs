//! Dropout from our own streams. libtorch has one generator per process and its state cannot be
//! saved; masks that depend on (seed, rank, step, micro-step) alone need neither. They are cheaper
//! too: 0.35 ms instead of 1.05 ms of an 11 ms step (2 LSTM layers, hidden 64, 32 windows of 50).

use tch::{Kind, Tensor};

use crate::rng::Stream;

use super::{Error, Pass};

pub(super) struct Dropout {
    /// None while evaluating.
    stream: Option<Stream>,
    /// One allocation for all the masks of a pass.
    bits: Vec<u32>,
}

impl Dropout {
    pub(super) fn new(pass: Pass) -> Self {
        let stream = match pass {
            Pass::Evaluate => None,
            Pass::Train(stream) => Some(stream),
        };
        Self { stream, bits: Vec::new() }
    }

    /// Zeroes each value with probability `rate` and scales the others, so that the mean stays.
    pub(super) fn apply(&mut self, x: Tensor, rate: f64) -> Result<Tensor, Error> {
        let Some(stream) = self.stream.as_mut().filter(|_| rate > 0.0) else {
            return Ok(x);
        };
        self.bits.resize(x.numel(), 0);
        stream.fill(&mut self.bits);
        to_mask(&mut self.bits, rate);
        Tensor::f_from_data_size(bytemuck::cast_slice(&self.bits), &x.size(), Kind::Float)
            .and_then(|mask| x.f_mul(&mask))
            .map_err(|source| Error::torch("apply dropout", source))
    }
}

/// Turns random bits into the bits of fp32 factors: 0 with probability `rate`, else 1/(1 - rate).
fn to_mask(bits: &mut [u32], rate: f64) {
    let dropped_below = (rate * (1u64 << 32) as f64) as u32;
    let kept = ((1.0 / (1.0 - rate)) as f32).to_bits();
    for value in bits {
        *value = if *value < dropped_below { 0 } else { kept };
    }
}
