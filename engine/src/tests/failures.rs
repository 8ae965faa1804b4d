//! Runs that cannot go on, and what they say.

use common::spec::{DataSource, Device, Validate};
use common::status::FailureKind;

use super::ranks::Attempt;
use super::spec;
use crate::{Error, precision};

#[test]
fn a_loss_that_explodes_ends_the_run_on_all_ranks_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec::job()
        .epochs(50)
        .stage(2)
        .with(|spec| {
            spec.training.optimizer.learning_rate = 1e30;
            spec.training.optimizer.weight_decay = 0.0;
            spec.training.validate = Validate::Never;
            spec.checkpoint.every_steps = Some(1);
            spec.checkpoint.keep_last = 100;
        })
        .build();
    let ended = Attempt::new(spec, 2, dir.path()).run();
    let errors: Vec<_> = ended.outcomes.into_iter().map(Result::unwrap_err).collect();
    let said: Vec<_> = errors.iter().map(|error| error.failure().message).collect();
    assert_eq!(said[0], said[1], "all ranks agree");
    let Error::Precision(precision::Error::NotFinite { step, .. }) = &errors[0] else {
        panic!("{errors:?}")
    };
    assert_eq!(errors[0].failure().kind, FailureKind::NotFinite);
    let root = checkpoint::Root::at(&dir.path().join("checkpoints"));
    let newest = root.list().unwrap().whole[0].clone();
    assert_eq!(newest.step, step - 1, "the step that failed changed nothing");
    assert!(checkpoint::verify(&newest.path).unwrap().is_sound());
}

#[test]
fn the_first_bad_tensor_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // Weights of 1e38 overflow in the head: the loss is infinite, its gradient not a number.
    let spec = spec::job().with(|spec| spec.training.optimizer.learning_rate = 1e38).build();
    let ended = Attempt::new(spec, 2, dir.path()).run();
    let message = ended.outcomes[0].as_ref().unwrap_err().to_string();
    assert!(message.contains("the gradient of `lstm.weight_ih_l0` is not finite"), "{message}");
}

#[test]
fn frozen_models_and_empty_batches_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |builder: spec::Builder| {
        let ended = Attempt::new(builder.build(), 1, dir.path()).run();
        ended.outcomes.into_iter().next().unwrap().unwrap_err().failure()
    };
    let failure = refuse(spec::job().with(|spec| spec.training.freeze = vec!["gru.*".to_owned()]));
    assert_eq!(failure.kind, FailureKind::Configuration);
    assert!(failure.message.contains("no parameter is called like `gru.*`"), "{failure:?}");
    let failure = refuse(spec::job().batch(1000, 1000));
    assert_eq!(failure.kind, FailureKind::Configuration);
    assert!(failure.message.contains("96 samples"), "{failure:?}");
}

#[test]
fn a_job_for_gpus_does_not_silently_train_on_cpus() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec::job().with(|spec| spec.resources.device = Device::Cuda).build();
    for outcome in Attempt::new(spec, 2, dir.path()).run().outcomes {
        let failure = outcome.unwrap_err().failure();
        assert_eq!(failure.kind, FailureKind::Start);
        assert!(failure.message.contains("was given no GPU"), "{failure:?}");
    }
}

#[test]
fn ranks_with_different_data_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(spec::job().build(), 2, dir.path());
    attempt.of_rank = Some((1, |spec| {
        if let DataSource::Sine { samples, .. } = &mut spec.data.source {
            *samples = 90;
        }
    }));
    for outcome in attempt.run().outcomes {
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("from 90 to 96 training samples"), "{error}");
    }
}

/// A stale copy of a file on one node has as many rows as the others.
#[test]
fn ranks_with_other_values_of_the_same_size_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(spec::job().build(), 2, dir.path());
    attempt.of_rank = Some((1, |spec| {
        if let DataSource::Sine { noise, .. } = &mut spec.data.source {
            *noise = 0.2;
        }
    }));
    for outcome in attempt.run().outcomes {
        let failure = outcome.unwrap_err().failure();
        assert_eq!(failure.kind, FailureKind::Data);
        assert!(failure.message.contains("the same size and other values"), "{failure:?}");
    }
}

/// A10: the peers' errors are witnesses, the guilty rank's own is the cause.
#[test]
fn a_rank_that_cannot_start_ends_the_others_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut attempt = Attempt::new(spec::job().build(), 3, dir.path());
    attempt.of_rank = Some((1, |spec| spec::recurrent(spec).hidden_size = 0));
    let kinds: Vec<_> = attempt
        .run()
        .outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_err().failure().kind)
        .collect();
    let witness = FailureKind::Communication;
    assert_eq!(kinds, [witness, FailureKind::Configuration, witness]);
}

#[test]
fn a_periodic_save_that_fails_is_told_and_the_last_one_fails_the_run() {
    let run = |tag: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut attempt = Attempt::new(spec::job().build(), 2, dir.path());
        // A file where the folder of a save must be.
        attempt.obstacle = Some(dir.path().join("checkpoints").join(tag));
        attempt.run()
    };
    let (outcome, heard) = run("step-00000006").unwrap();
    assert_eq!(outcome.summary.unwrap().steps, 12);
    let said = heard.notes.lock().unwrap().join("\n");
    assert!(said.contains("the checkpoint of step 6 was not saved (1 so far)"), "{said}");
    for outcome in run("step-00000012").outcomes {
        let failure = outcome.unwrap_err().failure();
        assert_eq!((failure.kind, failure.step), (FailureKind::Checkpoint, Some(12)));
        assert!(failure.message.contains("step-00000012"), "{failure:?}");
    }
}

#[test]
fn a_schedule_that_outlasts_the_run_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec::job()
        .with(|spec| {
            // Without a global batch and a world, who reads the job cannot know its length.
            let batch = &mut spec.training.batch;
            batch.micro_batch_size = batch.batch_size.take();
            spec.resources.world_size = None;
            spec.training.schedule = common::spec::Schedule::WarmupLr {
                min_lr: 0.0,
                max_lr: 0.01,
                warmup_steps: 1000,
                shape: common::spec::WarmupShape::Log,
            };
        })
        .build();
    let (_, heard) = Attempt::new(spec, 1, dir.path()).run().unwrap();
    let said = heard.notes.lock().unwrap().join("\n");
    assert!(said.contains("warms up over 1000 steps, but the run has only 12"), "{said}");
}

#[test]
fn early_stopping_ends_a_run_that_no_longer_improves() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec::job()
        .epochs(50)
        .with(|spec| {
            spec.training.early_stopping =
                Some(common::spec::EarlyStopping { patience: 2, min_delta: 1e9 });
        })
        .build();
    let (outcome, _) = Attempt::new(spec, 2, dir.path()).run().unwrap();
    let summary = outcome.summary.unwrap();
    assert!(summary.stopped_early && !outcome.stopped);
    assert_eq!(summary.epochs, 3, "the first sets the mark, two miss it");
}
