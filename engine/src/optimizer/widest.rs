//! Runs a pass compiled for the widest vectors that this CPU has. The bits are the same for each.
#![expect(unsafe_code, reason = "calls the copies of the loop compiled for wider vectors")]

use crate::optimizer::{Pass, Shard};

pub(super) fn run<P: Pass>(pass: P, shard: &mut Shard<'_>) -> P::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F, as just asked.
            return unsafe { run_avx512(pass, shard) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, as just asked.
            return unsafe { run_avx2(pass, shard) };
        }
    }
    pass.run(shard)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<P: Pass>(pass: P, shard: &mut Shard<'_>) -> P::Output {
    pass.run(shard)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<P: Pass>(pass: P, shard: &mut Shard<'_>) -> P::Output {
    pass.run(shard)
}
