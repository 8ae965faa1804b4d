//! AVX2 with FMA: a vector is two registers of eight floats.
#![expect(unsafe_code, reason = "calls vendor intrinsics")]

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi32, _mm256_add_ps, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_div_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps,
    _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
};

use super::{Kernel, LANES, Simd};

/// Made by [`Avx2::detect`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        has_all.then_some(Self(()))
    }
}

/// Applies an intrinsic to both halves.
macro_rules! halves {
    ($intrinsic:ident($($operand:ident),+)) => {
        // SAFETY: `self` exists only on a CPU with AVX2 and FMA (`detect`), and the intrinsic
        // touches no memory.
        unsafe { [$intrinsic($($operand[0]),+), $intrinsic($($operand[1]),+)] }
    };
}

impl Simd for Avx2 {
    type Vector = [__m256; 2];
    // Twelve accumulators, two operands and a broadcast in sixteen registers.
    const ROWS: usize = 6;

    fn launch<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma")]
        fn enabled<K: Kernel>(simd: Avx2, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: `self` exists only on a CPU with AVX2 and FMA (`detect`).
        unsafe { enabled(self, kernel) }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a hint, which neither faults nor changes anything, wherever `at` points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        // SAFETY: as in `halves`.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Vector {
        let from = from.as_ptr();
        // SAFETY: as in `halves`; both loads lie within the sixteen floats.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], value: Self::Vector) {
        let to = to.as_mut_ptr();
        // SAFETY: as in `halves`; both stores lie within the sixteen floats.
        unsafe {
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_mul_ps(a, b))
    }

    // Not the reciprocal's estimate and a Newton step: the estimate differs between vendors.
    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        halves!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        halves!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn neg_mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        halves!(_mm256_fnmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn clamp(self, value: Self::Vector, bound: f32) -> Self::Vector {
        let (low, high) = (self.splat(-bound), self.splat(bound));
        // The instructions return their second operand if either is NaN.
        let below = halves!(_mm256_min_ps(high, value));
        halves!(_mm256_max_ps(low, below))
    }

    #[inline(always)]
    fn power_of_two(self, rounded: Self::Vector) -> Self::Vector {
        // See `Portable::power_of_two`.
        // SAFETY: as in `halves`.
        let biased = unsafe {
            let bias = _mm256_set1_epi32(127);
            [
                _mm256_add_epi32(_mm256_castps_si256(rounded[0]), bias),
                _mm256_add_epi32(_mm256_castps_si256(rounded[1]), bias),
            ]
        };
        // SAFETY: as in `halves`.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased[1])),
            ]
        }
    }
}
