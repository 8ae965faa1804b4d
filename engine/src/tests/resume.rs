//! Stopping, resuming, and what a checkpoint must hold for the run to be the same.

use std::path::Path;

use common::spec::{DataSource, EarlyStopping, Layout, Missing, Normalization, Resume, Validate};
use common::status::Summary;

use super::ranks::{Attempt, Heard};
use super::spec;
use crate::Error;
use crate::fixture;

/// With a test part, dropout, accumulation, a short last batch and a schedule: all that a run can
/// remember.
fn job() -> spec::Builder {
    spec::job().batch(14, 5).epochs(4).stage(2).drop_last(false).with(|spec| {
        spec::recurrent(spec).num_layers = 2;
        spec::recurrent(spec).dropout = 0.3;
        spec.data.source = DataSource::Csv {
            path: fixture::path("series.csv"),
            columns: vec!["load".to_owned(), "heat".to_owned()],
            targets: vec!["load".to_owned()],
            header: true,
            split: [0.5, 0.25, 0.25],
            normalization: Normalization::Standard,
            missing: Missing::Error,
        };
        spec.training.optimizer.learning_rate = 0.05;
        spec.training.validate = Validate::EverySteps(3);
        spec.training.early_stopping = Some(EarlyStopping { patience: 1000, min_delta: 0.0 });
        spec.training.schedule = common::spec::Schedule::WarmupCosineLr {
            warmup_min_ratio: 0.0,
            cos_min_ratio: 0.1,
            warmup_steps: 5,
            shape: common::spec::WarmupShape::Linear,
            total_steps: None,
        };
    })
}

/// Nothing stays whole at stage 3.
fn sharded(builder: spec::Builder) -> spec::Builder {
    builder.with(|spec| spec.zero.stage3.param_persistence_threshold = 0)
}

/// All of a summary that does not depend on the clock.
fn timeless(summary: &Summary) -> Summary {
    Summary {
        samples_per_second: 0.0,
        duration_seconds: 0.0,
        peak_rss_bytes: Vec::new(),
        memory: Vec::new(),
        checkpoint_stall_seconds: 0.0,
        world_size: 0,
        zero_stage: 0,
        resumed_at_step: None,
        attempt_steps: 0,
        notes: Vec::new(),
        ..summary.clone()
    }
}

fn losses(heard: &Heard) -> Vec<f64> {
    heard.losses.lock().unwrap().clone()
}

fn notes(heard: &Heard) -> String {
    heard.notes.lock().unwrap().join("\n")
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    for (world, stage) in [(1, 2), (2, 2), (2, 3)] {
        let job = || sharded(job().stage(stage));
        let whole = tempfile::tempdir().unwrap();
        let (outcome, heard) = Attempt::new(job().build(), world, whole.path()).run().unwrap();
        let (expected, expected_losses) = (outcome.summary.unwrap(), losses(&heard));
        assert!(expected.test.is_some() && expected.steps > 10);

        let parts = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for (generation, stop) in [(1, Some(4)), (2, Some(9)), (3, None)] {
            let mut attempt = Attempt::new(job().build(), world, parts.path());
            attempt.stop_after = stop;
            let (outcome, heard) = attempt.generation(generation).run().unwrap();
            assert_eq!(outcome.stopped, stop.is_some());
            assert_eq!(outcome.summary.as_ref().unwrap().cancelled, stop.is_some());
            seen.extend(losses(&heard));
            if stop.is_none() {
                assert_eq!(timeless(outcome.summary.as_ref().unwrap()), timeless(&expected));
            }
        }
        assert_eq!(seen, expected_losses, "world {world}");
        let rows = |dir: &Path| {
            let text = fs_err::read_to_string(dir.join("metrics/validation.csv")).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(rows(parts.path()), rows(whole.path()));
    }
}

/// Any world and stage loads what any other saved, within the tolerance of A12. Dropout draws by
/// rank, so another world would train on other masks: there is none here.
#[test]
fn another_world_and_stage_continues_the_run() {
    let job = || sharded(job()).with(|spec| spec::recurrent(spec).dropout = 0.0);
    let whole = tempfile::tempdir().unwrap();
    let (_, heard) = Attempt::new(job().build(), 1, whole.path()).run().unwrap();
    let expected = losses(&heard);
    let parts = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let plan = [(1, 3, 3, Some(4)), (2, 1, 0, Some(8)), (3, 2, 1, Some(12)), (4, 2, 3, None)];
    for (generation, world, stage, stop) in plan {
        let spec = job().stage(stage).build();
        let mut attempt = Attempt::new(spec, world, parts.path()).generation(generation);
        attempt.stop_after = stop;
        seen.extend(losses(&attempt.run().unwrap().1));
    }
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(&expected) {
        assert!((seen - expected).abs() < 1e-5 * expected, "{seen} is not {expected}");
    }
}

#[test]
fn ranks_without_a_common_disk_send_their_shards_and_get_them_back() {
    let job = || sharded(job().stage(3));
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let attempt = |generation, stop| {
        let mut attempt = Attempt::new(job().build(), 2, first.path()).generation(generation);
        attempt.run_dirs[1] = second.path().join("elsewhere");
        attempt.stop_after = stop;
        attempt.run().unwrap()
    };
    let (_, heard) = attempt(1, Some(6));
    let mut seen = losses(&heard);
    assert!(notes(&heard).contains("rank 1 on worker `worker-1` cannot use it"), "{heard:?}");
    assert!(!second.path().join("elsewhere/checkpoints").exists());
    let rows = heard.checkpoints.lock().unwrap();
    assert!(rows.iter().all(|(row, _)| row.worker.as_deref() == Some("worker-0") && row.durable));
    let (outcome, heard) = attempt(2, None);
    seen.extend(losses(&heard));
    let whole = tempfile::tempdir().unwrap();
    let (expected, heard) = Attempt::new(job().build(), 2, whole.path()).run().unwrap();
    assert_eq!(seen, losses(&heard));
    let (found, expected) = (outcome.summary.unwrap(), expected.summary.unwrap());
    assert_eq!(timeless(&found), timeless(&expected));
}

#[test]
fn a_shared_layout_that_is_not_shared_is_refused_with_the_worker() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let spec = job().with(|spec| spec.checkpoint.layout = Layout::Shared).build();
    let mut attempt = Attempt::new(spec, 2, first.path());
    attempt.run_dirs[1] = second.path().to_owned();
    for outcome in attempt.run().outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::RootNotShared { .. }), "{error:?}");
        assert!(error.to_string().contains("rank 1 on worker `worker-1`"), "{error}");
    }
}

#[test]
fn a_corrupt_shard_is_named_and_the_next_older_checkpoint_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || job().with(|spec| spec.checkpoint.every_steps = Some(2));
    let mut attempt = Attempt::new(builder().build(), 2, dir.path());
    attempt.stop_after = Some(5);
    let (_, heard) = attempt.run().unwrap();
    let newest = heard.checkpoints.lock().unwrap().last().unwrap().0.clone();
    let shard = Path::new(&newest.path).join("rank-00001-of-00002.g1.safetensors");
    spoil(&shard);

    let strict = builder().with(|spec| spec.checkpoint.resume = Resume::Latest).build();
    let mut other = Attempt::new(strict, 2, dir.path());
    other.job_id = "test-bbbbbb".parse().unwrap();
    let ended = other.run();
    let errors: Vec<_> = ended.outcomes.into_iter().map(Result::unwrap_err).collect();
    let message = errors[0].failure().message;
    assert!(message.contains("rank-00001-of-00002.g1.safetensors"), "{message}");

    let attempt = Attempt::new(builder().build(), 2, dir.path()).generation(3);
    let (_, heard) = attempt.run().unwrap();
    let said = notes(&heard);
    assert!(said.contains("was passed over") && said.contains("rank-00001-of-00002"), "{said}");
    assert!(said.contains("resumed at step"), "{said}");
}

#[test]
fn a_checkpoint_named_through_a_link_is_resumed_and_not_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(job().build(), 2, dir.path());
    attempt.stop_after = Some(5);
    let (_, heard) = attempt.run().unwrap();
    let newest = heard.checkpoints.lock().unwrap().last().unwrap().0.clone();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&newest.path, &link).unwrap();

    let spec = job().with(|spec| spec.checkpoint.resume = Resume::Path(link.clone())).build();
    let mut attempt = Attempt::new(spec, 2, dir.path());
    attempt.job_id = "test-bbbbbb".parse().unwrap();
    attempt.stop_after = Some(6);
    let (_, heard) = attempt.run().unwrap();
    let said = notes(&heard);
    assert!(said.contains(&format!("resumed at step {}", newest.step)), "{said}");
    assert!(Path::new(&newest.path).join("manifest.json").is_file());
}

#[test]
fn a_finished_run_resumes_to_its_summary_without_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let (first, heard) = Attempt::new(job().build(), 2, dir.path()).run().unwrap();
    assert!(!losses(&heard).is_empty());
    let again = Attempt::new(job().build(), 2, dir.path()).generation(2);
    let (second, heard) = again.run().unwrap();
    assert!(losses(&heard).is_empty());
    let (first, second) = (first.summary.unwrap(), second.summary.unwrap());
    assert_eq!(timeless(&second), timeless(&first));
    let steps = first.steps;
    assert_eq!((first.resumed_at_step, first.attempt_steps), (None, steps));
    assert_eq!((second.resumed_at_step, second.attempt_steps), (Some(steps), 0));
    let said = format!("nothing left to train: at step {steps} of {steps}, after epoch 4 of 4;");
    assert!(notes(&heard).contains(&said), "{heard:?}");
}

/// 20 does not divide what 14 left of the epoch; the run goes on with the samples that are left.
#[test]
fn another_batch_size_continues_within_the_epoch_and_ends_with_the_epochs() {
    let dir = tempfile::tempdir().unwrap();
    for drop_last in [true, false] {
        let mut attempt = Attempt::new(job().build(), 1, dir.path());
        attempt.stop_after = Some(6);
        let (_, heard) = attempt.generation(1).run().unwrap();
        assert!(!losses(&heard).is_empty());
        let spec = job().batch(20, 20).drop_last(drop_last).build();
        let attempt = Attempt::new(spec, 2, dir.path());
        let (outcome, _) = attempt.generation(2).run().unwrap();
        assert_eq!(outcome.summary.unwrap().epochs, 4);
        fs_err::remove_dir_all(dir.path().join("checkpoints")).unwrap();
    }
}

#[test]
fn another_model_is_refused_with_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    Attempt::new(job().build(), 1, dir.path()).run().unwrap();
    let spec = job().with(|spec| spec::recurrent(spec).hidden_size = 9).build();
    let ended = Attempt::new(spec, 1, dir.path()).generation(2).run();
    let error = ended.outcomes.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::OtherModel { .. }), "{error:?}");
    assert!(error.to_string().contains("`lstm.weight_ih_l0`"), "{error}");
}

#[test]
fn a_newer_generation_ends_the_older_attempt() {
    let dir = tempfile::tempdir().unwrap();
    Attempt::new(job().build(), 1, dir.path()).generation(5).run().unwrap();
    let ended = Attempt::new(job().build(), 1, dir.path()).generation(4).run();
    let error = ended.outcomes.into_iter().next().unwrap().unwrap_err();
    assert!(error.failure().message.contains("superseded"), "{error:?}");
}

#[test]
fn retention_keeps_the_last_and_the_best() {
    let dir = tempfile::tempdir().unwrap();
    let spec = job()
        .with(|spec| {
            spec.checkpoint.every_steps = Some(3);
            spec.checkpoint.every_epochs = None;
            spec.checkpoint.keep_last = 2;
            spec.checkpoint.keep_best = 1;
        })
        .build();
    let (outcome, heard) = Attempt::new(spec, 2, dir.path()).run().unwrap();
    let best = outcome.summary.unwrap().best_val_step.unwrap();
    let root = checkpoint::Root::at(&dir.path().join("checkpoints"));
    let left: Vec<u64> = root.list().unwrap().whole.iter().map(|found| found.step).collect();
    let rows = heard.checkpoints.lock().unwrap();
    let committed: Vec<u64> = rows.iter().map(|(row, _)| row.step).collect();
    let mut expected: Vec<u64> = committed.iter().rev().take(2).copied().collect();
    if !expected.contains(&best) {
        expected.push(best);
    }
    assert_eq!(left, expected, "of {committed:?}, best {best}");
    let removed = rows.iter().map(|(_, removed)| removed.len()).sum::<usize>();
    assert_eq!(removed, committed.len() - left.len());
}

/// The last step is validated out of turn, and before it is saved.
#[test]
fn the_last_checkpoint_tells_its_validation_loss() {
    for validate in [Validate::EveryEpochs(3), Validate::EverySteps(1000)] {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec::job().with(|spec| spec.training.validate = validate).build();
        let (outcome, _) = Attempt::new(spec, 2, dir.path()).run().unwrap();
        let summary = outcome.summary.unwrap();
        let root = checkpoint::Root::at(&dir.path().join("checkpoints"));
        let newest = root.list().unwrap().whole[0].clone();
        assert_eq!((newest.step, summary.best_val_step), (12, Some(12)));
        assert_eq!(newest.val_loss, summary.best_val_loss);
    }
}

#[test]
fn a_test_part_that_comes_later_is_told_that_the_best_weights_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let without_test = job().with(|spec| {
        if let DataSource::Csv { split, .. } = &mut spec.data.source {
            *split = [0.5, 0.5, 0.0];
        }
    });
    let mut attempt = Attempt::new(without_test.build(), 2, dir.path());
    attempt.stop_after = Some(4);
    let (_, heard) = attempt.run().unwrap();
    assert!(!notes(&heard).contains("best validation"), "{heard:?}");
    let again = Attempt::new(job().build(), 2, dir.path()).generation(2);
    let (outcome, heard) = again.run().unwrap();
    assert!(outcome.summary.unwrap().test.is_some());
    assert!(notes(&heard).contains("does not hold the weights of its best"), "{heard:?}");
}

#[test]
fn a_run_that_stopped_early_goes_on_with_more_patience() {
    let dir = tempfile::tempdir().unwrap();
    let plan = [(1, Some(1), 2), (2, Some(1), 2), (3, Some(3), 4), (4, None, 6)];
    for (generation, patience, epochs) in plan {
        let stopping = patience.map(|patience| EarlyStopping { patience, min_delta: 1e9 });
        let spec = spec::job().epochs(6).with(|spec| spec.training.early_stopping = stopping);
        let attempt = Attempt::new(spec.build(), 2, dir.path()).generation(generation);
        let summary = attempt.run().unwrap().0.summary.unwrap();
        assert_eq!(summary.epochs, epochs, "with a patience of {patience:?}");
        assert_eq!(summary.stopped_early, patience.is_some());
    }
}

/// The root's other job may be running, or be resumed from what it saved.
#[test]
fn another_jobs_newer_checkpoints_refuse_a_start_before_the_root_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let builder = || {
        job().with(|spec| {
            spec.checkpoint.dir = Some(root.display().to_string());
            spec.checkpoint.every_steps = Some(2);
        })
    };
    let first = Attempt::new(builder().build(), 1, &dir.path().join("a"));
    first.run().unwrap();
    let before = checkpoint::Root::at(&root).generation().unwrap().unwrap();
    let spec = builder().with(|spec| spec.checkpoint.resume = Resume::Never).build();
    let mut other = Attempt::new(spec, 1, &dir.path().join("b"));
    other.job_id = "test-bbbbbb".parse().unwrap();
    let error = other.run().outcomes.into_iter().next().unwrap().unwrap_err();
    let message = error.failure().message;
    assert!(message.contains("checkpoint.dir of its own"), "{message}");
    assert_eq!(checkpoint::Root::at(&root).generation().unwrap(), Some(before));
}

#[test]
fn what_a_resume_set_aside_is_told_as_removed_with_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || job().with(|spec| spec.checkpoint.every_steps = Some(2));
    let mut attempt = Attempt::new(builder().build(), 1, dir.path());
    attempt.stop_after = Some(4);
    attempt.run().unwrap();
    let root = checkpoint::Root::at(&dir.path().join("checkpoints"));
    let newest = root.list().unwrap().whole[0].clone();
    spoil(&newest.path.join("rank-00000-of-00001.g1.safetensors"));
    let mut attempt = Attempt::new(builder().build(), 1, dir.path()).generation(2);
    attempt.stop_after = Some(newest.step);
    let (_, heard) = attempt.run().unwrap();
    let rows = heard.checkpoints.lock().unwrap();
    assert!(rows[0].1.contains(&newest.tag), "{rows:?}");
}

#[test]
fn an_attempt_tells_what_it_finds_at_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || job().with(|spec| spec.checkpoint.every_steps = Some(2));
    let mut attempt = Attempt::new(builder().build(), 1, dir.path());
    attempt.stop_after = Some(4);
    let (_, heard) = attempt.run().unwrap();
    assert!(heard.found.lock().unwrap().is_empty());
    let root = checkpoint::Root::at(&dir.path().join("checkpoints"));
    let there: Vec<u64> = root.list().unwrap().whole.iter().rev().map(|one| one.step).collect();
    let (_, heard) = Attempt::new(builder().build(), 1, dir.path()).generation(2).run().unwrap();
    let found: Vec<u64> = heard.found.lock().unwrap().iter().map(|row| row.step).collect();
    assert!(!found.is_empty());
    assert_eq!(found, there);
}

/// What a job was to start from is for its first attempt.
#[test]
fn a_later_attempt_continues_the_jobs_own_newest_checkpoint() {
    let (old, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let builder = || job().with(|spec| spec.checkpoint.every_steps = Some(3));
    let mut attempt = Attempt::new(builder().build(), 1, old.path());
    attempt.stop_after = Some(4);
    let (_, heard) = attempt.run().unwrap();
    let first = heard.checkpoints.lock().unwrap()[0].0.clone();
    let resumed = |resume: Resume, generation, stop| {
        let spec = builder().with(|spec| spec.checkpoint.resume = resume.clone()).build();
        let mut attempt = Attempt::new(spec, 1, dir.path()).generation(generation);
        attempt.job_id = "test-bbbbbb".parse().unwrap();
        attempt.stop_after = Some(stop);
        let summary = attempt.run().unwrap().0.summary.unwrap();
        // A stop saves.
        (summary.resumed_at_step, Some(summary.steps))
    };
    let asked = Resume::Path(first.path.clone().into());
    let (start, newest) = resumed(asked.clone(), 1, 5);
    assert_eq!(start, Some(first.step));
    let (start, newer) = resumed(asked, 2, 8);
    assert_eq!(start, newest);
    assert_eq!(resumed(Resume::Never, 3, 10).0, newer);
}

fn spoil(shard: &Path) {
    let mut bytes = fs_err::read(shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs_err::write(shard, bytes).unwrap();
}
