//! The learning-rate schedule, from `[training]` or the DeepSpeed configuration, and the rate that
//! it leaves to the optimizer.

use crate::deepspeed::{OptimizerKind, SchedulerBlock, SchedulerKind, scheduler_settings};
use crate::section::{Dialect, Found, Section};
use crate::spec::{CycledMomentum, Schedule, WarmupShape};
use crate::tree::{Place, number};

use super::optimizer::default_rate;
use super::{Context, DEFAULT};

const THEIRS: &str = "DeepSpeed default";
const TORCHS: &str = "torch default";
/// DeepSpeed's.
const WARMUP_STEPS: u64 = 1000;
const COS_MIN_RATIO: f64 = 1e-4;
/// Of WarmupDecayLR alone: WarmupLR takes the optimizer's rate since 0.17.2.
const WARMUP_DECAY_MAX: f64 = 1e-3;
const CYCLE_STEPS: u64 = 2000;

/// The learning rate that holds, and what becomes of it over the steps.
pub(super) fn read(
    section: &Section<'_>,
    context: &Context<'_>,
    (optimizer, rate): (OptimizerKind, Option<Found<f64>>),
) -> (f64, Schedule) {
    let default = default_rate(optimizer);
    let Some(block) = chosen(section, context) else {
        let rate = section.settle("learning-rate", rate, default);
        section.record("schedule.kind", &"\"constant\"", DEFAULT.to_owned());
        return (rate, Schedule::Constant);
    };
    let rate = highest(section, &block, rate);
    let rate = section.settle("learning-rate", rate, default);
    let word = format!("\"{}\"", block.kind.value.word());
    section.record("schedule.kind", &word, block.kind.origin.clone());
    let reading = Reading { section, block: &block };
    let schedule = match block.kind.value {
        SchedulerKind::Constant => Schedule::Constant,
        SchedulerKind::WarmupLr => {
            let (warmup_steps, shape) = reading.warmup();
            let min_lr = reading.float("min-lr", &block.min_lr, (0.0, THEIRS));
            section.record("schedule.max-lr", &number(rate), "the learning rate".to_owned());
            Schedule::WarmupLr { min_lr, max_lr: rate, warmup_steps, shape }
        }
        SchedulerKind::WarmupDecayLr => {
            let (warmup_steps, shape) = reading.warmup();
            let min_lr = reading.float("min-lr", &block.min_lr, (0.0, THEIRS));
            section.record("schedule.max-lr", &number(rate), "the learning rate".to_owned());
            let total_steps = reading.total_steps();
            Schedule::WarmupDecayLr { min_lr, max_lr: rate, warmup_steps, shape, total_steps }
        }
        SchedulerKind::WarmupCosineLr => reading.cosine(rate),
        SchedulerKind::OneCycle => reading.one_cycle(optimizer, rate),
        SchedulerKind::LrRangeTest => Schedule::LrRangeTest {
            min_lr: reading.float("min-lr", &block.min_lr, (1e-3, THEIRS)),
            step_size: reading.integer("step-size", &block.step_size, (CYCLE_STEPS, THEIRS)),
            step_rate: reading.float("step-rate", &block.step_rate, (1.0, THEIRS)),
            staircase: reading.boolean("staircase", &block.staircase, (false, THEIRS)),
        },
        SchedulerKind::Step => Schedule::Step {
            step_size: reading.required("step-size", "step_size", &block.step_size, 1),
            gamma: reading.float("gamma", &block.gamma, (0.1, TORCHS)),
        },
        SchedulerKind::CosineRestarts => Schedule::CosineRestarts {
            first_period: reading.required("first-period", "T_0", &block.first_period, 1),
            period_factor: reading.integer("period-factor", &block.period_factor, (1, TORCHS)),
            min_lr: reading.float("min-lr", &block.min_lr, (0.0, TORCHS)),
        },
    };
    (rate, schedule)
}

/// The job file's schedule or DeepSpeed's; both are a mistake, unless one comes from the command
/// line.
fn chosen(section: &Section<'_>, context: &Context<'_>) -> Option<SchedulerBlock> {
    let inner = section.sub_or_plain("schedule");
    let kind = match inner.table() {
        Some(_) => inner.choice("kind", SchedulerKind::WORDS, &[]),
        None => section.choice("schedule", SchedulerKind::WORDS, &[]),
    };
    if inner.lacks("kind") {
        section.refuse("schedule", "a kind is missing: schedule = { kind = \"step\", ... }");
    }
    let theirs = context.deepspeed.scheduler.clone();
    let Some(kind) = kind else { return theirs };
    let ours = scheduler_settings(&inner, kind);
    inner.refuse_unknown(&[]);
    let Some(theirs) = theirs else { return Some(ours) };
    match (ours.kind.place.is_command_line(), theirs.kind.place.is_command_line()) {
        (true, false) => Some(ours),
        (false, true) => Some(theirs),
        _ => {
            let message = format!(
                "the DeepSpeed configuration has a scheduler too, at {}; give one of them",
                theirs.kind.origin
            );
            section.refuse("schedule", message);
            Some(ours)
        }
    }
}

/// The rate that the schedule's words for its highest one give, unless the command line gives a
/// learning rate.
fn highest(
    section: &Section<'_>,
    block: &SchedulerBlock,
    rate: Option<Found<f64>>,
) -> Option<Found<f64>> {
    let is_decay = block.kind.value == SchedulerKind::WarmupDecayLr;
    let unsaid = (is_decay && block.dialect == Dialect::DeepSpeed).then(|| Found {
        value: WARMUP_DECAY_MAX,
        place: block.kind.place.clone(),
        origin: "DeepSpeed default of WarmupDecayLR's warmup_max_lr".to_owned(),
    });
    let (rate, max) = match (rate, block.max_lr.clone().or(unsaid)) {
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
    let what = match block.kind.value {
        SchedulerKind::OneCycle => "the cycle peaks at",
        _ => "the warm-up ends at",
    };
    section.report().note(format!(
        "learning rate: {what} {} ({}), not at {} ({})",
        number(holds.value),
        holds.origin,
        number(loses.value),
        loses.origin
    ));
    Some(holds)
}

/// Settles settings of one block under `training.schedule`.
struct Reading<'a, 'b> {
    section: &'b Section<'a>,
    block: &'b SchedulerBlock,
}

impl Reading<'_, '_> {
    fn float(&self, key: &str, found: &Option<Found<f64>>, default: (f64, &str)) -> f64 {
        self.section.settle(&format!("schedule.{key}"), found.clone(), default)
    }

    fn integer(&self, key: &str, found: &Option<Found<u64>>, default: (u64, &str)) -> u64 {
        self.section.settle(&format!("schedule.{key}"), found.clone(), default)
    }

    fn boolean(&self, key: &str, found: &Option<Found<bool>>, default: (bool, &str)) -> bool {
        self.section.settle(&format!("schedule.{key}"), found.clone(), default)
    }

    /// A setting without a default; a mistake where it is missing.
    fn required<T: serde::Serialize + Copy>(
        &self,
        key: &str,
        theirs: &str,
        found: &Option<Found<T>>,
        stand_in: T,
    ) -> T {
        let block = self.block;
        if found.is_none() {
            let kind = &block.kind;
            let (path, name, word) = match block.dialect {
                Dialect::Job => (format!("training.schedule.{key}"), kind.value.word(), key),
                Dialect::DeepSpeed => {
                    (format!("scheduler.params.{theirs}"), kind.value.theirs(), theirs)
                }
            };
            let message = format!("{name} needs a valid `{word}`");
            self.section.report().wrong_key(&kind.place, &path, message);
        }
        self.section.settle(&format!("schedule.{key}"), found.clone(), (stand_in, "missing"))
    }

    fn warmup(&self) -> (u64, WarmupShape) {
        let steps = self.integer("warmup-steps", &self.block.warmup_steps, (WARMUP_STEPS, THEIRS));
        let shape = self.block.shape.clone();
        (steps, self.section.settle("schedule.shape", shape, (WarmupShape::Log, THEIRS)))
    }

    fn total_steps(&self) -> Option<u64> {
        if self.block.total_steps.is_none() {
            self.section.report().note(format!(
                "{}: total_num_steps is not given; it is the job's own number of steps",
                self.block.kind.value.theirs()
            ));
        }
        self.section.settle_optional(
            "schedule.total-steps",
            self.block.total_steps.clone(),
            "inferred at start: the job's own number of steps",
        )
    }

    fn one_cycle(&self, optimizer: OptimizerKind, rate: f64) -> Schedule {
        let block = self.block;
        // It is in the learning rate already; here it is only asked for.
        if block.max_lr.is_none() {
            self.required("max-lr", "cycle_max_lr", &block.max_lr, rate);
        } else {
            let origin = "the learning rate".to_owned();
            self.section.record("schedule.max-lr", &number(rate), origin);
        }
        let min_lr = self.required("min-lr", "cycle_min_lr", &block.min_lr, rate);
        let first_steps = self.integer("first-steps", &block.first_steps, (CYCLE_STEPS, THEIRS));
        let first_stairs = self.integer("first-stairs", &block.first_stairs, (0, THEIRS));
        let as_first = "as the first half";
        Schedule::OneCycle {
            min_lr,
            max_lr: rate,
            first_steps,
            second_steps: self.integer(
                "second-steps",
                &block.second_steps,
                (first_steps, as_first),
            ),
            first_stairs,
            second_stairs: self.integer(
                "second-stairs",
                &block.second_stairs,
                (first_stairs, as_first),
            ),
            decay_rate: self.float("decay-rate", &block.decay_rate, (0.0, THEIRS)),
            decay_steps: self.integer("decay-steps", &block.decay_steps, (0, THEIRS)),
            momentum: self.cycled_momentum(optimizer),
        }
    }

    fn cycled_momentum(&self, optimizer: OptimizerKind) -> Option<CycledMomentum> {
        let block = self.block;
        let report = self.section.report();
        let cycles = self.boolean("cycle-momentum", &block.cycle_momentum, (true, THEIRS));
        if !cycles {
            return None;
        }
        if optimizer == OptimizerKind::NAdam {
            let message = "not supported with nadam, which has a momentum schedule of its own; \
                           set cycle-momentum (cycle_momentum) to false";
            report.wrong_key(&block.kind.place, "training.schedule.cycle-momentum", message);
            return None;
        }
        if !optimizer.keys().contains(&"betas") {
            report.note(format!(
                "OneCycle: momentum is not cycled, as in DeepSpeed: {} has no betas",
                optimizer.word()
            ));
            return None;
        }
        let rate = &block.momentum_decay_rate;
        Some(CycledMomentum {
            min: self.float("momentum.min", &block.min_momentum, (0.8, THEIRS)),
            max: self.float("momentum.max", &block.max_momentum, (0.9, THEIRS)),
            decay_rate: self.float("momentum.decay-rate", rate, (0.0, THEIRS)),
        })
    }

    fn cosine(&self, rate: f64) -> Schedule {
        let Reading { section, block } = self;
        let (warmup_steps, shape) = self.warmup();
        let mut conversions = Vec::new();
        let mut convert = |key: &str, written: &Option<Found<f64>>, ratio: &Option<Found<f64>>| {
            let Some(found) = written else { return ratio.clone() };
            if found.value > rate {
                let above =
                    format!("{} is above the peak of {}", number(found.value), number(rate));
                let key = format!("scheduler.params.{key}");
                section.report().wrong_key(&found.place, &key, above);
            }
            let converted = found.value / rate;
            let said = format!("{key} {} is ratio {}", number(found.value), number(converted));
            conversions.push(said);
            let origin = format!("{} / learning rate", found.origin);
            Some(Found { value: converted, place: found.place.clone(), origin })
        };
        let warmup_min = convert("warmup_min_lr", &block.min_lr, &block.warmup_min_ratio);
        let cos_min = convert("cos_min_lr", &block.cos_min_lr, &block.cos_min_ratio);
        if let Some(max) = &block.max_lr {
            conversions.push(format!("warmup_max_lr {} is the learning rate", number(max.value)));
        }
        if !conversions.is_empty() {
            let place: &Place = &block.kind.place;
            section.report().note(format!(
                "{place}: DeepSpeed's WarmupCosineLR takes ratios; converted: {}",
                conversions.join(", ")
            ));
        }
        let total_steps = self.total_steps();
        Schedule::WarmupCosineLr {
            warmup_min_ratio: self.float("warmup-min-ratio", &warmup_min, (0.0, THEIRS)),
            cos_min_ratio: self.float("cos-min-ratio", &cos_min, (COS_MIN_RATIO, THEIRS)),
            warmup_steps,
            shape,
            total_steps,
        }
    }
}
