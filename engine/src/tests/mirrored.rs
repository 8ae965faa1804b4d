//! What a GPU's rank does differently, without the GPU: the model computes on a second copy of the
//! parameters, which is published from the host's. Every bit must be the same.

use super::ranks::Attempt;
use super::{cnn, spec};
use crate::Device;
use common::spec::{Precision, PrecisionKind};

fn bits(builder: spec::Builder, device: Device) -> Vec<u64> {
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(builder.build(), 2, dir.path());
    attempt.device = device;
    let (outcome, heard) = attempt.run().unwrap();
    let losses = heard.losses.lock().unwrap().clone();
    let summary = outcome.summary.unwrap();
    let last = [summary.best_val_loss.unwrap(), summary.gradient_norms.max];
    losses.into_iter().chain(last).map(f64::to_bits).collect()
}

#[test]
fn parameters_that_are_published_train_as_those_that_are_shared() {
    for (stage, kind) in [
        (0, PrecisionKind::Fp32),
        (1, PrecisionKind::Bf16),
        (2, PrecisionKind::Fp32),
        (3, PrecisionKind::Fp32),
        (3, PrecisionKind::Bf16),
    ] {
        let job = || {
            spec::job().batch(16, 4).stage(stage).with(|spec| {
                spec::recurrent(spec).num_layers = 2;
                spec::recurrent(spec).dropout = 0.2;
                spec.zero.overlap_comm = true;
                spec.zero.stage3.param_persistence_threshold = 0;
                spec.training.activation_checkpointing = stage == 2;
                let asked = Precision::FP32;
                spec.training.precision = Precision {
                    asked: kind,
                    effective: kind,
                    grad_accumulation: PrecisionKind::Fp32,
                    communication: kind,
                    ..asked
                };
            })
        };
        let expected = bits(job(), Device::CPU);
        assert!(expected.len() > 8);
        assert_eq!(bits(job(), Device::MIRRORED), expected, "stage {stage}, {kind:?}");
    }
}

/// Batch norm's statistics are beside the parameters, and come from the model.
#[test]
fn a_cnn_does_too() {
    let job = || cnn::job().max_steps(6);
    assert_eq!(bits(job(), Device::MIRRORED), bits(job(), Device::CPU));
}

#[test]
fn a_libtorch_without_cuda_is_refused_with_what_to_do() {
    let error = crate::Error::from(Device::cuda(0).unwrap_err());
    let failure = error.failure();
    assert_eq!(failure.kind, common::status::FailureKind::Start);
    let said = failure.message;
    assert!(said.contains("libtorch_cuda.so") && said.contains("DEVICE=cuda"), "{said}");
}
