//! Statuses for tests: a job in the middle of its life, and its ends.

use common::ids::{AttemptId, Generation, Rank};
use common::status::{
    AttemptStatus, Failure, FailureKind, GradientHealth, JobRow, JobState, JobStatus, Live,
    RankStatus, Summary, TestResult, TrainerEnd, TrainerFailure,
};

/// The clock of the tests.
pub(crate) const NOW: u64 = 1_700_000_100_000;

pub(crate) fn running() -> JobStatus {
    JobStatus {
        row: JobRow {
            job_id: "co2-lstm-ab12cd".parse().unwrap(),
            name: "co2-lstm".to_owned(),
            state: JobState::Running,
            reason: "2 ranks train".to_owned(),
            attempt: AttemptId(1),
            step: 120,
            max_steps: Some(400),
            world_size: 2,
            submitted_at: NOW - 95_000,
            labels: [("team".to_owned(), "ocean".to_owned())].into(),
            group: None,
        },
        attempts: vec![AttemptStatus {
            attempt: AttemptId(1),
            generation: Generation(1),
            world_size: 2,
            state: JobState::Running,
            reason: String::new(),
            started_at: NOW - 90_000,
            ended_at: None,
            class: String::new(),
            decision: String::new(),
            resumed_at_step: Some(0),
            last_step: None,
        }],
        ranks: (0..2)
            .map(|rank| RankStatus {
                rank: Rank(rank),
                worker: "node-a".to_owned(),
                slots: vec![rank],
                pid: Some(4000 + rank),
                state: "running".to_owned(),
                end: None,
                libtorch: "2.11.0, AVX512".to_owned(),
            })
            .collect(),
        goodput: Some(0.932),
        time: None,
        live: Some(Live {
            step: 120,
            resumed_at_step: None,
            max_steps: Some(400),
            epoch: 3,
            epochs: 10,
            samples: 15_360,
            loss: Some(0.0421),
            val_loss: Some(0.000_051_23),
            val_accuracy: None,
            learning_rate: Some(0.0005),
            grad_norm: Some(0.2),
            samples_per_second: Some(4123.4),
            eta_seconds: Some(131.2),
        }),
        notes: vec!["fp16 was asked for; training in fp32".to_owned()],
        summary: None,
        output_dir: Some("/home/ada/runs/co2-lstm-ab12cd".to_owned()),
        latest_checkpoint: None,
        failure: None,
        waiting: None,
    }
}

pub(crate) fn succeeded() -> JobStatus {
    let mut status = running();
    status.row.state = JobState::Succeeded;
    status.row.reason = "finished".to_owned();
    status.latest_checkpoint =
        Some("/home/ada/runs/co2-lstm-ab12cd/checkpoints/step-00000400".to_owned());
    status.summary = Some(Summary {
        initial_loss: Some(1.523_456),
        final_loss: Some(0.012_345),
        loss_reduction_percent: Some(99.1897),
        initial_val_loss: Some(1.4),
        best_val_loss: Some(0.015_678),
        best_val_step: Some(360),
        best_val_accuracy: None,
        val_loss_reduction_percent: Some(98.88),
        quality: Some("Excellent".to_owned()),
        test: Some(TestResult {
            loss: 0.0171,
            mae: Some(0.31),
            rmse: Some(0.42),
            naive_mae: Some(0.45),
            accuracy: None,
            samples: 311,
        }),
        steps: 400,
        epochs: 10,
        samples: 51_200,
        samples_per_second: 4100.0,
        duration_seconds: 12.48,
        world_size: 2,
        zero_stage: 2,
        precision: "fp32".to_owned(),
        peak_rss_bytes: vec![222 << 20, 221 << 20],
        gradient_norms: GradientHealth {
            healthy: 396,
            exploding: 0,
            vanishing: 0,
            other: 4,
            max: 2.31,
        },
        ..Summary::default()
    });
    status
}

pub(crate) fn failed(kind: FailureKind) -> JobStatus {
    let mut status = running();
    status.row.state = JobState::Failed;
    status.row.reason = "rank 1 failed".to_owned();
    let message = "loss is NaN at step 121; the first bad tensor is lstm.weight_ih_l0".to_owned();
    let failure = TrainerFailure { kind, step: Some(121), message: message.clone() };
    status.ranks[1].end = Some(TrainerEnd::Failed { failure });
    status.failure = Some(Failure {
        kind: Some(kind),
        rank: Some(Rank(1)),
        worker: Some("node-a".to_owned()),
        message,
        last_lines: vec!["step 120 loss 0.0421".to_owned(), "step 121 loss NaN".to_owned()],
    });
    status
}
