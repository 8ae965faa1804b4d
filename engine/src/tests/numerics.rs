//! Whole runs against what PyTorch computed, over worlds and stages.

use std::path::Path;

use checkpoint::{Reader, TensorKind};
use common::spec::{JobSpec, RecurrentKernel, Resume};

use super::ranks::Attempt;
use crate::fixture::{self, Fixture};

/// A12 over worlds and stages, and against torch.
const TOLERANCE: f64 = 1e-5;

/// A fixture's job at a stage, with a checkpoint at its end.
fn job(mut spec: JobSpec, stage: u8) -> JobSpec {
    spec.zero.stage = stage;
    spec.monitor.csv = true;
    spec.checkpoint.resume = Resume::Never;
    spec
}

fn relative(ours: f64, theirs: f64) -> f64 {
    (ours - theirs).abs() / theirs.abs().max(1e-3)
}

#[test]
fn fifty_steps_equal_torch_at_every_world_and_stage() {
    for name in fixture::ALL {
        let fixture = fixture::load(name);
        for (kernel, spec) in fixture.on_each_kernel() {
            // Worlds and stages do not see which code runs a layer: one of them meets them all.
            let all = [(1, 0), (2, 2), (1, 2), (2, 0), (2, 1), (3, 2)];
            let is_second = kernel == RecurrentKernel::Libtorch;
            for (world, stage) in all.into_iter().take(if is_second { 2 } else { all.len() }) {
                let dir = tempfile::tempdir().unwrap();
                let attempt = Attempt::new(job(spec.clone(), stage), world, dir.path());
                let (outcome, heard) = attempt.run().unwrap();
                let what = format!("{name}, {kernel:?}, world {world}, stage {stage}");
                check_losses(&what, &fixture, &heard.losses.lock().unwrap());
                check_rows(&what, &fixture, dir.path());
                check_weights(&what, &fixture, &dir.path().join("checkpoints/step-00000050"));
                let summary = outcome.summary.unwrap();
                assert_eq!((summary.steps, summary.world_size), (50, world), "{what}");
            }
        }
    }
}

fn check_losses(what: &str, fixture: &Fixture, losses: &[f64]) {
    assert_eq!(losses.len(), fixture.expected.losses.len(), "{what}");
    for (step, (ours, theirs)) in losses.iter().zip(&fixture.expected.losses).enumerate() {
        let error = relative(*ours, *theirs);
        assert!(error < TOLERANCE, "{what}: loss of step {}: {ours} is not {theirs}", step + 1);
    }
}

/// Learning rates, gradient norms and validations, as rank 0 wrote them.
fn check_rows(what: &str, fixture: &Fixture, run_dir: &Path) {
    let expected = &fixture.expected;
    let rows = read_csv(&run_dir.join("metrics/steps.csv"));
    let pairs = expected.learning_rates.iter().zip(&expected.grad_norms);
    assert_eq!(rows.len(), expected.losses.len(), "{what}");
    for (row, (rate, norm)) in rows.iter().zip(pairs) {
        assert!((row[4] - rate).abs() <= 1e-12, "{what}: rate {} is not {rate}", row[4]);
        assert!(relative(row[5], *norm) < TOLERANCE, "{what}: norm {} is not {norm}", row[5]);
    }
    let rows = read_csv(&run_dir.join("metrics/validation.csv"));
    for (step, loss) in &expected.validation {
        let row = rows.iter().find(|row| row[0] == *step as f64).unwrap();
        assert!(relative(row[3], *loss) < TOLERANCE, "{what}: {} is not {loss}", row[3]);
    }
}

fn read_csv(path: &Path) -> Vec<Vec<f64>> {
    let text = fs_err::read_to_string(path).unwrap();
    let numbers = |line: &str| line.split(',').map(|cell| cell.parse().unwrap()).collect();
    text.lines().skip(1).map(numbers).collect()
}

fn check_weights(what: &str, fixture: &Fixture, checkpoint: &Path) {
    let reader = Reader::open(checkpoint).unwrap();
    for (name, expected) in fixture.final_weights() {
        let expected = Vec::<f32>::try_from(expected.flatten(0, -1)).unwrap();
        let ours = read(&reader, TensorKind::Parameter, &name, expected.len());
        let scale = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (ours, theirs) in ours.iter().zip(&expected) {
            let error = f64::from((ours - theirs).abs() / scale);
            assert!(error < TOLERANCE, "{what}: `{name}`: {ours} is not {theirs}");
        }
    }
}

fn read(reader: &Reader, kind: TensorKind, name: &str, len: usize) -> Vec<f32> {
    let mut values = vec![0.0_f32; len];
    let bytes = bytemuck::cast_slice_mut(&mut values);
    reader.read_into(kind, name, 0..len as u64, bytes).unwrap();
    values
}
