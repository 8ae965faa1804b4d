//! Sigmoid and tanh to 3e-7 relative, several vectors at a time: one chain of some twenty
//! dependent operations would leave the CPU idle, and eight interleaved ones do not.
//!
//! Both come from `expm1`, which keeps tanh exact near zero. sigmoid(-inf) is 1.6e-38, not 0:
//! arguments are clamped to where the results are normal numbers.

use crate::simd::{ROUND, Simd};

/// Beyond this, sigmoid and tanh are 0, 1 or -1 in fp32, and powers of two would overflow.
const BOUND: f32 = 87.0;
/// ln 2 in two parts: the first has so few bits that its product with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Applies tanh where `IS_TANH` says so, else sigmoid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Sigmoid,
    Tanh,
}

/// Of each vector, the activation of the same index.
// Loops, not `map`: see `Kernel`.
#[inline(always)]
pub(crate) fn apply<S: Simd, const N: usize>(
    simd: S,
    of: [Activation; N],
    x: [S::Vector; N],
) -> [S::Vector; N] {
    let (one, two, minus_one) = (simd.splat(1.0), simd.splat(2.0), simd.splat(-1.0));
    // sigmoid(x) = 1 / (1 + exp(-x)) and tanh(x) = expm1(2x) / (expm1(2x) + 2).
    let mut exponent = x;
    for k in 0..N {
        let scale = if of[k] == Activation::Tanh { two } else { minus_one };
        exponent[k] = simd.clamp(simd.mul(x[k], scale), BOUND);
    }
    let (expm1, rounded) = reduced_expm1(simd, exponent);
    let mut found = x;
    for k in 0..N {
        let power = simd.power_of_two(rounded[k]);
        found[k] = match of[k] {
            Activation::Sigmoid => {
                simd.div(one, simd.mul_add(expm1[k], power, simd.add(power, one)))
            }
            Activation::Tanh => {
                let whole = simd.mul_add(expm1[k], power, simd.sub(power, one));
                simd.div(whole, simd.add(whole, two))
            }
        };
    }
    found
}

/// `(expm1(r), n + ROUND)` where `x = n ln 2 + r` and |r| <= ln 2 / 2. The polynomial is that of
/// Cephes' expf, evaluated as a tree.
#[inline(always)]
fn reduced_expm1<S: Simd, const N: usize>(
    simd: S,
    x: [S::Vector; N],
) -> ([S::Vector; N], [S::Vector; N]) {
    let (mut rounded, mut r, mut square, mut high, mut low) = (x, x, x, x, x);
    for k in 0..N {
        let log2_e = simd.splat(std::f32::consts::LOG2_E);
        rounded[k] = simd.mul_add(x[k], log2_e, simd.splat(ROUND));
    }
    for k in 0..N {
        let n = simd.sub(rounded[k], simd.splat(ROUND));
        r[k] = simd.neg_mul_add(n, simd.splat(LN_2_HIGH), x[k]);
        r[k] = simd.neg_mul_add(n, simd.splat(LN_2_LOW), r[k]);
    }
    for k in 0..N {
        square[k] = simd.mul(r[k], r[k]);
        high[k] = simd.mul_add(simd.splat(1.987_569_1e-4), r[k], simd.splat(1.398_199_9e-3));
        let middle = simd.mul_add(simd.splat(8.333_452e-3), r[k], simd.splat(4.166_579_6e-2));
        high[k] = simd.mul_add(high[k], square[k], middle);
    }
    for k in 0..N {
        low[k] = simd.mul_add(simd.splat(1.666_666_5e-1), r[k], simd.splat(0.5));
        low[k] = simd.mul_add(high[k], square[k], low[k]);
        r[k] = simd.mul_add(low[k], square[k], r[k]);
    }
    (r, rounded)
}

#[cfg(test)]
mod tests;
