//! Whole runs against what PyTorch computed, over worlds and stages.

use std::path::Path;

use common::spec::{JobSpec, Resume};

use super::ranks::Attempt;
use crate::fixture::{self, Fixture};

/// A12 over worlds and stages, and against torch.
const TOLERANCE: f64 = 1e-5;

/// A fixture's job at a stage, with a checkpoint at its end.
fn job(fixture: &Fixture, stage: u8) -> JobSpec {
    let mut spec = fixture.spec.clone();
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
        for (world, stage) in [(1, 0), (1, 2), (2, 0), (2, 1), (2, 2), (3, 2)] {
            let dir = tempfile::tempdir().unwrap();
            let attempt = Attempt::new(job(&fixture, stage), world, dir.path());
            let (outcome, heard) = attempt.run().unwrap();
            let what = format!("{name}, world {world}, stage {stage}");
            check_losses(&what, &fixture, &heard.losses.lock().unwrap());
            check_rows(&what, &fixture, dir.path());
            let summary = outcome.summary.unwrap();
            assert_eq!((summary.steps, summary.world_size), (50, world), "{what}");
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

