//! Settings against each other: every pair of a stage, precision, world, optimizer, schedule,
//! accumulation and clipping meets in some run, and each run follows a loop without any of it.
//!
//! `make soak`, or `RUSTSPEED_MATRIX=full`, runs the whole product instead of the pairs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use common::spec::{
    CycledMomentum, JobSpec, LossScale, OnOverflow, Precision, PrecisionKind, Resume, Schedule,
    Sourced, UpdateRule, Validate, WarmupShape,
};

use super::ranks::Attempt;
use super::{soak, spec};

mod pairs;
mod reference;

const STEPS: u64 = 6;
const BATCH: u64 = 12;

// A new value of a setting is a new entry here; the cheapest one stands first.
const STAGES: [u8; 4] = [0, 1, 2, 3];
const WORLDS: [u32; 4] = [1, 2, 3, 4];
const PRECISIONS: [PrecisionKind; 3] =
    [PrecisionKind::Fp32, PrecisionKind::Bf16, PrecisionKind::Fp16];
const ACCUMULATIONS: [u64; 2] = [1, 3];
const CLIPPINGS: [f64; 2] = [0.0, 0.1];
const SCHEDULES: [&str; 8] = [
    "constant",
    "warmup-lr",
    "warmup-decay-lr",
    "warmup-cosine-lr",
    "one-cycle",
    "lr-range-test",
    "step",
    "cosine-restarts",
];

/// A rate at which the loss visibly falls in six steps, and the rule.
fn optimizers() -> [(f64, UpdateRule); 9] {
    let (betas, eps, bias_correction) = ([0.9, 0.99], 1e-8, true);
    let adam = UpdateRule::Adam { betas, eps, bias_correction, decoupled_decay: false };
    let rmsprop = UpdateRule::RmsProp { alpha: 0.9, eps: 1e-4, momentum: 0.5, centered: true };
    let lamb = UpdateRule::Lamb {
        betas,
        eps: 1e-6,
        bias_correction,
        eps_inside_sqrt: false,
        min_coeff: 0.01,
        max_coeff: 10.0,
    };
    [
        (1e-2, adam),
        (1e-2, UpdateRule::AdamW { betas, eps, bias_correction }),
        (0.1, UpdateRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false }),
        (0.05, UpdateRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true }),
        (0.02, UpdateRule::Adagrad { eps, lr_decay: 0.01, initial_accumulator_value: 0.01 }),
        (2e-3, rmsprop),
        (2e-3, UpdateRule::Lion { betas }),
        (1e-2, lamb),
        (1e-2, UpdateRule::NAdam { betas, eps, momentum_decay: 4e-3, decoupled_decay: true }),
    ]
}

/// Around a learning rate, all of it within the run.
fn schedule(name: &str, rate: f64, rule: &UpdateRule) -> Schedule {
    let (min_lr, max_lr, warmup_steps, shape) = (rate / 10.0, rate, 2, WarmupShape::Linear);
    let total_steps = Some(STEPS - 2);
    let cycles = rule.betas().is_some() && !matches!(rule, UpdateRule::NAdam { .. });
    match name {
        "warmup-lr" => Schedule::WarmupLr { min_lr, max_lr, warmup_steps, shape },
        "warmup-decay-lr" => {
            Schedule::WarmupDecayLr { min_lr, max_lr, warmup_steps, shape, total_steps }
        }
        "warmup-cosine-lr" => Schedule::WarmupCosineLr {
            warmup_min_ratio: 0.1,
            cos_min_ratio: 0.1,
            warmup_steps,
            shape,
            total_steps,
        },
        "one-cycle" => Schedule::OneCycle {
            min_lr,
            max_lr,
            first_steps: 3,
            second_steps: 3,
            first_stairs: 0,
            second_stairs: 2,
            decay_rate: 0.5,
            decay_steps: 1,
            momentum: cycles.then_some(CycledMomentum { min: 0.8, max: 0.9, decay_rate: 0.0 }),
        },
        "lr-range-test" => {
            Schedule::LrRangeTest { min_lr, step_size: 3, step_rate: 2.0, staircase: true }
        }
        "step" => Schedule::Step { step_size: 3, gamma: 0.5 },
        "cosine-restarts" => Schedule::CosineRestarts { first_period: 2, period_factor: 2, min_lr },
        _ => Schedule::Constant,
    }
}

fn precision(kind: PrecisionKind) -> Precision {
    match kind {
        PrecisionKind::Fp32 => Precision::FP32,
        kind => Precision {
            asked: kind,
            effective: kind,
            grad_accumulation: kind,
            communication: kind,
            on_overflow: OnOverflow::Skip,
            loss_scale: (kind == PrecisionKind::Fp16).then_some(LossScale::Static { value: 256.0 }),
            ..Precision::FP32
        },
    }
}

/// Of a loss against the reference's, which computes in fp32 and updates in fp64. Beyond fp32 it is
/// the rounding of weights and activations, which six steps do not add up much.
fn tolerance(kind: PrecisionKind) -> f64 {
    match kind {
        PrecisionKind::Fp32 => 1e-5,
        PrecisionKind::Bf16 => 2e-2,
        PrecisionKind::Fp16 => 3e-3,
    }
}

/// One value of each setting, by index, in the order of [`sizes`].
type Row = [usize; 7];

fn sizes() -> Row {
    [
        optimizers().len(),
        SCHEDULES.len(),
        CLIPPINGS.len(),
        STAGES.len(),
        WORLDS.len(),
        PRECISIONS.len(),
        ACCUMULATIONS.len(),
    ]
}

fn job([optimizer, schedule_index, clipping, stage, _, kind, accumulation]: Row) -> JobSpec {
    let (rate, rule) = optimizers()[optimizer];
    let sourced = |value| Some(Sourced { value, origin: "test".to_owned() });
    let builder = spec::job().stage(STAGES[stage]).max_steps(STEPS).with(|spec| {
        spec::recurrent(spec).hidden_size = 6;
        spec.data.window = Some(5);
        spec.training.batch.batch_size = sourced(BATCH);
        spec.training.batch.micro_batch_size = None;
        spec.training.batch.gradient_accumulation = sourced(ACCUMULATIONS[accumulation]);
        spec.training.optimizer.learning_rate = rate;
        spec.training.optimizer.rule = rule;
        spec.training.schedule = schedule(SCHEDULES[schedule_index], rate, &rule);
        spec.training.gradient_clipping = CLIPPINGS[clipping];
        spec.training.precision = precision(PRECISIONS[kind]);
        spec.training.validate = Validate::Never;
        spec.checkpoint.every_epochs = None;
        spec.checkpoint.resume = Resume::Never;
        spec.monitor.csv = false;
    });
    builder.build()
}

fn describe(row: Row) -> String {
    let [optimizer, schedule, clipping, stage, world, kind, accumulation] = row;
    format!(
        "{:?}, {}, clipping {}, stage {}, world {}, {:?}, {} micro-steps",
        optimizers()[optimizer].1,
        SCHEDULES[schedule],
        CLIPPINGS[clipping],
        STAGES[stage],
        WORLDS[world],
        PRECISIONS[kind],
        ACCUMULATIONS[accumulation]
    )
}

/// What the losses of rows are compared with. What the reference does not know of changes nothing but
/// rounding.
#[derive(Default)]
struct References(Mutex<BTreeMap<[usize; 3], Losses>>);

/// Computed by whoever needs them first.
type Losses = Arc<OnceLock<Vec<f64>>>;

impl References {
    fn of(&self, row: Row) -> Losses {
        let [optimizer, schedule, clipping, ..] = row;
        let mut all = self.0.lock().unwrap();
        let losses = all.entry([optimizer, schedule, clipping]).or_default().clone();
        drop(all);
        losses.get_or_init(|| reference::losses(&job(row), STEPS, BATCH));
        losses
    }
}

fn check(row: Row, references: &References) -> Result<(), String> {
    let expected = references.of(row);
    let expected = expected.get().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ended = Attempt::new(job(row), WORLDS[row[4]], dir.path()).run();
    if let Some(error) = ended.outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        return Err(format!("{}: {}", describe(row), crate::error::chain(error)));
    }
    let losses = ended.heard[0].losses.lock().unwrap();
    let errors: Vec<f64> =
        losses.iter().zip(expected).map(|(l, r)| (l - r).abs() / r.abs()).collect();
    // NaN is within nothing.
    let is_near = errors.iter().all(|error| *error <= tolerance(PRECISIONS[row[5]]));
    if is_near && losses.len() == expected.len() {
        return Ok(());
    }
    Err(format!("{}: {} losses, wrong by {errors:?}", describe(row), losses.len()))
}

#[test]
fn soak_settings_that_meet_train_as_a_plain_loop_does() {
    let references = References::default();
    if soak::is_on() || std::env::var_os("RUSTSPEED_MATRIX").is_some_and(|value| value == "full") {
        let mut rows = pairs::product(sizes());
        return soak::run_all("the whole matrix", &mut rows, |row| check(*row, &references));
    }
    let checked = pairs::all_pairs(sizes()).into_iter().map(|row| check(row, &references));
    let wrong: Vec<String> = checked.filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} runs differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Else a run that trains nothing would agree with anything.
#[test]
fn every_setting_of_the_reference_matters() {
    let base = |row: Row| reference::losses(&job(row), STEPS, BATCH);
    let mut all: Vec<Vec<f64>> = Vec::new();
    for optimizer in 0..optimizers().len() {
        all.push(base([optimizer, 0, 0, 0, 0, 0, 0]));
    }
    for schedule in 1..SCHEDULES.len() {
        all.push(base([0, schedule, 0, 0, 0, 0, 0]));
    }
    all.push(base([2, 0, 1, 0, 0, 0, 0]));
    for (index, losses) in all.iter().enumerate() {
        let differs = |other: &Vec<f64>| {
            losses.iter().zip(other).any(|(a, b)| (a - b).abs() / b.abs() > 1e-3)
        };
        assert!(all[..index].iter().all(differs), "run {index} is as one before");
    }
}
