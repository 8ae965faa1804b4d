//! Settings that fit where the job's own do not, nearest first. None changes the batch of a step.

use crate::batch;
use crate::spec::{JobSpec, Sourced};

use super::{Estimate, Sizes, estimate, in_words};

/// Of those that exist in this version.
const HIGHEST_STAGE: u8 = 3;

/// The nearest settings whose estimate is at most `available` bytes: a smaller micro-batch (T kept,
/// more micro-steps), a higher stage, both. Empty where nothing helps.
pub fn advise(spec: &JobSpec, sizes: Sizes, world: u32, available: u64) -> Vec<String> {
    let mut advice = Vec::new();
    let needs = |spec: &JobSpec| {
        let plan = batch::plan(&spec.training.batch, world).ok()?;
        Some(estimate(spec, sizes, &plan).total())
    };
    if needs(spec).is_none_or(|total| total <= available) {
        return advice;
    }
    let highest = if world > 1 { HIGHEST_STAGE } else { spec.zero.stage };
    for stage in spec.zero.stage..=highest {
        let mut changed = spec.clone();
        changed.zero.stage = stage;
        let Some((micro, needs)) = largest_micro_batch(&changed, sizes, world, available) else {
            continue;
        };
        let is_enough = micro.is_none();
        let mut settings = Vec::new();
        if stage != spec.zero.stage {
            settings.push(format!("--set deepspeed.zero_optimization.stage={stage}"));
        }
        settings.extend(micro.map(|m| format!("--set training.micro-batch-size={m}")));
        advice.push(format!("{} needs {}", settings.join(" "), in_words(needs.total())));
        if is_enough {
            break;
        }
    }
    advice
}

/// None where not even one sample at a time fits; the micro-batch is None where it may stay.
fn largest_micro_batch(
    spec: &JobSpec,
    sizes: Sizes,
    world: u32,
    available: u64,
) -> Option<(Option<u64>, Estimate)> {
    let plan = batch::plan(&spec.training.batch, world).ok()?;
    let as_is = estimate(spec, sizes, &plan);
    if as_is.total() <= available {
        return Some((None, as_is));
    }
    let mut micro = plan.largest_run();
    // Halved at most 63 times.
    while micro > 1 {
        micro /= 2;
        let mut smaller = spec.clone();
        let sourced = |value| Some(Sourced { value, origin: "advice".to_owned() });
        smaller.training.batch.batch_size = sourced(plan.batch_size.value);
        smaller.training.batch.micro_batch_size = sourced(micro);
        smaller.training.batch.gradient_accumulation = None;
        let needs = estimate(&smaller, sizes, &batch::plan(&smaller.training.batch, world).ok()?);
        if needs.total() <= available {
            return Some((Some(micro), needs));
        }
    }
    None
}
