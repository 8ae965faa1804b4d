//! Dropout from our own streams. libtorch has one generator per process and its state cannot be
//! saved; masks that depend on (seed, rank, step, micro-step, unit) alone need neither. They are cheaper
//! too: 0.35 ms instead of 1.05 ms of an 11 ms step (2 LSTM layers, hidden 64, 32 windows of 50).

use tch::{Kind, Tensor};

use super::{Error, UnitPass};

/// Zeroes each value with probability `rate` and scales the others, so that the mean stays; in an
/// evaluation nothing. A unit has one dropout at most: two would draw the same masks.
pub(super) fn dropout(x: &Tensor, rate: f64, pass: UnitPass) -> Result<Tensor, Error> {
    let Some(mut stream) = pass.dropout().filter(|_| rate > 0.0) else {
        return Ok(x.shallow_clone());
    };
    let mut bits = vec![0; x.numel()];
    stream.fill(&mut bits);
    to_mask(&mut bits, rate);
    Tensor::f_from_data_size(bytemuck::cast_slice(&bits), &x.size(), Kind::Float)
        .and_then(|mask: Tensor| mask.f_to_device(x.device()))
        .and_then(|mask| mask.f_to_kind(x.kind()))
        .and_then(|mask| x.f_mul(&mask))
        .map_err(|source| Error::torch("apply dropout", source))
}

/// Turns random bits into the bits of fp32 factors: 0 with probability `rate`, else 1/(1 - rate).
fn to_mask(bits: &mut [u32], rate: f64) {
    let dropped_below = (rate * (1u64 << 32) as f64) as u32;
    let kept = ((1.0 / (1.0 - rate)) as f32).to_bits();
    for value in bits {
        *value = if *value < dropped_below { 0 } else { kept };
    }
}
