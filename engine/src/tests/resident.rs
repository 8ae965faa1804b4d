//! What a GPU's rank does, without the GPU: parameters, gradients and optimizer states are tensors that
//! libtorch updates, sums over ranks are a device communicator's or go through the host's memory. The
//! CPU is in the GPU's place, and a communicator of the host's memory in NCCL's.
//!
//! What is no update is the same operations, so the same bits. An update may fuse what our loops do
//! one by one: there the losses agree within [`TOLERANCE`].

use std::path::Path;

use common::spec::{
    DataSource, GradientCompression, JobSpec, LossScale, Missing, Normalization, Offload,
    OffloadDevice, OnOverflow, Precision, PrecisionKind, RecurrentKernel, Resume, UpdateRule,
    Validate,
};
use common::status::FailureKind;

use super::ranks::Attempt;
use super::{cnn, spec};
use crate::{Device, fixture};

/// Relative, of losses and norms over a run in fp32.
const TOLERANCE: f64 = 1e-5;
/// The same in bf16: a weight that a last bit rounds to its neighbour moves by 1/256.
const BF16_TOLERANCE: f64 = 2e-2;
/// In fp16 by 1/2048.
const FP16_TOLERANCE: f64 = 3e-3;

const SGD: UpdateRule = UpdateRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: false };
const ADAM: UpdateRule = UpdateRule::Adam {
    betas: [0.9, 0.999],
    eps: 1e-8,
    bias_correction: true,
    decoupled_decay: false,
};
const LAMB: UpdateRule = UpdateRule::Lamb {
    betas: [0.9, 0.999],
    eps: 1e-8,
    bias_correction: true,
    eps_inside_sqrt: false,
    min_coeff: 0.01,
    max_coeff: 10.0,
};

/// How the ranks of a run sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sums {
    /// All on the host, as on CPUs.
    Host,
    /// Of the device's memory.
    Direct,
    /// Of the device's memory, through the host's.
    Staged,
}

/// Losses of the steps, then the best validation and the largest norm.
fn run(job: JobSpec, world: u32, sums: Sums) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    run_in(job, world, sums, dir.path())
}

fn run_in(job: JobSpec, world: u32, sums: Sums, dir: &Path) -> Vec<f64> {
    let mut attempt = Attempt::new(job, world, dir);
    if sums != Sums::Host {
        attempt.device = Device::RESIDENT;
    }
    attempt.sums_on_device = sums == Sums::Direct;
    let (outcome, heard) = attempt.run().unwrap();
    let losses = heard.losses.lock().unwrap().clone();
    let summary = outcome.summary.unwrap();
    let last = [summary.best_val_loss.unwrap(), summary.gradient_norms.max];
    losses.into_iter().chain(last).collect()
}

fn in_precision(kind: PrecisionKind, accumulation: PrecisionKind) -> impl Fn(&mut JobSpec) {
    move |spec| {
        spec.training.precision = Precision {
            asked: kind,
            effective: kind,
            grad_accumulation: accumulation,
            communication: kind,
            ..Precision::FP32
        };
    }
}

/// Two layers with dropout, clipped, of which every parameter is sharded at stage 3.
fn job(stage: u8) -> spec::Builder {
    spec::job().batch(16, 4).epochs(1).stage(stage).with(|spec| {
        spec::recurrent(spec).num_layers = 2;
        spec::recurrent(spec).dropout = 0.2;
        spec.zero.stage3.param_persistence_threshold = 0;
        spec.zero.reduce_bucket_size = 700;
        spec.training.gradient_clipping = 0.3;
    })
}

fn same(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let off = (found - expected).abs() / expected.abs();
        assert!(off <= tolerance, "{what}: {found} where the host has {expected}");
    }
}

/// Of a job that the host trains with the same mathematics, on both ways of summing.
fn check(what: &str, builder: impl Fn() -> spec::Builder, worlds: &[u32], tolerance: f64) {
    for &world in worlds {
        let expected = run(builder().build(), world, Sums::Host);
        assert!(expected.len() > 6 && expected.iter().all(|value| *value > 0.0), "{expected:?}");
        for sums in [Sums::Direct, Sums::Staged] {
            let what = format!("{what}, world {world}, {sums:?}");
            same(&what, &run(builder().build(), world, sums), &expected, tolerance);
        }
    }
}

#[test]
fn every_stage_trains_as_on_the_host() {
    for stage in 0..=3 {
        check(&format!("stage {stage}"), || job(stage), &[1, 2, 3], TOLERANCE);
    }
}

#[test]
fn every_stage_trains_in_bf16_as_on_the_host() {
    for stage in 0..=3 {
        for sums in [PrecisionKind::Bf16, PrecisionKind::Fp32] {
            let what = format!("bf16, stage {stage}, summed in {sums:?}");
            let builder = || job(stage).with(in_precision(PrecisionKind::Bf16, sums));
            check(&what, builder, &[1, 2], BF16_TOLERANCE);
        }
    }
}

#[test]
fn every_stage_trains_in_fp16_with_a_loss_scale_as_on_the_host() {
    for stage in 0..=3 {
        let builder = || {
            job(stage).with(in_precision(PrecisionKind::Fp16, PrecisionKind::Fp16)).with(|spec| {
                spec.training.precision.loss_scale = Some(LossScale::Static { value: 128.0 });
                spec.training.precision.on_overflow = OnOverflow::Skip;
            })
        };
        check(&format!("fp16, stage {stage}"), builder, &[1, 2], FP16_TOLERANCE);
    }
}

#[test]
fn optimizers_move_what_is_on_the_device() {
    for rule in [SGD, ADAM, LAMB] {
        for stage in [0, 1, 3] {
            let builder = || job(stage).with(|spec| spec.training.optimizer.rule = rule);
            check(&format!("{rule:?}, stage {stage}"), builder, &[1, 3], TOLERANCE);
        }
    }
}

/// Plain SGD is one multiplication and one addition: nothing there is to be fused otherwise.
#[test]
fn what_is_no_update_has_the_same_bits() {
    for stage in 0..=3 {
        for kind in [PrecisionKind::Fp32, PrecisionKind::Bf16] {
            let builder = || {
                job(stage).with(in_precision(kind, kind)).with(|spec| {
                    spec.training.gradient_clipping = 0.0;
                    spec.training.optimizer.weight_decay = 0.0;
                    // A power of two: the product is exact, however it is added.
                    spec.training.optimizer.learning_rate = 0.0625;
                    spec.training.optimizer.rule =
                        UpdateRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false };
                })
            };
            let losses = |world, sums| {
                let mut all = run(builder().build(), world, sums);
                // The norm is summed in another order.
                all.pop();
                all
            };
            for world in [1, 2] {
                let expected = losses(world, Sums::Host);
                for sums in [Sums::Direct, Sums::Staged] {
                    let what = format!("stage {stage}, {kind:?}, world {world}, {sums:?}");
                    assert_eq!(losses(world, sums), expected, "{what}");
                }
            }
        }
    }
}

#[test]
fn units_that_are_recomputed_and_batch_norm_train_as_on_the_host() {
    let again = |spec: &mut JobSpec| spec.training.activation_checkpointing = true;
    for stage in [0, 2, 3] {
        check(&format!("recomputed, stage {stage}"), || job(stage).with(again), &[2], TOLERANCE);
    }
    check("a CNN", || cnn::job().max_steps(6), &[1, 2], 1e-4);
}

/// The layout of buckets knows of them, and the update passes over them.
#[test]
fn parameters_that_are_frozen_stay_so_on_the_device() {
    let names = ["*.weight_hh*", "fc.weight"];
    for stage in 0..=3 {
        let freeze = |spec: &mut JobSpec| spec.training.freeze = names.map(str::to_owned).to_vec();
        check(&format!("frozen, stage {stage}"), || job(stage).with(freeze), &[1, 2], TOLERANCE);
    }
}

/// On a GPU that is a stream of its own; where there is none it changes nothing.
#[test]
fn sums_that_overlap_with_backward_have_the_same_bits() {
    for stage in 0..=3 {
        for sums in [Sums::Direct, Sums::Staged] {
            let losses = |overlap| {
                run(job(stage).with(|spec| spec.zero.overlap_comm = overlap).build(), 2, sums)
            };
            assert_eq!(losses(true), losses(false), "stage {stage}, {sums:?}");
        }
    }
}

/// What one kind of memory has saved another one loads, and saves again to the bit; and goes on with the
/// same loss, which is of the weights before the update.
#[test]
fn a_checkpoint_goes_from_the_device_to_the_host_and_back_to_the_bit() {
    for (stage, kind) in
        [(0, PrecisionKind::Fp32), (2, PrecisionKind::Bf16), (3, PrecisionKind::Fp32)]
    {
        let until = |steps, resume| {
            let job = job(stage).with(in_precision(kind, kind)).max_steps(steps);
            job.with(|spec| spec.checkpoint.resume = resume).build()
        };
        for first in [Sums::Host, Sums::Direct] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(run_in(until(4, Resume::Auto), 2, first, dir.path()).len(), 6);
            let checkpoint = dir.path().join("checkpoints/step-00000004");
            let expected = saved(dir.path(), 4);
            let mut losses = Vec::new();
            for second in [Sums::Host, Sums::Direct, Sums::Staged] {
                let from = || Resume::Path(checkpoint.clone());
                let dir = tempfile::tempdir().unwrap();
                // Nothing is left to train: what was loaded is saved.
                assert_eq!(run_in(until(4, from()), 2, second, dir.path()).len(), 2);
                let what = format!("stage {stage}, {kind:?}, from {first:?} to {second:?}");
                assert_eq!(saved(dir.path(), 4), expected, "{what}");
                losses.push(run(until(5, from()), 2, second)[0]);
            }
            assert_eq!(losses, [losses[0]; 3], "stage {stage}, {kind:?}");
        }
    }
}

/// They wait in the host's memory for the test part, also over a checkpoint.
#[test]
fn the_best_weights_come_back_to_the_device() {
    let job = || {
        job(2).epochs(3).with(|spec| {
            spec.data.source = DataSource::Csv {
                path: fixture::path("series.csv"),
                columns: vec!["load".to_owned(), "heat".to_owned()],
                targets: vec!["load".to_owned()],
                header: true,
                split: [0.5, 0.25, 0.25],
                normalization: Normalization::Standard,
                missing: Missing::Error,
            };
            spec.training.validate = Validate::EverySteps(3);
            // Too fast: the best weights are not the last ones.
            spec.training.optimizer.learning_rate = 0.2;
        })
    };
    let tested = |device, stops: &[Option<u64>]| {
        let dir = tempfile::tempdir().unwrap();
        let mut tested = None;
        for (generation, stop) in (1..).zip(stops) {
            let mut attempt = Attempt::new(job().build(), 2, dir.path()).generation(generation);
            (attempt.device, attempt.stop_after) = (device, *stop);
            tested = attempt.run().unwrap().0.summary.unwrap().test;
        }
        tested.unwrap().loss
    };
    let expected = tested(Device::CPU, &[None]);
    let whole = tested(Device::RESIDENT, &[None]);
    same("test", &[whole], &[expected], 1e-3);
    assert_eq!(tested(Device::RESIDENT, &[Some(7), None]), whole);
}

/// The bytes of all tensors of the checkpoint at a step, by file.
fn saved(run_dir: &Path, step: u64) -> Vec<Vec<u8>> {
    let folder = run_dir.join(format!("checkpoints/step-{step:08}"));
    let mut files: Vec<_> = fs_err::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "safetensors"))
        .collect();
    files.sort();
    let all: Vec<Vec<u8>> =
        files.iter().map(|path| tensors(&fs_err::read(path).unwrap())).collect();
    assert!(!all.is_empty());
    all
}

/// A shard without its header, which tells the attempt.
fn tensors(file: &[u8]) -> Vec<u8> {
    let (len, rest) = file.split_first_chunk::<8>().unwrap();
    rest[u64::from_le_bytes(*len) as usize..].to_vec()
}

#[test]
fn a_step_that_overflows_changes_nothing() {
    let builder = || {
        job(1).with(|spec| {
            in_precision(PrecisionKind::Fp16, PrecisionKind::Fp16)(spec);
            // Far beyond what fp16 holds: every step overflows until the scale has fallen.
            spec.training.precision.loss_scale = Some(LossScale::Static { value: 1.0e38 });
            spec.training.precision.on_overflow = OnOverflow::Skip;
        })
    };
    let notes = [Device::CPU, Device::RESIDENT].map(|device| {
        let dir = tempfile::tempdir().unwrap();
        let mut attempt = Attempt::new(builder().max_steps(2).build(), 2, dir.path());
        attempt.device = device;
        attempt.sums_on_device = true;
        let (outcome, heard) = attempt.run().unwrap();
        let summary = outcome.summary.unwrap();
        let losses = heard.losses.lock().unwrap().clone();
        (summary.skipped_steps, losses, summary.best_val_loss)
    });
    assert_eq!(notes[0], notes[1]);
    assert_eq!(notes[1].0, 2);
}

#[test]
fn an_offloaded_optimizer_is_the_hosts_to_the_bit() {
    let offload = Offload { device: OffloadDevice::Cpu, ratio: 1.0, pin_memory: false };
    let builder = || job(2).with(|spec| spec.zero.offload_optimizer = Some(offload));
    let expected = run(builder().build(), 2, Sums::Host);
    assert_eq!(run(builder().build(), 2, Sums::Direct), expected);
}

#[test]
fn what_is_for_cpus_alone_is_refused_by_name() {
    let int8 = |spec: &mut JobSpec| spec.training.gradient_compression = GradientCompression::Int8;
    let native = |spec: &mut JobSpec| spec::recurrent(spec).kernel = RecurrentKernel::Native;
    refused(job(0).with(int8), ["training.gradient-compression = \"int8\"", "offload_optimizer"]);
    refused(job(0).with(native), ["model.kernel = \"native\"", "\"libtorch\""]);
}

fn refused(job: spec::Builder, words: [&str; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(job.build(), 2, dir.path());
    attempt.device = Device::RESIDENT;
    for outcome in attempt.run().outcomes {
        let failure = outcome.unwrap_err().failure();
        assert_eq!(failure.kind, FailureKind::Configuration);
        let said = failure.message;
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

/// Rank 1 stops training while rank 0 goes on: they come to one gather with other buckets.
#[test]
fn ranks_that_differ_are_told_so_by_the_device_too() {
    let change = |spec: &mut JobSpec| spec.training.max_steps = Some(2);
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(job(3).epochs(3).build(), 2, dir.path());
    (attempt.device, attempt.sums_on_device) = (Device::RESIDENT, true);
    attempt.of_rank = Some((1, change));
    for outcome in attempt.run().outcomes {
        let failure = outcome.unwrap_err().failure();
        assert_eq!(failure.kind, FailureKind::Communication, "{failure:?}");
        assert!(failure.message.contains("gather a unit's parameters"), "{failure:?}");
    }
}
