//! Memory of what is on its way: gradients between backward and their sums, parameters that are
//! gathered for a unit, what compression remembers.

use crate::batch::BatchPlan;
use crate::spec::{GradientCompression, JobSpec, PrecisionKind};

use super::{Bucket, FP32, bytes_of};

/// Sums that are under way at one time, as the engine bounds them.
const FLIGHTS: usize = 2;

pub(super) fn bytes(spec: &JobSpec, buckets: &[Bucket], plan: &BatchPlan) -> u64 {
    let (stage, world) = (spec.zero.stage, u64::from(plan.world));
    let precision = &spec.training.precision;
    let compression = spec.training.gradient_compression;
    let wire = bytes_of(match compression {
        GradientCompression::None => precision.communication,
        GradientCompression::Fp16 | GradientCompression::Bf16 => PrecisionKind::Bf16,
        GradientCompression::Int8 => PrecisionKind::Fp32,
    });
    let is_copied = bytes_of(precision.grad_accumulation) != wire;
    let in_flight: u64 = largest(buckets, FLIGHTS);
    let departing = if stage >= 2 || is_copied { wire * in_flight } else { 0 };
    // A part that is added to what is there lands beside it.
    let adds = stage >= 2 && plan.gradient_accumulation.value > 1;
    let landing = if stage > 0 && (adds || is_copied) { wire * in_flight / world } else { 0 };
    let compresses = compression == GradientCompression::Int8 && world > 1;
    let whole: u64 = buckets.iter().map(|bucket| bucket.len).sum();
    let remembered = match (compresses, stage) {
        (false, _) => 0,
        (true, 0) => FP32 * (whole + whole / world),
        (true, _) => FP32 * whole,
    };
    departing + landing + remembered + bytes_of(precision.effective) * gathered(spec, buckets)
}

fn largest(buckets: &[Bucket], count: usize) -> u64 {
    let mut lens: Vec<u64> = buckets.iter().map(|bucket| bucket.len).collect();
    lens.sort_unstable_by(|a, b| b.cmp(a));
    lens.into_iter().take(count).sum()
}

/// The most elements of sharded parameters that are whole at one time: a unit's own, those that stay
/// for its backward, and those that come ahead.
fn gathered(spec: &JobSpec, buckets: &[Bucket]) -> u64 {
    let stage3 = &spec.zero.stage3;
    let lens: Vec<u64> = buckets.iter().filter(|b| b.is_sharded).map(|b| b.len).collect();
    let all: u64 = lens.iter().sum();
    let compresses = spec.training.gradient_compression == GradientCompression::Int8;
    let ahead = if spec.zero.overlap_comm && !compresses { stage3.prefetch_bucket_size } else { 0 };
    let (mut stay, mut most) = (0, 0);
    for (index, len) in lens.iter().enumerate() {
        let later: u64 = lens[index + 1..].iter().sum();
        // Gathers ahead start until so many elements are there; the last of them goes beyond.
        let mut coming = 0;
        let next = lens[index + 1..].iter();
        for next in next.take_while(|_| ahead > 0) {
            if coming >= ahead || stay + len + coming + next > stage3.max_live_parameters {
                break;
            }
            coming += next;
        }
        most = most.max(stay + len + coming);
        // Both passes come by all later units in between.
        if 2 * later < stage3.max_reuse_distance {
            stay += len;
        }
    }
    most.min(all)
}
