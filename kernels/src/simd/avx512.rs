//! AVX-512: a vector is one register of sixteen floats, and there are thirty-two of them.
#![expect(unsafe_code, reason = "calls vendor intrinsics")]

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_div_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::{Kernel, LANES, Simd};

/// Made by [`Avx512::detect`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

/// Calls an intrinsic that touches no memory.
macro_rules! call {
    ($intrinsic:ident($($operand:expr),+)) => {
        // SAFETY: `self` exists only on a CPU with AVX-512F (`detect`).
        unsafe { $intrinsic($($operand),+) }
    };
}

impl Simd for Avx512 {
    type Vector = __m512;
    // Two units of four cycles' latency need eight sums; taller tiles were not faster (Zen 4).
    const ROWS: usize = 8;

    fn launch<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f")]
        fn enabled<K: Kernel>(simd: Avx512, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: `self` exists only on a CPU with AVX-512F (`detect`).
        unsafe { enabled(self, kernel) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a hint, which neither faults nor changes anything, wherever `at` points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        call!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Vector {
        // SAFETY: as in `call`; the load is of the sixteen floats.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], value: Self::Vector) {
        // SAFETY: as in `call`; the store is of the sixteen floats.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        call!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        call!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        call!(_mm512_mul_ps(a, b))
    }

    // Not the reciprocal's estimate and a Newton step, as with AVX2.
    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        call!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        call!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        call!(_mm512_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn clamp(self, value: Self::Vector, bound: f32) -> Self::Vector {
        let (low, high) = (self.splat(-bound), self.splat(bound));
        // The instructions return their second operand if either is NaN.
        let below = call!(_mm512_min_ps(high, value));
        call!(_mm512_max_ps(low, below))
    }

    #[inline(always)]
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector {
        // See `Portable::power_of_two`.
        let bias = call!(_mm512_set1_epi32(127));
        let bits = call!(_mm512_castps_si512(rounded));
        let biased = call!(_mm512_add_epi32(bits, bias));
        // SAFETY: as in `call`.
        let shifted = unsafe { _mm512_slli_epi32::<23>(biased) };
        call!(_mm512_castsi512_ps(shifted))
    }
}
