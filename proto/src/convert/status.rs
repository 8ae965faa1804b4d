//! Jobs, workers, checkpoints and metrics as the coordinator tells them to rsctl.

use common::ids::{AttemptId, Generation, Rank};
use common::status::{
    AttemptStatus, CheckpointRow, Failure, JobRow, JobStatus, Live, MetricPoint, RankStatus,
    TimeSplit, WorkerRow,
};

use crate::convert::{
    Error, job_id, job_state, present, summary, summary_json, waiting, waiting_json,
};
use crate::v1;

impl TryFrom<v1::JobRow> for JobRow {
    type Error = Error;

    fn try_from(row: v1::JobRow) -> Result<Self, Error> {
        Ok(Self {
            job_id: job_id(&row.job_id)?,
            name: row.name,
            state: job_state("job_row.state", &row.state)?,
            reason: row.reason,
            attempt: AttemptId(row.attempt),
            step: row.step,
            max_steps: row.max_steps,
            world_size: row.world_size,
            submitted_at: row.submitted_at_ms,
            labels: row.labels.into_iter().collect(),
            group: present(row.group),
        })
    }
}

impl From<JobRow> for v1::JobRow {
    fn from(row: JobRow) -> Self {
        Self {
            job_id: row.job_id.into(),
            name: row.name,
            state: row.state.as_str().to_owned(),
            reason: row.reason,
            attempt: row.attempt.0,
            step: row.step,
            max_steps: row.max_steps,
            world_size: row.world_size,
            submitted_at_ms: row.submitted_at,
            labels: row.labels.into_iter().collect(),
            group: row.group.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::JobStatus> for JobStatus {
    type Error = Error;

    fn try_from(status: v1::JobStatus) -> Result<Self, Error> {
        Ok(Self {
            row: status.row.ok_or(Error::Missing { field: "job_status.row" })?.try_into()?,
            attempts: status
                .attempts
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            ranks: status.ranks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            goodput: status.goodput,
            time: status.time.map(Into::into),
            live: status.live.map(Into::into),
            notes: status.notes,
            summary: summary(&status.summary_json)?,
            output_dir: present(status.output_dir),
            latest_checkpoint: present(status.latest_checkpoint),
            failure: status.failure.map(Into::into),
            waiting: waiting(&status.waiting_json)?,
        })
    }
}

impl From<JobStatus> for v1::JobStatus {
    fn from(status: JobStatus) -> Self {
        Self {
            row: Some(status.row.into()),
            attempts: status.attempts.into_iter().map(Into::into).collect(),
            ranks: status.ranks.into_iter().map(Into::into).collect(),
            goodput: status.goodput,
            time: status.time.map(Into::into),
            live: status.live.map(Into::into),
            notes: status.notes,
            summary_json: summary_json(status.summary.as_ref()),
            output_dir: status.output_dir.unwrap_or_default(),
            latest_checkpoint: status.latest_checkpoint.unwrap_or_default(),
            failure: status.failure.map(Into::into),
            waiting_json: waiting_json(status.waiting.as_ref()),
        }
    }
}

impl TryFrom<v1::AttemptStatus> for AttemptStatus {
    type Error = Error;

    fn try_from(attempt: v1::AttemptStatus) -> Result<Self, Error> {
        Ok(Self {
            attempt: AttemptId(attempt.attempt),
            generation: Generation(attempt.generation),
            world_size: attempt.world_size,
            state: job_state("attempt_status.state", &attempt.state)?,
            reason: attempt.reason,
            started_at: attempt.started_at_ms,
            ended_at: attempt.ended_at_ms,
            class: attempt.class,
            decision: attempt.decision,
            resumed_at_step: attempt.resumed_at_step,
            last_step: attempt.last_step,
        })
    }
}

impl From<AttemptStatus> for v1::AttemptStatus {
    fn from(attempt: AttemptStatus) -> Self {
        Self {
            attempt: attempt.attempt.0,
            generation: attempt.generation.0,
            world_size: attempt.world_size,
            state: attempt.state.as_str().to_owned(),
            reason: attempt.reason,
            started_at_ms: attempt.started_at,
            ended_at_ms: attempt.ended_at,
            class: attempt.class,
            decision: attempt.decision,
            resumed_at_step: attempt.resumed_at_step,
            last_step: attempt.last_step,
        }
    }
}

impl TryFrom<v1::RankStatus> for RankStatus {
    type Error = Error;

    fn try_from(rank: v1::RankStatus) -> Result<Self, Error> {
        Ok(Self {
            rank: Rank(rank.rank),
            worker: rank.worker,
            slots: rank.slots,
            pid: rank.pid,
            state: rank.state,
            end: rank.end.map(TryInto::try_into).transpose()?,
            libtorch: rank.libtorch,
        })
    }
}

impl From<RankStatus> for v1::RankStatus {
    fn from(rank: RankStatus) -> Self {
        Self {
            rank: rank.rank.0,
            worker: rank.worker,
            slots: rank.slots,
            pid: rank.pid,
            state: rank.state,
            end: rank.end.map(Into::into),
            libtorch: rank.libtorch,
        }
    }
}

impl From<v1::Failure> for Failure {
    fn from(failure: v1::Failure) -> Self {
        // A kind that we do not know yet changes no branch of ours.
        let kind = failure.kind().try_into().ok();
        Self {
            rank: failure.rank.map(Rank),
            worker: present(failure.worker),
            kind,
            message: failure.message,
            last_lines: failure.last_lines,
        }
    }
}

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            rank: failure.rank.map(|r| r.0),
            worker: failure.worker.unwrap_or_default(),
            kind: failure.kind.map_or(v1::FailureKind::Unspecified, Into::into).into(),
            message: failure.message,
            last_lines: failure.last_lines,
        }
    }
}

/// Both ways between a message and a type that differ in their names alone.
macro_rules! same_fields {
    ($wire:ty, $meaning:ty { $($ours:ident = $theirs:ident),* $(,)? }) => {
        impl From<$wire> for $meaning {
            fn from(wire: $wire) -> Self {
                Self { $($ours: wire.$theirs),* }
            }
        }

        impl From<$meaning> for $wire {
            fn from(meaning: $meaning) -> Self {
                Self { $($theirs: meaning.$ours),* }
            }
        }
    };
}

same_fields!(v1::Progress, Live {
    step = step,
    max_steps = max_steps,
    epoch = epoch,
    epochs = epochs,
    samples = samples,
    loss = loss,
    val_loss = val_loss,
    val_accuracy = val_accuracy,
    learning_rate = learning_rate,
    grad_norm = grad_norm,
    samples_per_second = samples_per_second,
    eta_seconds = eta_seconds,
    resumed_at_step = resumed_at_step,
});

same_fields!(v1::TimeSplit, TimeSplit {
    productive_seconds = productive,
    queue_seconds = queue,
    start_seconds = start,
    detect_seconds = detect,
    restart_seconds = restart,
    reload_seconds = reload,
    recompute_seconds = recompute,
});

same_fields!(v1::MetricPoint, MetricPoint {
    step = step,
    samples = samples,
    value = value,
    time = time_ms,
});

/// Leaves out `removed` and `found`: they are about others than this checkpoint.
impl TryFrom<v1::Checkpoint> for CheckpointRow {
    type Error = Error;

    fn try_from(checkpoint: v1::Checkpoint) -> Result<Self, Error> {
        let stage = checkpoint.zero_stage;
        Ok(Self {
            tag: checkpoint.tag,
            step: checkpoint.step,
            path: checkpoint.path,
            world_size: checkpoint.world_size,
            zero_stage: stage
                .try_into()
                .map_err(|_| Error::value("checkpoint.zero_stage", stage, "a ZeRO stage"))?,
            loss: checkpoint.loss,
            val_loss: checkpoint.val_loss,
            bytes: checkpoint.bytes,
            durable: checkpoint.durable,
            pinned: checkpoint.pinned,
            worker: present(checkpoint.worker),
        })
    }
}

impl From<CheckpointRow> for v1::Checkpoint {
    fn from(row: CheckpointRow) -> Self {
        Self {
            tag: row.tag,
            step: row.step,
            path: row.path,
            world_size: row.world_size,
            zero_stage: row.zero_stage.into(),
            loss: row.loss,
            val_loss: row.val_loss,
            bytes: row.bytes,
            durable: row.durable,
            pinned: row.pinned,
            worker: row.worker.unwrap_or_default(),
            removed: Vec::new(),
            found: None,
        }
    }
}

impl TryFrom<v1::WorkerRow> for WorkerRow {
    type Error = Error;

    fn try_from(row: v1::WorkerRow) -> Result<Self, Error> {
        Ok(Self {
            name: row.name,
            uuid: row.uuid,
            incarnation: row.incarnation,
            state: row.state,
            address: row.address,
            slots: row.slots,
            free_slots: row.free_slots,
            device: row.device,
            memory_bytes: row.memory_bytes,
            jobs: row.jobs.iter().map(|id| job_id(id)).collect::<Result<_, _>>()?,
            version: row.version,
            last_seen: row.last_seen_ms,
            libtorch: row.libtorch,
            gpus: row.gpus.unwrap_or_default().into(),
            hostname: row.hostname,
            unlisted: row.unlisted,
            allows_commands: row.allows_commands,
        })
    }
}

impl From<WorkerRow> for v1::WorkerRow {
    fn from(row: WorkerRow) -> Self {
        Self {
            name: row.name,
            uuid: row.uuid,
            incarnation: row.incarnation,
            state: row.state,
            address: row.address,
            slots: row.slots,
            free_slots: row.free_slots,
            device: row.device,
            memory_bytes: row.memory_bytes,
            jobs: row.jobs.into_iter().map(Into::into).collect(),
            version: row.version,
            last_seen_ms: row.last_seen,
            libtorch: row.libtorch,
            gpus: Some(row.gpus.into()),
            hostname: row.hostname,
            unlisted: row.unlisted,
            allows_commands: row.allows_commands,
        }
    }
}
