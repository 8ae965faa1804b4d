//! Every optimizer against thirty steps of torch's, and its states through checkpoints.

use checkpoint::{Reader, TensorKind};
use common::spec::{JobSpec, Resume, UpdateRule};

use super::ranks::Attempt;
use crate::Error;
use crate::fixture::{self, OptimizerCase};

/// A12 over worlds and stages, and against torch.
const TOLERANCE: f64 = 1e-5;

fn at_stage(spec: &JobSpec, stage: u8) -> JobSpec {
    let mut spec = spec.clone();
    spec.zero.stage = stage;
    // At stage 3 every parameter is sharded.
    spec.zero.stage3.param_persistence_threshold = 0;
    spec
}

fn check_losses(what: &str, losses: &[f64], expected: &[f64]) {
    assert_eq!(losses.len(), expected.len(), "{what}");
    for (index, (ours, theirs)) in losses.iter().zip(expected).enumerate() {
        let error = (ours - theirs).abs() / theirs.abs();
        assert!(error < TOLERANCE, "{what}: loss {index}: {ours} is not {theirs}");
    }
}

fn check_weights(what: &str, case: &OptimizerCase, checkpoint: &std::path::Path) {
    let reader = Reader::open(checkpoint).unwrap();
    assert_eq!(case.final_weights.len(), 6, "{what}");
    for (name, expected) in &case.final_weights {
        let expected = Vec::<f32>::try_from(expected.flatten(0, -1)).unwrap();
        let mut ours = vec![0.0_f32; expected.len()];
        let bytes = bytemuck::cast_slice_mut(&mut ours);
        let range = 0..expected.len() as u64;
        reader.read_into(TensorKind::Parameter, name, range, bytes).unwrap();
        let scale = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (ours, theirs) in ours.iter().zip(&expected) {
            let error = f64::from((ours - theirs).abs() / scale);
            assert!(error < TOLERANCE, "{what}: `{name}`: {ours} is not {theirs}");
        }
    }
}

/// Half of the steps at one world and stage, the rest at another: so each state is saved,
/// resharded and read, and what it holds matters.
#[test]
fn thirty_steps_equal_torch_and_states_survive_another_world_and_stage() {
    for (index, case) in fixture::optimizers().iter().enumerate() {
        let stages = [0, 1, 2, 3];
        let first = (2, stages[index % 4]);
        let second = (1 + index as u32 % 3, stages[(index + 1) % 4]);
        let dir = tempfile::tempdir().unwrap();
        let (world, stage) = first;
        let mut attempt = Attempt::new(at_stage(&case.spec, stage), world, dir.path());
        attempt.stop_after = Some(15);
        let what = format!("{}, world {world}, stage {stage}", case.name);
        let (_, heard) = attempt.run().unwrap();
        let losses = heard.losses.lock().unwrap().clone();
        let made = losses.len();
        assert!((15..30).contains(&made), "{what}");
        let (expected, rest) = case.expected.losses.split_at(made);
        check_losses(&what, &losses, expected);
        let (world, stage) = second;
        let mut spec = at_stage(&case.spec, stage);
        spec.checkpoint.resume = Resume::Latest;
        let what = format!("{what}, then world {world}, stage {stage}");
        let attempt = Attempt::new(spec, world, dir.path()).generation(2);
        let (_, heard) = attempt.run().unwrap();
        check_losses(&what, &heard.losses.lock().unwrap(), rest);
        check_weights(&what, case, &dir.path().join("checkpoints/step-00000030"));
    }
}

/// Lamb's parameters are cut across ranks; their norms are not.
#[test]
fn lamb_has_the_same_bits_at_every_stage() {
    let cases = fixture::optimizers();
    let case = cases.iter().find(|case| case.name == "lamb").unwrap();
    for world in [2, 3] {
        let losses = |stage| {
            let dir = tempfile::tempdir().unwrap();
            let mut spec = at_stage(&case.spec, stage);
            // A bucket for each unit, as at stage 3: then every norm is a sum of the same parts.
            spec.zero.reduce_bucket_size = 1;
            let (outcome, heard) = Attempt::new(spec, world, dir.path()).run().unwrap();
            let memory = outcome.summary.unwrap().memory[0];
            let losses = heard.losses.lock().unwrap();
            (losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>(), memory.parameters)
        };
        let (whole, bytes) = losses(0);
        assert_eq!(whole.len(), 30);
        for stage in [1, 2, 3] {
            let (found, held) = losses(stage);
            assert_eq!(found, whole, "world {world}, stage {stage}");
            let expected = if stage == 3 { bytes / u64::from(world) } else { bytes };
            assert_eq!(held, expected, "world {world}, stage {stage}");
        }
    }
}

#[test]
fn a_checkpoint_of_other_states_is_refused_with_both_lists() {
    let cases = fixture::optimizers();
    let case = cases.iter().find(|case| case.name == "sgd-momentum").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut spec = case.spec.clone();
    spec.training.max_steps = Some(2);
    Attempt::new(spec.clone(), 1, dir.path()).run().unwrap();
    spec.checkpoint.resume = Resume::Latest;
    spec.training.optimizer.rule = UpdateRule::Lion { betas: [0.9, 0.99] };
    let mut ended = Attempt::new(spec, 1, dir.path()).generation(2).run();
    let error = ended.outcomes.remove(0).unwrap_err();
    match &error {
        Error::OtherOptimizer { found, expected, .. } => {
            assert_eq!((found.as_str(), expected.as_str()), ("momentum_buffer", "exp_avg"));
        }
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("model.init-from"), "{error}");
}
