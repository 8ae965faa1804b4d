//! Schedules by name, and the settings that each has, in DeepSpeed's words and in the job file's;
//! with the keys that people write for WarmupCosineLR although DeepSpeed rejects them.

use crate::section::{Dialect, FloatRange, Found, IntegerRange, Section, nearest};
use crate::spec::WarmupShape;
use crate::tree::Place;

/// What one table says of a schedule; None where it is silent or the kind has no such setting.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerBlock {
    pub(crate) kind: Found<Kind>,
    pub(crate) dialect: Dialect,
    pub(crate) warmup_steps: Option<Found<u64>>,
    pub(crate) shape: Option<Found<WarmupShape>>,
    pub(crate) min_lr: Option<Found<f64>>,
    pub(crate) max_lr: Option<Found<f64>>,
    pub(crate) warmup_min_ratio: Option<Found<f64>>,
    pub(crate) cos_min_ratio: Option<Found<f64>>,
    pub(crate) cos_min_lr: Option<Found<f64>>,
    pub(crate) total_steps: Option<Found<u64>>,
    pub(crate) first_steps: Option<Found<u64>>,
    pub(crate) second_steps: Option<Found<u64>>,
    pub(crate) first_stairs: Option<Found<u64>>,
    pub(crate) second_stairs: Option<Found<u64>>,
    pub(crate) decay_rate: Option<Found<f64>>,
    pub(crate) decay_steps: Option<Found<u64>>,
    pub(crate) cycle_momentum: Option<Found<bool>>,
    pub(crate) min_momentum: Option<Found<f64>>,
    pub(crate) max_momentum: Option<Found<f64>>,
    pub(crate) momentum_decay_rate: Option<Found<f64>>,
    pub(crate) step_size: Option<Found<u64>>,
    pub(crate) step_rate: Option<Found<f64>>,
    pub(crate) staircase: Option<Found<bool>>,
    pub(crate) gamma: Option<Found<f64>>,
    pub(crate) first_period: Option<Found<u64>>,
    pub(crate) period_factor: Option<Found<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Constant,
    WarmupLr,
    WarmupDecayLr,
    WarmupCosineLr,
    OneCycle,
    LrRangeTest,
    Step,
    CosineRestarts,
}

use Kind::{
    Constant, CosineRestarts, LrRangeTest, OneCycle, Step, WarmupCosineLr, WarmupDecayLr, WarmupLr,
};

/// A setting in the job file's words and in DeepSpeed's; empty where that one has no word for it.
type Key = (&'static str, &'static str);

impl Kind {
    pub(crate) const WORDS: &'static [(&'static str, Self)] = &[
        ("constant", Constant),
        ("warmup-lr", WarmupLr),
        ("warmup-decay-lr", WarmupDecayLr),
        ("warmup-cosine-lr", WarmupCosineLr),
        ("one-cycle", OneCycle),
        ("lr-range-test", LrRangeTest),
        ("step", Step),
        ("cosine-restarts", CosineRestarts),
    ];

    const DEEPSPEEDS: &'static [(&'static str, Self)] = &[
        ("WarmupLR", WarmupLr),
        ("WarmupDecayLR", WarmupDecayLr),
        ("WarmupCosineLR", WarmupCosineLr),
        ("OneCycle", OneCycle),
        ("LRRangeTest", LrRangeTest),
        ("StepLR", Step),
        ("CosineAnnealingWarmRestarts", CosineRestarts),
    ];

    pub(crate) fn word(self) -> &'static str {
        let row = Self::WORDS.iter().find(|(_, kind)| *kind == self);
        row.map(|(word, _)| *word).expect("every kind has a row")
    }

    /// DeepSpeed's and torch's spelling.
    pub(crate) fn theirs(self) -> &'static str {
        let row = Self::DEEPSPEEDS.iter().find(|(_, kind)| *kind == self);
        row.map_or("constant", |(name, _)| name)
    }

    const fn keys(self) -> &'static [Key] {
        match self {
            Constant => &[],
            WarmupLr => &[
                ("min-lr", "warmup_min_lr"),
                ("max-lr", "warmup_max_lr"),
                ("warmup-steps", "warmup_num_steps"),
                ("shape", "warmup_type"),
            ],
            WarmupDecayLr => &[
                ("min-lr", "warmup_min_lr"),
                ("max-lr", "warmup_max_lr"),
                ("warmup-steps", "warmup_num_steps"),
                ("shape", "warmup_type"),
                ("total-steps", "total_num_steps"),
            ],
            WarmupCosineLr => &[
                ("total-steps", "total_num_steps"),
                ("warmup-min-ratio", "warmup_min_ratio"),
                ("warmup-steps", "warmup_num_steps"),
                ("cos-min-ratio", "cos_min_ratio"),
                ("shape", "warmup_type"),
                ("", "warmup_min_lr"),
                ("", "warmup_max_lr"),
                ("", "cos_min_lr"),
            ],
            OneCycle => &[
                ("min-lr", "cycle_min_lr"),
                ("max-lr", "cycle_max_lr"),
                ("first-steps", "cycle_first_step_size"),
                ("second-steps", "cycle_second_step_size"),
                ("first-stairs", "cycle_first_stair_count"),
                ("second-stairs", "cycle_second_stair_count"),
                ("decay-rate", "decay_lr_rate"),
                ("decay-steps", "decay_step_size"),
                ("cycle-momentum", "cycle_momentum"),
                ("min-momentum", "cycle_min_mom"),
                ("max-momentum", "cycle_max_mom"),
                ("momentum-decay-rate", "decay_mom_rate"),
            ],
            LrRangeTest => &[
                ("min-lr", "lr_range_test_min_lr"),
                ("step-size", "lr_range_test_step_size"),
                ("step-rate", "lr_range_test_step_rate"),
                ("staircase", "lr_range_test_staircase"),
            ],
            Step => &[("step-size", "step_size"), ("gamma", "gamma")],
            CosineRestarts => {
                &[("first-period", "T_0"), ("period-factor", "T_mult"), ("min-lr", "eta_min")]
            }
        }
    }

    /// Where the schedule was at the start: a checkpoint restores that here.
    fn position(self) -> &'static str {
        if matches!(self, Step | CosineRestarts) { "last_epoch" } else { "last_batch_iteration" }
    }
}

/// Schedulers of torch that DeepSpeed takes and this version does not have.
const LATER: &[&str] = &[
    "MultiStepLR",
    "MultiplicativeLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "SequentialLR",
    "ChainedScheduler",
    "CosineAnnealingLR",
    "OneCycleLR",
    "CyclicLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "LambdaLR",
];

/// "Not started".
const NOT_STARTED: IntegerRange = IntegerRange::new(-1, -1);

pub(crate) fn read(top: &Section<'_>) -> Option<SchedulerBlock> {
    let block = top.sub("scheduler");
    if block.lacks("type") {
        let names: Vec<String> =
            Kind::DEEPSPEEDS.iter().map(|(name, _)| format!("`{name}`")).collect();
        top.refuse(
            "scheduler",
            format!("a type is missing; this version has {}", names.join(", ")),
        );
    }
    let kind = block.choice("type", Kind::DEEPSPEEDS, LATER)?;
    let params = block.sub("params");
    refuse_unknown(&params, kind.value);
    let _: Option<Found<i64>> = params.integer(kind.value.position(), NOT_STARTED);
    let read = settings(&params, kind);
    if read.kind.value == WarmupCosineLr {
        refuse_both(&params, "warmup_min_lr", &read.min_lr, &read.warmup_min_ratio);
        refuse_both(&params, "cos_min_lr", &read.cos_min_lr, &read.cos_min_ratio);
    }
    Some(read)
}

/// The settings of a kind that the table has, in its dialect.
pub(crate) fn settings(table: &Section<'_>, kind: Found<Kind>) -> SchedulerBlock {
    const RATIO: FloatRange = FloatRange::closed(0.0, 1.0);
    const MOMENTUM: FloatRange = FloatRange::half_open(0.0, 1.0);
    const COUNT: IntegerRange = IntegerRange::new(1, 1 << 40);
    const FROM_ZERO: IntegerRange = IntegerRange::new(0, 1 << 40);
    let (dialect, keys) = (table.dialect(), kind.value.keys());
    // A setting is asked for by either word; the kind knows both.
    let name = |key: &str| {
        let (ours, theirs) = keys.iter().find(|(ours, theirs)| [*ours, *theirs].contains(&key))?;
        Some(if dialect == Dialect::Job { *ours } else { *theirs }).filter(|name| !name.is_empty())
    };
    let float = |key: &str, range| name(key).and_then(|name| table.float(name, range));
    let integer = |key: &str, range| name(key).and_then(|name| table.integer(name, range));
    let boolean = |key: &str| name(key).and_then(|name| table.boolean(name));
    let shapes = &[("log", WarmupShape::Log), ("linear", WarmupShape::Linear)];
    let rate = |ours: &'static str, theirs, range| {
        float(if name(ours).is_some() { ours } else { theirs }, range)
    };
    SchedulerBlock {
        dialect,
        warmup_steps: integer("warmup-steps", COUNT),
        shape: name("shape").and_then(|name| table.choice(name, shapes, &[])),
        min_lr: rate("min-lr", "warmup_min_lr", FloatRange::NOT_NEGATIVE),
        max_lr: rate("max-lr", "warmup_max_lr", FloatRange::POSITIVE),
        warmup_min_ratio: float("warmup-min-ratio", RATIO),
        cos_min_ratio: float("cos-min-ratio", RATIO),
        cos_min_lr: float("cos_min_lr", FloatRange::NOT_NEGATIVE),
        total_steps: integer("total-steps", COUNT),
        first_steps: integer("first-steps", COUNT),
        second_steps: integer("second-steps", FROM_ZERO),
        first_stairs: integer("first-stairs", FROM_ZERO),
        second_stairs: integer("second-stairs", FROM_ZERO),
        decay_rate: float("decay-rate", FloatRange::NOT_NEGATIVE),
        decay_steps: integer("decay-steps", FROM_ZERO),
        cycle_momentum: boolean("cycle-momentum"),
        min_momentum: float("min-momentum", MOMENTUM),
        max_momentum: float("max-momentum", MOMENTUM),
        momentum_decay_rate: float("momentum-decay-rate", FloatRange::NOT_NEGATIVE),
        step_size: integer("step-size", COUNT),
        step_rate: float("step-rate", FloatRange::NOT_NEGATIVE),
        staircase: boolean("staircase"),
        gamma: float("gamma", FloatRange::POSITIVE),
        first_period: integer("first-period", COUNT),
        period_factor: integer("period-factor", COUNT),
        kind,
    }
}

fn refuse_unknown(params: &Section<'_>, kind: Kind) {
    let Some(table) = params.table() else { return };
    let position = kind.position();
    let known: Vec<&str> =
        kind.keys().iter().map(|(_, theirs)| *theirs).chain([position]).collect();
    for entry in &table.entries {
        if known.contains(&entry.key.as_str()) {
            continue;
        }
        let name = kind.theirs();
        let hint = match nearest(&entry.key, known.iter().copied()) {
            Some(right) => format!("unknown parameter of {name}; did you mean `{right}`?"),
            None => format!("unknown parameter of {name}; it has {}", known.join(", ")),
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
