//! Durable events. What is written stays readable: variants and fields are only added.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use common::ids::{AttemptId, Generation, Incarnation, JobId, WorkerId};
use common::slurm::allocation::AllocationName;
use common::slurm::pool::{Pool, PoolName};
use common::slurm::request::Request;
use common::spec::JobSpec;
use common::status::{CheckpointRow, Failure, JobState, Summary, TrainerEnd, UnixMillis};

use crate::coordinator::event::RankKey;
use crate::coordinator::restart::Class;

/// One durable fact. Replayed in order they give the ledger (A3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Record {
    CoordinatorStarted {
        incarnation: Incarnation,
        at: UnixMillis,
    },
    WorkerSeen {
        id: WorkerId,
        name: String,
        at: UnixMillis,
    },
    JobSubmitted {
        job_id: JobId,
        submission: Box<Submission>,
        at: UnixMillis,
    },
    CancelAsked {
        job_id: JobId,
        mode: CancelMode,
        at: UnixMillis,
    },
    AttemptStarted {
        job_id: JobId,
        attempt: AttemptId,
        generation: Generation,
        token: Token,
        ranks: Vec<Placement>,
        reason: String,
        at: UnixMillis,
    },
    AttemptRunning {
        job_id: JobId,
        generation: Generation,
        at: UnixMillis,
    },
    /// The attempt has its state and is about to make its first step.
    AttemptReady {
        job_id: JobId,
        generation: Generation,
        /// The step that it continues from.
        step: u64,
        at: UnixMillis,
    },
    StopDecided {
        job_id: JobId,
        generation: Generation,
        stop: StopDecision,
        at: UnixMillis,
    },
    TrainerEnded {
        key: RankKey,
        end: TrainerEnd,
        last_lines: Vec<String>,
        summary: Option<Box<Summary>>,
        at: UnixMillis,
    },
    CheckpointCommitted {
        job_id: JobId,
        checkpoint: CheckpointRow,
        removed: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<Vec<String>>,
    },
    NotesAdded {
        job_id: JobId,
        notes: Vec<String>,
    },
    JobEnded {
        job_id: JobId,
        state: JobState,
        reason: String,
        failure: Option<Failure>,
        /// The last step that was reported, and of how many.
        step: u64,
        max_steps: Option<u64>,
        /// How its last attempt was judged, where it broke off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<Box<Over>>,
        at: UnixMillis,
    },
    JobForgotten {
        job_id: JobId,
    },
    /// An attempt is over and the job is not: it starts again.
    AttemptEnded {
        job_id: JobId,
        generation: Generation,
        over: Box<Over>,
        /// How long the next attempt has to wait at least.
        wait: Duration,
        /// The last step that was reported, and of how many.
        step: u64,
        max_steps: Option<u64>,
        at: UnixMillis,
    },
    /// Nothing new starts on the worker of this name until it is back in service.
    WorkerDrained {
        name: String,
        reason: String,
        at: UnixMillis,
    },
    WorkerUndrained {
        name: String,
        at: UnixMillis,
    },
    /// What broke off on the worker of this name is forgiven.
    WorkerAllowed {
        name: String,
        at: UnixMillis,
    },
    /// SLURM is about to be asked for nodes for a job or a pool, under this name.
    AllocationAsked {
        name: AllocationName,
        /// For a pool: how many. A job's are in its submission.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nodes: Option<u32>,
        at: UnixMillis,
    },
    /// SLURM has put it into its queue, under this number.
    AllocationAccepted {
        name: AllocationName,
        slurm_job: u64,
        at: UnixMillis,
    },
    /// The first worker of a pool's allocation has joined.
    AllocationServed {
        name: AllocationName,
        at: UnixMillis,
    },
    /// It is to be given back.
    AllocationReleased {
        name: AllocationName,
        why: String,
        at: UnixMillis,
    },
    /// SLURM has it no more.
    AllocationEnded {
        name: AllocationName,
        why: String,
        at: UnixMillis,
    },
    PoolAdded {
        name: PoolName,
        pool: Box<Pool>,
        at: UnixMillis,
    },
    /// It asks for nothing until it is resumed.
    PoolPaused {
        name: PoolName,
        why: String,
        at: UnixMillis,
    },
    PoolResumed {
        name: PoolName,
        at: UnixMillis,
    },
    /// What it had asked for was of no use.
    PoolFailed {
        name: PoolName,
        why: String,
        at: UnixMillis,
    },
    /// It asks for nothing any more, and is gone when its nodes are.
    PoolClosed {
        name: PoolName,
        at: UnixMillis,
    },
}

/// How an attempt that broke off was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Over {
    pub class: Class,
    /// What two equal failures have in common.
    pub signature: String,
    pub failure: Failure,
    /// The last step that was known; None: it broke off before the first.
    pub step: Option<u64>,
    /// When that step was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_at: Option<UnixMillis>,
    /// The step of the job's newest whole checkpoint then; 0: none.
    pub saved_step: u64,
    /// What was decided, and why.
    pub decision: String,
    /// The worker whose fault it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub implicates: Option<Uuid>,
}

impl Record {
    /// The job that it is about.
    pub fn job_id(&self) -> Option<&JobId> {
        match self {
            Self::CoordinatorStarted { .. }
            | Self::WorkerSeen { .. }
            | Self::WorkerDrained { .. }
            | Self::WorkerUndrained { .. }
            | Self::WorkerAllowed { .. }
            | Self::PoolAdded { .. }
            | Self::PoolPaused { .. }
            | Self::PoolResumed { .. }
            | Self::PoolFailed { .. }
            | Self::PoolClosed { .. } => None,
            Self::AllocationAsked { name, .. }
            | Self::AllocationAccepted { name, .. }
            | Self::AllocationServed { name, .. }
            | Self::AllocationReleased { name, .. }
            | Self::AllocationEnded { name, .. } => name.job(),
            Self::JobSubmitted { job_id, .. }
            | Self::CancelAsked { job_id, .. }
            | Self::AttemptStarted { job_id, .. }
            | Self::AttemptRunning { job_id, .. }
            | Self::AttemptReady { job_id, .. }
            | Self::StopDecided { job_id, .. }
            | Self::CheckpointCommitted { job_id, .. }
            | Self::NotesAdded { job_id, .. }
            | Self::JobEnded { job_id, .. }
            | Self::AttemptEnded { job_id, .. }
            | Self::JobForgotten { job_id } => Some(job_id),
            Self::TrainerEnded { key, .. } => Some(&key.job_id),
        }
    }

    /// What becomes of nodes.
    pub(super) fn is_return_of_nodes(&self) -> bool {
        matches!(self, Self::AllocationReleased { .. } | Self::AllocationEnded { .. })
    }
}

/// What a user handed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Submission {
    /// Makes a retry harmless: the same id gives the same job.
    pub request_id: String,
    pub spec: JobSpec,
    /// The job file as it was written.
    pub job_toml: String,
    /// Absolute path in the spec -> hash of the uploaded blob.
    pub uploads: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// It starts when all of these allow it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// It gets an allocation of SLURM to itself; None: it runs on the workers that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<Request>,
    /// The ended job that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Of a job that was queued again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    pub job_id: JobId,
    /// The tag of its checkpoint from which this job goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The worker on whose own disk that one lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// Jobs that are listed, cancelled and limited together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Group {
    pub name: String,
    /// The job does not start while this many of its group run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
}

/// A job that must have ended first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct After {
    pub job_id: JobId,
    pub condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It succeeded; where it did not, the job that waits for it is cancelled.
    Ok,
    /// It ended in any way.
    Any,
}

/// Where one rank was placed; its index in the list is the rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Placement {
    pub worker: WorkerId,
    pub worker_name: String,
    pub slots: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CancelMode {
    /// Finish the step, save, leave.
    Save,
    /// Abort.
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    Gracefully,
    Abort,
}

/// The decision to stop an attempt, and its cause where no trainer's end tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StopDecision {
    pub mode: StopMode,
    pub reason: String,
    pub failure: Option<Failure>,
    /// How long trainers may take; None: as configured for the mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
    #[serde(default)]
    pub cause: StopCause,
    /// The job lets those of its priority that wait by then go first.
    #[serde(default)]
    pub yields: bool,
}

/// What a decision to stop rests on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// Something went wrong, or the user asked.
    #[default]
    Failure,
    /// The job has to make room.
    Preemption,
    /// It held its slots as long as it may.
    TimeLimit,
    /// The job is to go on with more ranks.
    Growth,
}

impl StopDecision {
    /// The ends of the trainers tell why.
    pub(super) fn abort(reason: String) -> Self {
        Self {
            mode: StopMode::Abort,
            reason,
            failure: None,
            grace: None,
            cause: StopCause::Failure,
            yields: false,
        }
    }

    /// No trainer's end tells why; `failure` does.
    pub(super) fn failed(failure: Failure) -> Self {
        let reason = failure.message.clone();
        Self { failure: Some(failure), ..Self::abort(reason) }
    }

    /// The job makes room, after a save where it trains; before that there is nothing to save.
    pub(super) fn preempted(failure: Failure, is_training: bool, grace: Option<Duration>) -> Self {
        Self {
            mode: if is_training { StopMode::Gracefully } else { StopMode::Abort },
            grace: grace.filter(|_| is_training),
            cause: StopCause::Preemption,
            ..Self::failed(failure)
        }
    }
}

/// The secret that the ranks of one attempt prove to each other.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    /// Logs are read by more people than may join an attempt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}
