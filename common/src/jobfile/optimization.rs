//! Optimizer and learning-rate schedule, from `[training]` and the DeepSpeed configuration.

use crate::deepspeed::{OptimizerKind, SchedulerBlock, SchedulerKind};
use crate::section::{FloatRange, Found, Section};
use crate::spec::{Optimizer, Schedule, UpdateRule, WarmupShape};
use crate::tree::number;

use super::join::joined;
use super::{Context, DEFAULT};

const LEARNING_RATE: f64 = 1e-3;
/// DeepSpeed's.
const WARMUP_STEPS: u64 = 1000;
const COS_MIN_RATIO: f64 = 1e-4;

pub(super) fn read(section: &Section<'_>, context: &Context<'_>) -> (Optimizer, Schedule) {
    let theirs = &context.deepspeed.optimizer;
    let words = &[("adam", OptimizerKind::Adam), ("adamw", OptimizerKind::AdamW)];
    let later = &["sgd", "lion", "lamb", "muon", "adagrad", "rmsprop"];
    let kind = section.choice("optimizer", words, later);
    let kind = joined(section, "optimizer", kind, theirs.kind.clone());
    let kind = section.settle("optimizer", kind, (OptimizerKind::AdamW, DEFAULT));
    let rate = section.float("learning-rate", FloatRange::POSITIVE);
    let rate = joined(section, "learning-rate", rate, theirs.learning_rate.clone());
    let (rate, schedule) = schedule(section, context, rate);
    let decay = section.float("weight-decay", FloatRange::NOT_NEGATIVE);
    let decay = joined(section, "weight-decay", decay, theirs.weight_decay.clone());
    let of = "DeepSpeed default";
    let betas = section.settle("betas", theirs.betas.clone(), ([0.9, 0.999], of));
    let eps = section.settle("eps", theirs.eps.clone(), (1e-8, of));
    let weight_decay = section.settle("weight-decay", decay, (0.0, DEFAULT));
    let mode = match kind {
        OptimizerKind::AdamW => None,
        OptimizerKind::Adam => theirs.adam_w_mode.clone(),
    };
    let origin = match kind {
        OptimizerKind::AdamW => "adamw always does",
        OptimizerKind::Adam => {
            "DeepSpeed default: adam decays decoupled unless adam_w_mode is false"
        }
    };
    let decoupled_decay = section.settle("decoupled-decay", mode, (true, origin));
    let correction = theirs.bias_correction.clone();
    let bias_correction = section.settle("bias-correction", correction, (true, of));
    let rule = match kind {
        OptimizerKind::Adam => UpdateRule::Adam { betas, eps, bias_correction, decoupled_decay },
        OptimizerKind::AdamW => UpdateRule::AdamW { betas, eps, bias_correction },
    };
    let optimizer = Optimizer { learning_rate: rate, weight_decay, rule };
    (optimizer, schedule)
}

/// The learning rate that holds, and what becomes of it over the steps.
fn schedule(
    section: &Section<'_>,
    context: &Context<'_>,
    rate: Option<Found<f64>>,
) -> (f64, Schedule) {
    let Some(block) = &context.deepspeed.scheduler else {
        let rate = section.settle("learning-rate", rate, (LEARNING_RATE, DEFAULT));
        section.record("schedule.kind", &"\"constant\"", DEFAULT.to_owned());
        return (rate, Schedule::Constant);
    };
    let rate = peak(section, block, rate);
    let rate = section.settle("learning-rate", rate, (LEARNING_RATE, DEFAULT));
    let of = "DeepSpeed default";
    let kind_word = match block.kind.value {
        SchedulerKind::WarmupLr => "\"warmup-lr\"",
        SchedulerKind::WarmupCosineLr => "\"warmup-cosine-lr\"",
    };
    section.record("schedule.kind", &kind_word, block.kind.origin.clone());
    let warmup_steps =
        section.settle("schedule.warmup-steps", block.warmup_steps.clone(), (WARMUP_STEPS, of));
    let shape = section.settle("schedule.shape", block.shape.clone(), (WarmupShape::Log, of));
    let schedule = match block.kind.value {
        SchedulerKind::WarmupLr => {
            let min_lr = section.settle("schedule.min-lr", block.min_lr.clone(), (0.0, of));
            section.record("schedule.max-lr", &number(rate), "the learning rate".to_owned());
            Schedule::WarmupLr { min_lr, max_lr: rate, warmup_steps, shape }
        }
        SchedulerKind::WarmupCosineLr => cosine(section, block, rate, (warmup_steps, shape)),
    };
    (rate, schedule)
}

/// The rate at the end of the warm-up: `warmup_max_lr` where it is given, unless the command line
/// gives a learning rate.
fn peak(
    section: &Section<'_>,
    block: &SchedulerBlock,
    rate: Option<Found<f64>>,
) -> Option<Found<f64>> {
    let (rate, max) = match (rate, block.max_lr.clone()) {
        (Some(rate), Some(max)) => (rate, max),
        (rate, max) => return rate.or(max),
    };
    if rate.value == max.value {
        return Some(rate);
    }
    let (holds, loses) = if rate.place.is_command_line() && !max.place.is_command_line() {
        (rate, max)
    } else {
        (max, rate)
    };
    section.report().note(format!(
        "learning rate: the warm-up ends at {} ({}), not at {} ({})",
        number(holds.value),
        holds.origin,
        number(loses.value),
        loses.origin
    ));
    Some(holds)
}

fn cosine(
    section: &Section<'_>,
    block: &SchedulerBlock,
    rate: f64,
    (warmup_steps, shape): (u64, WarmupShape),
) -> Schedule {
    let of = "DeepSpeed default";
    let mut conversions = Vec::new();
    let mut convert = |key: &str, written: &Option<Found<f64>>, ratio: &Option<Found<f64>>| {
        let Some(found) = written else { return ratio.clone() };
        if found.value > rate {
            section.report().wrong_key(
                &found.place,
                &format!("scheduler.params.{key}"),
                format!("{} is above the peak of {}", number(found.value), number(rate)),
            );
        }
        let converted = found.value / rate;
        conversions.push(format!("{key} {} is ratio {}", number(found.value), number(converted)));
        let origin = format!("{} / learning rate", found.origin);
        Some(Found { value: converted, place: found.place.clone(), origin })
    };
    let warmup_min = convert("warmup_min_lr", &block.min_lr, &block.warmup_min_ratio);
    let cos_min = convert("cos_min_lr", &block.cos_min_lr, &block.cos_min_ratio);
    if let Some(max) = &block.max_lr {
        conversions.push(format!("warmup_max_lr {} is the learning rate", number(max.value)));
    }
    if !conversions.is_empty() {
        let place = &block.kind.place;
        section.report().note(format!(
            "{place}: DeepSpeed's WarmupCosineLR takes ratios; converted: {}",
            conversions.join(", ")
        ));
    }
    if block.total_steps.is_none() {
        section.report().note(
            "WarmupCosineLR: total_num_steps is not given; it is the job's own number of steps",
        );
    }
    let total_steps = section.settle_optional(
        "schedule.total-steps",
        block.total_steps.clone(),
        "inferred at start: the job's own number of steps",
    );
    Schedule::WarmupCosineLr {
        warmup_min_ratio: section.settle("schedule.warmup-min-ratio", warmup_min, (0.0, of)),
        cos_min_ratio: section.settle("schedule.cos-min-ratio", cos_min, (COS_MIN_RATIO, of)),
        warmup_steps,
        shape,
        total_steps,
    }
}
