//! Training in 16 bits, through the room's public surface.

use std::collections::BTreeMap;
use std::path::Path;

use common::spec::{
    DynamicLossScale, JobSpec, LossScale, OnOverflow, Precision, PrecisionKind, Schedule, Validate,
    WarmupShape,
};
use common::status::{FailureKind, Summary};
use serde::Deserialize;

use super::ranks::{Attempt, Heard};
use super::{cnn, spec};
use crate::{Error, fixture, precision};

const BF16: Precision = Precision {
    asked: PrecisionKind::Bf16,
    effective: PrecisionKind::Bf16,
    grad_accumulation: PrecisionKind::Bf16,
    communication: PrecisionKind::Bf16,
    on_overflow: OnOverflow::Skip,
    ..Precision::FP32
};

fn fp16(loss_scale: LossScale) -> Precision {
    Precision {
        asked: PrecisionKind::Fp16,
        effective: PrecisionKind::Fp16,
        grad_accumulation: PrecisionKind::Fp16,
        communication: PrecisionKind::Fp16,
        loss_scale: Some(loss_scale),
        ..BF16
    }
}

/// Starts so high that the first steps overflow, and grows soon.
fn eager() -> Precision {
    let settings = DynamicLossScale {
        initial_scale_power: 27,
        window: 3,
        hysteresis: 1,
        ..DynamicLossScale::default()
    };
    fp16(LossScale::Dynamic(settings))
}

fn with(builder: spec::Builder, precision: Precision) -> spec::Builder {
    builder.with(|spec| spec.training.precision = precision)
}

fn losses(heard: &Heard) -> Vec<f64> {
    heard.losses.lock().unwrap().clone()
}

#[derive(Deserialize)]
struct Case {
    loss_scale: f64,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

/// The tolerances of docs/precision.md: to torch, and between worlds.
fn tolerances(kind: PrecisionKind) -> (f64, f64) {
    match kind {
        PrecisionKind::Fp32 => (1e-5, 1e-5),
        PrecisionKind::Bf16 => (5e-3, 1e-2),
        PrecisionKind::Fp16 => (5e-4, 1e-3),
    }
}

/// `tools/fixtures/make_precision_fixtures.py`.
#[test]
fn thirty_steps_in_16_bits_follow_torch_with_fp32_masters() {
    let text = fs_err::read_to_string(fixture::path("precision.json")).unwrap();
    let cases: BTreeMap<String, Case> = serde_json::from_str(&text).unwrap();
    for (name, case) in &cases {
        let (model, kind) = name.split_once(' ').unwrap();
        let model = fixture::ALL.into_iter().find(|known| *known == model).unwrap();
        let precision = match kind {
            "bf16" => BF16,
            _ => fp16(LossScale::Static { value: case.loss_scale }),
        };
        let worlds = if kind == "bf16" { [(1, 0), (3, 2)] } else { [(1, 0), (2, 1)] };
        for (world, stage) in worlds {
            let mut spec = fixture::load(model).spec;
            spec.training.max_steps = Some(case.losses.len() as u64);
            spec.training.precision = precision;
            spec.zero.stage = stage;
            spec.monitor.csv = true;
            let dir = tempfile::tempdir().unwrap();
            let (outcome, heard) = Attempt::new(spec, world, dir.path()).run().unwrap();
            let summary = outcome.summary.unwrap();
            assert_eq!((summary.steps, summary.skipped_steps), (30, 0));
            let (most, _) = tolerances(precision.effective);
            let what = format!("{name}, world {world}, stage {stage}");
            let pairs = losses(&heard).into_iter().zip(&case.losses);
            for (step, (ours, torchs)) in pairs.enumerate() {
                let error = (ours - torchs).abs() / torchs;
                assert!(error < most, "{what}, step {}: {ours} is not {torchs}", step + 1);
            }
            let norms = column(dir.path(), 5);
            assert_eq!(norms.len(), case.grad_norms.len());
            for (ours, torchs) in norms.iter().zip(&case.grad_norms) {
                let error = (ours - torchs).abs() / torchs;
                assert!(error < 10.0 * most, "{what}: norm {ours} is not {torchs}");
            }
        }
    }
}

/// Of `metrics/steps.csv`.
fn column(run_dir: &Path, index: usize) -> Vec<f64> {
    let text = fs_err::read_to_string(run_dir.join("metrics/steps.csv")).unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(index).unwrap().parse().unwrap()).collect()
}

#[test]
fn stages_and_overlap_give_the_same_bits_in_16_bits() {
    let wide_accumulation = Precision { grad_accumulation: PrecisionKind::Fp32, ..BF16 };
    let wide_wire = Precision { communication: PrecisionKind::Fp32, ..BF16 };
    let plan: [(Precision, &[u32]); 4] =
        [(BF16, &[2, 3]), (wide_accumulation, &[2]), (wide_wire, &[3]), (eager(), &[2])];
    for (precision, worlds) in plan {
        for world in worlds.iter().copied() {
            // One micro-step a step: then every sum over ranks has one order.
            let run = |stage, overlap| {
                let builder = spec::job().batch(18, 18).stage(stage).epochs(1);
                let builder = with(builder, precision).with(|spec| {
                    spec::recurrent(spec).num_layers = 2;
                    spec::recurrent(spec).dropout = 0.2;
                    spec.zero.overlap_comm = overlap;
                    spec.zero.reduce_bucket_size = 300;
                    spec.zero.stage3.param_persistence_threshold = 0;
                });
                let dir = tempfile::tempdir().unwrap();
                let (outcome, heard) =
                    Attempt::new(builder.build(), world, dir.path()).run().unwrap();
                (losses(&heard), timeless(outcome.summary.unwrap()))
            };
            let expected = run(0, false);
            for (stage, overlap) in [(0, true), (1, false), (2, true), (3, true)] {
                let what = format!("{precision:?}, world {world}, stage {stage}");
                assert_eq!(run(stage, overlap), expected, "{what}");
            }
        }
    }
}

/// All of a summary that does not depend on clock, world and stage.
fn timeless(summary: Summary) -> Summary {
    Summary {
        samples_per_second: 0.0,
        duration_seconds: 0.0,
        peak_rss_bytes: Vec::new(),
        checkpoint_stall_seconds: 0.0,
        memory: Vec::new(),
        zero_stage: 0,
        world_size: 0,
        resumed_at_step: None,
        attempt_steps: 0,
        notes: Vec::new(),
        ..summary
    }
}

#[test]
fn bf16_without_instructions_for_it_is_said_at_start_and_in_the_summary() {
    let cpuinfo = fs_err::read_to_string("/proc/cpuinfo").unwrap();
    let is_slow = !cpuinfo.contains("avx512_bf16") && !cpuinfo.contains("amx_bf16");
    for (precision, expected) in [(BF16, is_slow), (Precision::FP32, false)] {
        let dir = tempfile::tempdir().unwrap();
        let builder = with(spec::job().max_steps(1), precision);
        let (outcome, heard) = Attempt::new(builder.build(), 2, dir.path()).run().unwrap();
        let notes = outcome.summary.unwrap().notes;
        let said = |notes: &[String]| notes.iter().any(|n| n.contains("CPU of rank 0"));
        assert_eq!(said(&notes), expected, "{notes:?}");
        assert_eq!(said(&heard.notes.lock().unwrap()), expected);
    }
}

#[test]
fn worlds_agree_in_16_bits_within_their_tolerance() {
    let run = |precision, world| {
        let dir = tempfile::tempdir().unwrap();
        let builder = with(spec::job().batch(24, 4).stage(2), precision);
        let (_, heard) = Attempt::new(builder.build(), world, dir.path()).run().unwrap();
        losses(&heard)
    };
    let wide = Precision { grad_accumulation: PrecisionKind::Fp32, ..BF16 };
    for precision in [BF16, wide, fp16(LossScale::Static { value: 64.0 })] {
        let expected = run(precision, 1);
        for world in [2, 3] {
            for (found, expected) in run(precision, world).iter().zip(&expected) {
                let error = (found - expected).abs() / expected;
                let (_, most) = tolerances(precision.effective);
                assert!(error < most, "{precision:?}, world {world}: {found} is not {expected}");
            }
        }
    }
}

/// With batch norm, whose statistics stay in fp32, and dropout.
#[test]
fn digits_are_learned_in_16_bits_as_in_fp32() {
    let run = |precision| {
        let dir = tempfile::tempdir().unwrap();
        let builder = with(cnn::job().stage(2).max_steps(12), precision);
        let (outcome, heard) = Attempt::new(builder.build(), 2, dir.path()).run().unwrap();
        let mut all = losses(&heard);
        all.push(outcome.summary.unwrap().best_val_loss.unwrap());
        all
    };
    let exact = run(Precision::FP32);
    assert!(exact[11] < 0.75 * exact[0], "{exact:?}");
    for (precision, most) in [(BF16, 3e-2), (fp16(LossScale::Static { value: 1024.0 }), 1e-2)] {
        let found = run(precision);
        assert_ne!(found, exact);
        for (found, exact) in found.iter().zip(&exact) {
            let error = (found - exact).abs() / exact;
            assert!(error < most, "{precision:?}: {found} is not {exact}");
        }
    }
}

#[test]
fn accumulation_in_fp32_is_nearer_to_fp32_than_in_bf16() {
    let run = |precision| {
        let dir = tempfile::tempdir().unwrap();
        let builder = with(spec::job().batch(48, 1).epochs(4), precision);
        let (_, heard) = Attempt::new(builder.build(), 1, dir.path()).run().unwrap();
        losses(&heard)
    };
    let exact = run(Precision::FP32);
    let distance = |precision| -> f64 {
        run(precision).iter().zip(&exact).map(|(ours, exact)| (ours - exact).abs()).sum()
    };
    let wide = distance(Precision { grad_accumulation: PrecisionKind::Fp32, ..BF16 });
    let narrow = distance(BF16);
    assert!(0.0 < wide && wide < narrow, "{wide} against {narrow}");
}

#[test]
fn a_run_in_16_bits_resumes_bit_for_bit() {
    for (precision, world) in [(BF16, 2), (eager(), 2)] {
        let job = || with(spec::job().batch(16, 5).stage(2).epochs(3), precision);
        let whole = tempfile::tempdir().unwrap();
        let (outcome, heard) = Attempt::new(job().build(), world, whole.path()).run().unwrap();
        let (expected, expected_losses) = (outcome.summary.unwrap(), losses(&heard));
        let expected_scales = heard.loss_scales.lock().unwrap().clone();
        assert_eq!(expected.skipped_steps > 3, precision != BF16, "{expected:?}");
        let parts = tempfile::tempdir().unwrap();
        let (mut seen, mut scales) = (Vec::new(), Vec::new());
        for (generation, stop) in [(1, Some(2)), (2, Some(11)), (3, None)] {
            let mut attempt = Attempt::new(job().build(), world, parts.path());
            attempt.stop_after = stop;
            let (outcome, heard) = attempt.generation(generation).run().unwrap();
            seen.extend(losses(&heard));
            scales.extend(heard.loss_scales.lock().unwrap().iter().copied());
            if stop.is_none() {
                let found = timeless(outcome.summary.unwrap());
                assert_eq!(found, timeless(expected.clone()));
            }
        }
        assert_eq!(seen, expected_losses, "world {world}");
        assert_eq!(scales, expected_scales, "world {world}");
        assert_eq!(scales.is_empty(), precision == BF16);
    }
}

/// The schedule's first update has rate 0 and the following ones rise: a rate tells which is next.
#[test]
fn an_overflow_skips_the_update_and_the_schedule_but_not_the_samples() {
    let dir = tempfile::tempdir().unwrap();
    let builder = with(spec::job().stage(1), eager()).with(|spec| {
        spec.training.schedule = Schedule::WarmupLr {
            min_lr: 0.0,
            max_lr: 0.01,
            warmup_steps: 8,
            shape: WarmupShape::Linear,
        };
    });
    let (outcome, heard) = Attempt::new(builder.build(), 2, dir.path()).run().unwrap();
    let summary = outcome.summary.unwrap();
    let (norms, rates) = (column(dir.path(), 5), column(dir.path(), 4));
    let skipped = norms.iter().filter(|norm| norm.is_infinite()).count() as u64;
    assert!(skipped > 3 && summary.skipped_steps == skipped, "{norms:?}");
    assert_eq!((summary.steps, summary.samples, norms.len()), (12, 12 * 16, 12));
    let scales = heard.loss_scales.lock().unwrap().clone();
    assert_eq!(scales[0], 2.0_f64.powi(27));
    for (index, pair) in scales.windows(2).enumerate() {
        if norms[index].is_infinite() {
            assert_eq!(pair[1], pair[0] / 2.0, "step {}", index + 1);
        }
    }
    // WarmupLR, linear: updates 0 and 1 at 0, then an eighth more each.
    let mut update = 0_u32;
    for (rate, norm) in rates.iter().zip(&norms) {
        let expected = 0.01 * f64::from(update.saturating_sub(1)) / 8.0;
        assert!((rate - expected).abs() < 1e-12, "update {update}: {rate}, {expected}");
        update += u32::from(norm.is_finite());
    }
    let said = heard.notes.lock().unwrap().join("\n");
    assert!(said.contains("step 1: the gradient of `"), "{said}");
    assert!(said.contains("the step is skipped (1 so far); the loss scale goes from"), "{said}");
    assert_eq!((summary.precision.as_str(), summary.precision_asked), ("fp16", None));
    let last = summary.final_loss_scale.unwrap() / scales[11];
    assert!([0.5, 1.0, 2.0].contains(&last), "{scales:?}, then {:?}", summary.final_loss_scale);
}

fn failures(spec: JobSpec, world: u32) -> Vec<Error> {
    let dir = tempfile::tempdir().unwrap();
    let ended = Attempt::new(spec, world, dir.path()).run();
    ended.outcomes.into_iter().map(Result::unwrap_err).collect()
}

#[test]
fn the_floor_of_the_loss_scale_ends_the_run_with_a_diagnosis() {
    let settings = DynamicLossScale { initial_scale_power: 1, ..DynamicLossScale::default() };
    let precision = Precision {
        // Gradients so large on the wire that every sum overflows.
        gradient_predivide_factor: 1e-12,
        ..fp16(LossScale::Dynamic(settings))
    };
    let errors = failures(with(spec::job().stage(2), precision).build(), 2);
    let said: Vec<_> = errors.iter().map(|error| error.failure()).collect();
    assert_eq!(said[0], said[1], "all ranks agree");
    assert_eq!((said[0].kind, said[0].step), (FailureKind::NotFinite, Some(3)));
    let message = &said[0].message;
    assert!(message.contains("the loss scale is at its floor of 1"), "{message}");
    assert!(message.contains("step 2 the gradient of `"), "{message}");
}

#[test]
fn bf16_skips_what_is_not_finite_and_ends_where_nothing_is_learned() {
    let job = |on_overflow| {
        let precision = Precision { on_overflow, ..BF16 };
        with(spec::job().epochs(50), precision).with(|spec| {
            // The first update makes weights that overflow.
            spec.training.optimizer.learning_rate = 1e38;
            spec.training.validate = Validate::Never;
        })
    };
    for error in failures(job(OnOverflow::Skip).build(), 2) {
        let Error::Precision(precision::Error::NeverFinite { step, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*step, 102, "after one update and a hundred that were skipped");
    }
    for error in failures(job(OnOverflow::Fail).build(), 2) {
        let failure = error.failure();
        assert_eq!((failure.kind, failure.step), (FailureKind::NotFinite, Some(2)));
    }
}
