//! Vectors as arrays: plain Rust that the compiler vectorises with whatever the target guarantees.

use super::{Kernel, LANES, Simd};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

/// Applies an operation lane by lane. A loop: the compiler turns it into vectors more readily than
/// `std::array::from_fn`.
macro_rules! lanes {
    ($a:ident $op:tt $b:ident) => {{
        let mut result = $a;
        for lane in 0..LANES {
            result[lane] = $a[lane] $op $b[lane];
        }
        result
    }};
}

impl Simd for Portable {
    type Vector = [f32; LANES];
    // Three rows are the twelve accumulators that fit beside their operands in SSE2's sixteen
    // registers of four floats.
    const ROWS: usize = 3;

    fn launch<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Vector {
        *from
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], value: Self::Vector) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes!(a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes!(a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes!(a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        lanes!(a / b)
    }

    // Two roundings: `f32::mul_add` is a call into libm where the target has no such instruction.
    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        self.sub(c, self.mul(a, b))
    }

    #[inline(always)]
    fn clamp(self, value: Self::Vector, bound: f32) -> Self::Vector {
        value.map(|lane| lane.clamp(-bound, bound))
    }

    #[inline(always)]
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector {
        // n plus the exponent's bias in nine bits, of which the highest is zero; the shift drops
        // the bits of `ROUND` itself.
        rounded.map(|lane| f32::from_bits(lane.to_bits().wrapping_add(127) << 23))
    }
}
