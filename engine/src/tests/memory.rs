//! The estimate of memory before a run against what runs measure, kind by kind.

use common::batch;
use common::memory::{self, Sizes};
use common::spec::{
    Cnn, GradientCompression, Model, Precision, PrecisionKind, RecurrentKernel, UpdateRule,
    Validate,
};

use super::ranks::Attempt;
use super::{cnn, spec};
use crate::Device;

/// Each kind is estimated within so much of what is measured.
const TOLERANCE: f64 = 0.10;
/// Of a kind that is less than this part of the whole, only that it is.
const NEGLIGIBLE: f64 = 0.01;

/// libtorch's activations were listed on CPUs with AVX2 and with AVX-512; without both its layers may
/// run other code, and what they take is not held by a test.
fn activations_are_known() -> bool {
    ["AVX2", "AVX512"].contains(&crate::native::cpu_capability().unwrap().as_str())
}

/// Runs one step and compares every rank with the estimate.
fn check(what: &str, builder: spec::Builder, world: u32) {
    check_on(Device::CPU, what, builder, world);
}

fn check_on(device: Device, what: &str, builder: spec::Builder, world: u32) {
    let builder = builder.max_steps(1).with(|spec| {
        spec.training.validate = Validate::Never;
        spec.checkpoint.every_epochs = None;
        spec.monitor.csv = false;
    });
    let spec = builder.build();
    let plan = batch::plan(&spec.training.batch, world).unwrap();
    let expected = memory::estimate(&spec, Sizes::of(&spec).unwrap(), &plan);
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(spec, world, dir.path());
    (attempt.device, attempt.sums_on_device) = (device, device == Device::RESIDENT);
    let (outcome, _) = attempt.run().unwrap();
    let summary = outcome.summary.unwrap();
    assert_eq!(summary.memory.len(), world as usize);
    for found in summary.memory {
        let kinds = expected.kinds().into_iter().zip([
            found.parameters,
            found.gradients,
            found.optimizer,
            found.buffers,
            found.activations,
        ]);
        let total = found.parameters
            + found.gradients
            + found.optimizer
            + found.buffers
            + found.activations;
        let kinds = kinds.chain([(("total", expected.total()), total)]);
        let kinds = kinds.take(if activations_are_known() { 6 } else { 4 });
        for ((kind, expected), found) in kinds {
            let off = (expected as f64 - found as f64).abs();
            let most = (TOLERANCE * found as f64).max(NEGLIGIBLE * total as f64);
            assert!(off <= most, "{what}, world {world}: {kind} {found}, estimated {expected}");
        }
    }
}

/// 64 hidden units, two layers.
fn lstm(stage: u8) -> spec::Builder {
    spec::job().batch(32, 16).stage(stage).with(|spec| {
        let model = spec::recurrent(spec);
        (model.hidden_size, model.num_layers) = (64, 2);
        spec.zero.stage3.param_persistence_threshold = 0;
    })
}

fn rule(rule: UpdateRule) -> impl FnOnce(&mut common::spec::JobSpec) {
    move |spec| spec.training.optimizer.rule = rule
}

fn in_bf16(spec: &mut common::spec::JobSpec) {
    spec.training.precision = Precision {
        asked: PrecisionKind::Bf16,
        effective: PrecisionKind::Bf16,
        grad_accumulation: PrecisionKind::Bf16,
        communication: PrecisionKind::Bf16,
        ..Precision::FP32
    };
}

const SGD: UpdateRule = UpdateRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: false };
const LION: UpdateRule = UpdateRule::Lion { betas: [0.9, 0.99] };
const LAMB: UpdateRule = UpdateRule::Lamb {
    betas: [0.9, 0.999],
    eps: 1e-8,
    bias_correction: true,
    eps_inside_sqrt: false,
    min_coeff: 0.01,
    max_coeff: 10.0,
};

#[test]
fn every_stage_precision_and_optimizer_holds_what_is_estimated() {
    check("adamw", lstm(0), 1);
    check("sgd", lstm(1).with(rule(SGD)), 2);
    check("adamw", lstm(2), 2);
    check("accumulation", lstm(2).batch(64, 16), 2);
    check("lion", lstm(3).with(rule(LION)), 2);
    check("overlap", lstm(3).with(|spec| spec.zero.overlap_comm = true), 4);
    let persistent = |spec: &mut common::spec::JobSpec| {
        // Of the larger layer the input weights and the recurrent ones are above it.
        spec.zero.stage3.param_persistence_threshold = 16_000;
    };
    check("persistent", lstm(3).with(persistent), 2);
    check("stays", lstm(3).with(|spec| spec.zero.stage3.max_reuse_distance = 1 << 40), 2);
    check("bf16", lstm(0).with(in_bf16), 1);
    check("bf16 lamb", lstm(2).with(in_bf16).with(rule(LAMB)), 2);
    check("bf16", lstm(3).with(in_bf16), 2);
    let wide = |spec: &mut common::spec::JobSpec| {
        spec.training.precision.grad_accumulation = PrecisionKind::Fp32;
    };
    check("bf16, fp32 sums", lstm(1).with(in_bf16).with(wide), 2);
    for stage in [0, 2, 3] {
        let int8 = |spec: &mut common::spec::JobSpec| {
            spec.training.gradient_compression = GradientCompression::Int8;
        };
        check("int8", lstm(stage).with(int8), 2);
    }
}

/// In a device's memory, which libtorch allocates: what is kept there is not taken for activations.
#[test]
fn a_device_holds_what_is_estimated() {
    let check = |what, builder, world| check_on(Device::RESIDENT, what, builder, world);
    check("adamw", lstm(0), 1);
    check("sgd", lstm(1).with(rule(SGD)), 2);
    check("accumulation", lstm(2).batch(64, 16), 2);
    check("adamw", lstm(3), 2);
    check("bf16", lstm(2).with(in_bf16), 2);
    let wide = |spec: &mut common::spec::JobSpec| {
        spec.training.precision.grad_accumulation = PrecisionKind::Fp32;
    };
    check("bf16, fp32 sums", lstm(1).with(in_bf16).with(wide), 2);
}

/// Activations of recurrent layers on each of the codes that may run them.
#[test]
fn recurrent_activations_are_what_is_estimated() {
    let shape = |[hidden, layers, batch, window]: [u32; 4]| {
        spec::job().batch(u64::from(batch), u64::from(batch)).with(|spec| {
            let model = spec::recurrent(spec);
            (model.hidden_size, model.num_layers) = (hidden, layers);
            spec.data.window = Some(window);
        })
    };
    let shapes = [[32, 1, 32, 20], [64, 2, 24, 50], [256, 2, 16, 20], [48, 3, 32, 12]];
    for kernel in [RecurrentKernel::Native, RecurrentKernel::Libtorch] {
        let on = |spec: &mut common::spec::JobSpec| spec::recurrent(spec).kernel = kernel;
        for sizes in shapes {
            check(&format!("{kernel:?} {sizes:?}"), shape(sizes).with(on), 1);
        }
        let both = |spec: &mut common::spec::JobSpec| spec::recurrent(spec).bidirectional = true;
        check(&format!("{kernel:?} bidirectional"), shape([64, 2, 24, 20]).with(on).with(both), 1);
        let dropout = |spec: &mut common::spec::JobSpec| spec::recurrent(spec).dropout = 0.2;
        check(&format!("{kernel:?} dropout"), shape([64, 2, 24, 20]).with(on).with(dropout), 1);
        let again =
            |spec: &mut common::spec::JobSpec| spec.training.activation_checkpointing = true;
        check(&format!("{kernel:?} again"), shape([64, 3, 24, 20]).with(on).with(again), 1);
    }
    for sizes in shapes {
        let gru = |spec: &mut common::spec::JobSpec| {
            spec.model = Model::Gru(spec::recurrent(spec).clone());
        };
        check(&format!("GRU {sizes:?}"), shape(sizes).with(gru), 1);
    }
    for sizes in shapes.into_iter().chain([[32, 2, 64, 20]]) {
        check(&format!("LSTM bf16 {sizes:?}"), shape(sizes).with(in_bf16), 1);
    }
}

#[test]
fn a_cnn_holds_what_is_estimated() {
    let of = |channels: &[u32], hidden_size, batch| {
        let model = Model::Cnn(Cnn {
            channels: channels.to_vec(),
            kernel_size: 3,
            hidden_size,
            dropout: 0.1,
            init_from: None,
        });
        cnn::job().batch(2 * batch, batch).with(|spec| spec.model = model)
    };
    check("CNN", of(&[12, 24], 48, 32).stage(2), 2);
    check("CNN", of(&[16], 32, 64), 1);
    check("CNN", of(&[32, 64], 128, 64), 1);
    check("CNN bf16", of(&[12, 24], 48, 32).with(in_bf16), 1);
    let again = |spec: &mut common::spec::JobSpec| spec.training.activation_checkpointing = true;
    check("CNN again", of(&[12, 24], 48, 64).with(again), 1);
}
