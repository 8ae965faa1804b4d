//! The `scheduler` block: WarmupLR and WarmupCosineLR, with the keys that people write for the
//! latter although DeepSpeed rejects them.

use crate::section::{FloatRange, Found, IntegerRange, Section, nearest};
use crate::spec::WarmupShape;
use crate::tree::Place;

/// What the block says; None where it is silent.
#[derive(Debug)]
pub(crate) struct SchedulerBlock {
    pub(crate) kind: Found<Kind>,
    pub(crate) warmup_steps: Option<Found<u64>>,
    pub(crate) shape: Option<Found<WarmupShape>>,
    pub(crate) min_lr: Option<Found<f64>>,
    pub(crate) max_lr: Option<Found<f64>>,
    pub(crate) warmup_min_ratio: Option<Found<f64>>,
    pub(crate) cos_min_ratio: Option<Found<f64>>,
    pub(crate) cos_min_lr: Option<Found<f64>>,
    pub(crate) total_steps: Option<Found<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WarmupLr,
    WarmupCosineLr,
}

impl Kind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("WarmupLR", Self::WarmupLr), ("WarmupCosineLR", Self::WarmupCosineLr)];

    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::WarmupLr => &[
                "warmup_min_lr",
                "warmup_max_lr",
                "warmup_num_steps",
                "warmup_type",
                "last_batch_iteration",
            ],
            Self::WarmupCosineLr => &[
                "total_num_steps",
                "warmup_min_ratio",
                "warmup_num_steps",
                "cos_min_ratio",
                "warmup_type",
                "last_batch_iteration",
                "warmup_min_lr",
                "warmup_max_lr",
                "cos_min_lr",
            ],
        }
    }
}

/// Schedulers of DeepSpeed and torch that a later version may have.
const LATER: &[&str] = &[
    "WarmupDecayLR",
    "OneCycle",
    "LRRangeTest",
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "OneCycleLR",
    "CyclicLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "LambdaLR",
];

/// DeepSpeed counts from -1, "not started": a checkpoint restores the position here.
const NOT_STARTED: i64 = -1;

pub(crate) fn read(top: &Section<'_>) -> Option<SchedulerBlock> {
    let block = top.sub("scheduler");
    if block.lacks("type") {
        let message = "a type is missing; this version has `WarmupLR` and `WarmupCosineLR`";
        top.refuse("scheduler", message);
    }
    let kind = block.choice("type", Kind::WORDS, LATER)?;
    let params = block.sub("params");
    refuse_unknown(&params, kind.value);
    let position = IntegerRange::new(NOT_STARTED, NOT_STARTED);
    let _: Option<Found<i64>> = params.integer("last_batch_iteration", position);
    const RATIO: FloatRange = FloatRange::closed(0.0, 1.0);
    let shapes = &[("log", WarmupShape::Log), ("linear", WarmupShape::Linear)];
    let steps = IntegerRange::new(1, 1 << 40);
    let read = SchedulerBlock {
        kind,
        warmup_steps: params.integer("warmup_num_steps", steps),
        shape: params.choice("warmup_type", shapes, &[]),
        min_lr: params.float("warmup_min_lr", FloatRange::NOT_NEGATIVE),
        max_lr: params.float("warmup_max_lr", FloatRange::POSITIVE),
        warmup_min_ratio: params.float("warmup_min_ratio", RATIO),
        cos_min_ratio: params.float("cos_min_ratio", RATIO),
        cos_min_lr: params.float("cos_min_lr", FloatRange::NOT_NEGATIVE),
        total_steps: params.integer("total_num_steps", steps),
    };
    if read.kind.value == Kind::WarmupCosineLr {
        refuse_both(&params, "warmup_min_lr", &read.min_lr, &read.warmup_min_ratio);
        refuse_both(&params, "cos_min_lr", &read.cos_min_lr, &read.cos_min_ratio);
    }
    Some(read)
}

fn refuse_unknown(params: &Section<'_>, kind: Kind) {
    let Some(table) = params.table() else { return };
    for entry in &table.entries {
        if kind.keys().contains(&entry.key.as_str()) {
            continue;
        }
        let words = Kind::WORDS.iter().find(|(_, value)| *value == kind);
        let name = words.map_or("", |(word, _)| word);
        let hint = match nearest(&entry.key, kind.keys().iter().copied()) {
            Some(right) => format!("unknown parameter of {name}; did you mean `{right}`?"),
            None => format!("unknown parameter of {name}; it has {}", kind.keys().join(", ")),
        };
        params.report().wrong_key(&entry.place, &params.path_of(&entry.key), hint);
    }
}

/// A rate and a ratio that say the same thing.
fn refuse_both(
    params: &Section<'_>,
    key: &str,
    rate: &Option<Found<f64>>,
    ratio: &Option<Found<f64>>,
) {
    if let (Some(_), Some(ratio)) = (rate, ratio) {
        let place: &Place = &ratio.place;
        let ratio_key = key.replace("_lr", "_ratio");
        params.refuse(key, format!("says what `{ratio_key}` at {place} says; give one of them"));
    }
}
