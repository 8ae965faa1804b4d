//! Claims about the wire: round trips, and bad messages that name their field.

use std::fmt::Debug;

use common::ids::{AttemptId, Generation, Rank};
use common::status::{
    AttemptStatus, CheckpointRow, Failure, FailureKind, Gpu, Gpus, JobRow, JobState, JobStatus,
    Live, MetricPoint, RankStatus, Summary, TimeSplit, TrainerEnd, TrainerFailure, WaitReason,
    Waiting, WorkerRow,
};
use prost::Message;

use crate::convert::{self, FetchWhat};
use crate::v1;

/// Meaning → message → bytes → message → meaning changes nothing.
fn check<M, W>(meaning: M)
where
    M: Clone + PartialEq + Debug + TryFrom<W>,
    <M as TryFrom<W>>::Error: Debug,
    W: Message + Default + From<M>,
{
    let bytes = W::from(meaning.clone()).encode_to_vec();
    let back = M::try_from(W::decode(bytes.as_slice()).unwrap()).unwrap();
    assert_eq!(back, meaning);
}

fn row(state: JobState) -> JobRow {
    JobRow {
        job_id: "co2-lstm-ab12cd".parse().unwrap(),
        name: "CO2 LSTM".to_owned(),
        state,
        reason: "waits for 2 slots".to_owned(),
        attempt: AttemptId(3),
        step: 17,
        max_steps: Some(400),
        world_size: 2,
        submitted_at: 1_700_000_000_123,
        labels: [("team".to_owned(), "ocean".to_owned())].into(),
        group: Some("sweep".to_owned()),
    }
}

fn status() -> JobStatus {
    JobStatus {
        row: row(JobState::Failed),
        attempts: vec![AttemptStatus {
            attempt: AttemptId(1),
            generation: Generation(7),
            world_size: 2,
            state: JobState::Failed,
            reason: "rank 1 was killed".to_owned(),
            started_at: 5,
            ended_at: Some(9),
            class: "infrastructure".to_owned(),
            decision: "restarts at once: infrastructure failure 1 of 20".to_owned(),
            resumed_at_step: Some(0),
            last_step: Some(17),
        }],
        ranks: vec![RankStatus {
            rank: Rank(1),
            worker: "node-a".to_owned(),
            slots: vec![4, 5],
            pid: Some(4242),
            state: "killed".to_owned(),
            end: Some(TrainerEnd::Killed { signal: 9, core_dumped: false }),
            libtorch: "2.11.0, AVX2".to_owned(),
        }],
        goodput: Some(0.75),
        time: Some(TimeSplit {
            productive_seconds: 3.0,
            detect_seconds: 1.0,
            ..TimeSplit::default()
        }),
        live: Some(Live {
            step: 17,
            resumed_at_step: Some(16),
            loss: Some(0.25),
            eta_seconds: Some(1.5),
            ..Live::default()
        }),
        notes: vec!["bf16 asked, fp32 used".to_owned()],
        summary: Some(Summary { final_loss: Some(0.1), steps: 17, ..Summary::default() }),
        output_dir: Some("/runs/co2-lstm-ab12cd".to_owned()),
        latest_checkpoint: None,
        failure: Some(Failure {
            rank: Some(Rank(1)),
            worker: Some("node-a".to_owned()),
            kind: Some(FailureKind::Engine),
            message: "killed by signal 9".to_owned(),
            last_lines: vec!["step 17".to_owned()],
        }),
        waiting: Some(Waiting {
            reason: WaitReason::GroupLimit { group: "sweep".to_owned(), running: 2, max: 2 },
            ahead: 3,
            earliest_start: Some(1_700_000_000_000),
            estimate: "if running jobs end as they say".to_owned(),
        }),
    }
}

#[test]
fn a_job_row_survives_the_wire_in_every_state() {
    use JobState::{
        Cancelled, Cancelling, Failed, Queued, Restarting, Running, Starting, Succeeded,
    };
    for state in [Queued, Starting, Running, Restarting, Cancelling, Succeeded, Failed, Cancelled] {
        check::<_, v1::JobRow>(row(state));
    }
}

#[test]
fn a_job_status_survives_the_wire() {
    check::<_, v1::JobStatus>(status());
    let bare = JobStatus {
        attempts: vec![],
        ranks: vec![],
        goodput: None,
        time: None,
        live: None,
        notes: vec![],
        summary: None,
        output_dir: None,
        latest_checkpoint: Some("/runs/x/checkpoints/step-00000017".to_owned()),
        failure: None,
        ..status()
    };
    check::<_, v1::JobStatus>(bare);
}

#[test]
fn every_end_of_a_trainer_survives_the_wire() {
    use FailureKind::{
        Checkpoint, Communication, Configuration, Data, Engine, NotFinite, OutOfMemory, Start,
    };
    for end in [
        TrainerEnd::Finished,
        TrainerEnd::Stopped,
        TrainerEnd::Panicked { message: "index".to_owned(), place: "a.rs:1".to_owned() },
        TrainerEnd::Killed { signal: 11, core_dumped: true },
        TrainerEnd::Exited { code: -1 },
        TrainerEnd::Lost,
    ] {
        check::<_, v1::TrainerEnd>(end);
    }
    for kind in
        [Configuration, Data, NotFinite, Communication, Checkpoint, OutOfMemory, Engine, Start]
    {
        let failure = TrainerFailure { kind, step: Some(3), message: "m".to_owned() };
        check::<_, v1::TrainerEnd>(TrainerEnd::Failed { failure });
    }
}

#[test]
fn rows_and_points_survive_the_wire() {
    check::<_, v1::MetricPoint>(MetricPoint { step: 1, samples: 32, value: -0.5, time: 9 });
    check::<_, v1::Checkpoint>(CheckpointRow {
        tag: "step-00000120".to_owned(),
        step: 120,
        path: "/c/step-00000120".to_owned(),
        world_size: 2,
        zero_stage: 2,
        loss: Some(0.5),
        val_loss: Some(0.75),
        bytes: 1 << 40,
        durable: true,
        pinned: false,
        worker: None,
    });
    check::<_, v1::WorkerRow>(WorkerRow {
        name: "node-a".to_owned(),
        uuid: "2f1e7f4e-6f5c-4d43-8f0c-1c52f7a1a111".to_owned(),
        incarnation: 4,
        state: "ready".to_owned(),
        address: "10.0.0.4".to_owned(),
        slots: 8,
        free_slots: 6,
        device: "cpu".to_owned(),
        memory_bytes: 1 << 34,
        jobs: vec!["co2-lstm-ab12cd".parse().unwrap()],
        version: "0.1.0".to_owned(),
        last_seen: 77,
        libtorch: "2.11.0, AVX2".to_owned(),
        gpus: Gpus {
            devices: vec![Gpu {
                name: "NVIDIA A".to_owned(),
                uuid: "GPU-8f1a".to_owned(),
                memory_bytes: 80 << 30,
            }],
            source: "NVML".to_owned(),
        },
        hostname: "node-a.cluster.local".to_owned(),
        unlisted: true,
        allows_commands: true,
    });
}

#[test]
fn a_bad_message_names_its_field() {
    let message = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let bad_state = v1::JobRow { state: "resting".to_owned(), ..row(JobState::Queued).into() };
    let error = JobRow::try_from(bad_state).unwrap_err();
    assert_eq!(message(&error), "field `job_row.state`: `resting` is not a job state");

    let bad_id = v1::JobRow { job_id: "../etc".to_owned(), ..row(JobState::Queued).into() };
    let error = JobRow::try_from(bad_id).unwrap_err();
    assert!(message(&error).starts_with("field `job_id`: job id `../etc` must be"), "{error}");

    let error = JobStatus::try_from(v1::JobStatus::default()).unwrap_err();
    assert_eq!(message(&error), "field `job_status.row` is missing");

    let error = TrainerEnd::try_from(v1::TrainerEnd { kind: None }).unwrap_err();
    assert_eq!(message(&error), "field `trainer_end.kind` is missing");

    let failure = v1::TrainerFailure { kind: 99, step: None, message: String::new() };
    let error = TrainerFailure::try_from(failure).unwrap_err();
    assert_eq!(
        message(&error),
        "field `trainer_failure.kind`: `99` is not a kind of failure that we know"
    );

    let error = convert::spec("{\"job\": 3}").unwrap_err();
    assert!(message(&error).starts_with("field `spec_json` is not the JSON it should be: "));
}

#[test]
fn single_fields_are_checked() {
    assert_eq!(convert::token(&[7; 16]).unwrap(), [7; 16]);
    assert!(convert::token(&[7; 15]).is_err());
    assert_eq!(convert::fetch_what("all").unwrap(), FetchWhat::All);
    assert!(convert::fetch_what("everything").is_err());
    assert!(convert::worker_id("not-a-uuid", 1).is_err());
    assert!(convert::socket_address("address", "localhost").is_err());
    assert!(convert::ip_address("advertise", "10.0.0.4").is_ok());
    assert_eq!(convert::port_range("port_range", "").unwrap(), None);
    assert_eq!(convert::port_range("port_range", "4-5").unwrap().unwrap().to_string(), "4-5");
    assert!(convert::port_range("port_range", "5-4").is_err());
    assert_eq!(convert::summary("").unwrap(), None);
    let summary = Summary { quality: Some("Good".to_owned()), ..Summary::default() };
    assert_eq!(convert::summary(&convert::summary_json(Some(&summary))).unwrap(), Some(summary));
}
