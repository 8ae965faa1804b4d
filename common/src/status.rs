//! What is known about jobs, ranks, workers and checkpoints. The serde form of these types is the
//! `--json` contract (snake_case; additive changes only).

mod end;
pub mod explanation;
mod gpus;
mod waiting;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, Generation, JobId, Rank};

pub use self::explanation::{
    Answer, AttemptCause, Decision, Explanation, GuiltyRank, Question, RankPace, WorkerLack,
};
pub use self::gpus::{Gpu, Gpus};
pub use self::waiting::{HostLack, SlotShortage, SmallHost, WaitReason, Waiting};

/// Milliseconds since the Unix epoch; daemons stamp it, each by its own clock. `control` compares and
/// adds up what the coordinator stamped, for spans that outlive it.
pub type UnixMillis = u64;

/// Where a job is. The last three are final (A13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Starting,
    Running,
    Restarting,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    /// In the order of a job's life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Restarting,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One job as `rsctl jobs` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    pub job_id: JobId,
    pub name: String,
    pub state: JobState,
    /// Why it is in this state, for a person.
    pub reason: String,
    /// 0 before the first.
    pub attempt: AttemptId,
    pub step: u64,
    pub max_steps: Option<u64>,
    /// 0 while unknown (queued, no `world-size`).
    pub world_size: u32,
    pub submitted_at: UnixMillis,
    /// As the job file gives them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The jobs that it was submitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// One job as `rsctl status` and the end of `run` and `watch` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    #[serde(flatten)]
    pub row: JobRow,
    pub attempts: Vec<AttemptStatus>,
    /// Of the newest attempt.
    pub ranks: Vec<RankStatus>,
    /// Productive time over wall time since submit, 0..1; None before the first step.
    pub goodput: Option<f64>,
    /// What the time since submit went to; None before the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeSplit>,
    pub live: Option<Live>,
    /// Precision fallbacks, batch adaptations and the like, said by rank 0 at start.
    pub notes: Vec<String>,
    pub summary: Option<Summary>,
    /// `<output-dir>/<job id>` on the node of rank 0.
    pub output_dir: Option<String>,
    pub latest_checkpoint: Option<String>,
    /// The first rank that failed, and its last lines.
    pub failure: Option<Failure>,
    /// Of a job that waits for its start: why, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// The newest progress that rank 0 reported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub step: u64,
    /// The step of the checkpoint that this attempt continued from; None: it began at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_at_step: Option<u64>,
    pub max_steps: Option<u64>,
    pub epoch: u32,
    pub epochs: u32,
    pub samples: u64,
    /// Mean over the global batch before the update; None before the first step.
    pub loss: Option<f64>,
    pub val_loss: Option<f64>,
    /// Of a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    pub learning_rate: Option<f64>,
    pub grad_norm: Option<f64>,
    pub samples_per_second: Option<f64>,
    pub eta_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptStatus {
    pub attempt: AttemptId,
    pub generation: Generation,
    pub world_size: u32,
    pub state: JobState,
    pub reason: String,
    pub started_at: UnixMillis,
    pub ended_at: Option<UnixMillis>,
    /// Of one that broke off: `application`, `infrastructure`, `preemption`, `growth` or `hopeless`.
    #[serde(default)]
    pub class: String,
    /// Whether the job started again after it, and why.
    #[serde(default)]
    pub decision: String,
    /// The step that it continued from; None before its first.
    #[serde(default)]
    pub resumed_at_step: Option<u64>,
    /// The last step that was known when it broke off.
    #[serde(default)]
    pub last_step: Option<u64>,
}

/// The time from a job's submission until now, or its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeSplit {
    pub productive_seconds: f64,
    /// Until its first attempt.
    pub queue_seconds: f64,
    /// From there until its first attempt had its state.
    pub start_seconds: f64,
    /// From the last step of an attempt until it was known that it breaks off; of the job's last one,
    /// until it was over.
    pub detect_seconds: f64,
    /// From there until the next attempt's ranks had met.
    pub restart_seconds: f64,
    /// From there until they had their state.
    pub reload_seconds: f64,
    /// Steps that were made and were in no checkpoint.
    pub recompute_seconds: f64,
}

impl TimeSplit {
    /// The productive part, 0..1.
    pub fn goodput(&self) -> f64 {
        let Self {
            productive_seconds: productive,
            queue_seconds,
            start_seconds,
            detect_seconds,
            restart_seconds,
            reload_seconds,
            recompute_seconds,
        } = *self;
        let lost = [start_seconds, detect_seconds, restart_seconds, reload_seconds];
        let whole = productive + queue_seconds + recompute_seconds + lost.into_iter().sum::<f64>();
        if whole > 0.0 { productive / whole } else { 0.0 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankStatus {
    pub rank: Rank,
    pub worker: String,
    pub slots: Vec<u32>,
    pub pid: Option<u32>,
    /// `waiting`, `ready`, `running` or the end in words.
    pub state: String,
    pub end: Option<TrainerEnd>,
    /// What it computes with, such as `2.11.0, AVX512`; empty before it has said so.
    #[serde(default)]
    pub libtorch: String,
}

/// How a trainer process ended. `worker::trainer` is the only place that tells them apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TrainerEnd {
    Finished,
    /// Stopped because the job was cancelled or aborted.
    Stopped,
    Failed {
        failure: TrainerFailure,
    },
    Panicked {
        message: String,
        place: String,
    },
    Killed {
        signal: i32,
        core_dumped: bool,
    },
    /// Ended with a code and said nothing.
    Exited {
        code: i32,
    },
    /// Its worker is gone.
    Lost,
}

/// A failure that the trainer itself reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerFailure {
    pub kind: FailureKind,
    pub step: Option<u64>,
    /// The error and its sources, joined by `: `.
    pub message: String,
}

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The job asks for what cannot be; never retried.
    Configuration,
    Data,
    /// Loss or gradients are not finite.
    NotFinite,
    /// A peer vanished or a collective ran out of time: a witness, rarely the guilty one (A10).
    Communication,
    Checkpoint,
    OutOfMemory,
    /// The model or libtorch.
    Engine,
    /// Before training: rendezvous, missing library.
    Start,
    /// Told to stop, it had not finished its step and its save when its grace was over.
    CutOff,
    /// The attempt got nothing done any more, because of this rank.
    Hang,
}

/// Why a job failed: the first guilty rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub rank: Option<Rank>,
    pub worker: Option<String>,
    /// What callers branch on (`configuration` ends rsctl with 78); None where a trainer died
    /// without a word.
    #[serde(default)]
    pub kind: Option<FailureKind>,
    pub message: String,
    pub last_lines: Vec<String>,
}

/// The end of a run, written by rank 0 as `summary.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub initial_loss: Option<f64>,
    pub final_loss: Option<f64>,
    pub loss_reduction_percent: Option<f64>,
    pub initial_val_loss: Option<f64>,
    pub best_val_loss: Option<f64>,
    pub best_val_step: Option<u64>,
    pub val_loss_reduction_percent: Option<f64>,
    /// At `best_val_step`; of a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_val_accuracy: Option<f64>,
    /// Seed 001's words: `Excellent` (MSE < 0.05), `Good` (< 0.1), `Fair` (< 0.2), `Poor`; of a
    /// regression.
    pub quality: Option<String>,
    pub test: Option<TestResult>,
    pub steps: u64,
    pub epochs: u32,
    pub samples: u64,
    /// The step at which the last attempt continued a checkpoint; None where it started anew.
    /// Steps, epochs, samples, losses and the duration are those of the whole history.
    #[serde(default)]
    pub resumed_at_step: Option<u64>,
    /// Steps that the last attempt made itself, which the rate, the memory and the stall are of.
    #[serde(default)]
    pub attempt_steps: u64,
    pub samples_per_second: f64,
    pub duration_seconds: f64,
    pub world_size: u32,
    pub zero_stage: u8,
    /// What the model computed in.
    pub precision: String,
    /// What the job asks for, where that is another one.
    #[serde(default)]
    pub precision_asked: Option<String>,
    /// Steps without an update, because their gradients were not finite.
    #[serde(default)]
    pub skipped_steps: u64,
    /// Of the step after the last one; fp16 only.
    #[serde(default)]
    pub final_loss_scale: Option<f64>,
    pub stopped_early: bool,
    /// The job was cancelled before its end.
    pub cancelled: bool,
    pub peak_rss_bytes: Vec<u64>,
    /// Bytes that the state takes between two steps, by rank.
    #[serde(default)]
    pub memory: Vec<RankMemory>,
    pub gradient_norms: GradientHealth,
    pub checkpoint_stall_seconds: f64,
    /// What was said during the last attempt: conversions, fallbacks, warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Bytes that a rank's memory takes, by kind, as measured. libtorch itself, the data, and the copies for
/// a checkpoint and of the best weights come on top.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankMemory {
    pub parameters: u64,
    pub gradients: u64,
    /// Moments and their like, and fp32 masters where the parameters have 16 bits.
    pub optimizer: u64,
    /// For gradients between backward and their sums, at stage 3 for parameters that are gathered, and
    /// our kernel's working memory.
    pub buffers: u64,
    /// The most that libtorch held during the attempt's first step: the batch, what forward keeps for
    /// backward, and what backward needs on top.
    #[serde(default)]
    pub activations: u64,
}

/// The test part, evaluated once on the best weights. A regression has errors in the data's own
/// units, a classification an accuracy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TestResult {
    /// As val/loss: in the units of training (normalised).
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mae: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rmse: Option<f64>,
    /// MAE of predicting the last value of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naive_mae: Option<f64>,
    /// Share of the samples whose class was predicted, 0..1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    pub samples: u64,
}

/// Counts of steps by gradient norm: healthy 0.01 to 1.0, exploding > 10, vanishing < 0.001.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GradientHealth {
    pub healthy: u64,
    pub exploding: u64,
    pub vanishing: u64,
    pub other: u64,
    pub max: f64,
}

/// One value of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    pub step: u64,
    pub samples: u64,
    pub value: f64,
    /// Unix milliseconds.
    pub time: UnixMillis,
}

/// One checkpoint as `rsctl checkpoints list` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRow {
    /// `step-00000120`.
    pub tag: String,
    pub step: u64,
    pub path: String,
    pub world_size: u32,
    pub zero_stage: u8,
    pub loss: Option<f64>,
    #[serde(default)]
    pub val_loss: Option<f64>,
    pub bytes: u64,
    pub durable: bool,
    /// Kept by retention as best or last.
    pub pinned: bool,
    /// The worker whose disk holds it, where the root is not shared.
    pub worker: Option<String>,
}

impl CheckpointRow {
    /// Better first: by validation loss, where none was taken by training loss, then the newer.
    /// One with a validation loss beats one without: their losses are not alike.
    pub fn by_quality(&self, other: &Self) -> Ordering {
        let rank = |row: &Self| match (row.val_loss, row.loss) {
            (Some(loss), _) if loss.is_finite() => (0, loss),
            (_, Some(loss)) if loss.is_finite() => (1, loss),
            _ => (2, 0.0),
        };
        let ((class, loss), (other_class, other_loss)) = (rank(self), rank(other));
        class.cmp(&other_class).then(loss.total_cmp(&other_loss)).then(other.step.cmp(&self.step))
    }
}

/// One worker as `rsctl workers` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    pub name: String,
    pub uuid: String,
    pub incarnation: u64,
    /// `ready`, `excluded` (it broke attempts off, and is used only where nothing else is left),
    /// `draining`, `drained`, `disconnected`, `lost`, `left`, or `missing`: an expected node without a
    /// worker.
    pub state: String,
    pub address: String,
    pub slots: u32,
    pub free_slots: u32,
    pub device: String,
    pub memory_bytes: u64,
    pub jobs: Vec<JobId>,
    pub version: String,
    pub last_seen: UnixMillis,
    /// What its trainers compute with; empty before the first has said so.
    #[serde(default)]
    pub libtorch: String,
    /// What its node has; `device` says what it offers.
    #[serde(default)]
    pub gpus: Gpus,
    /// Of its node; empty before the worker has said so.
    #[serde(default)]
    pub hostname: String,
    /// The coordinator was told which nodes to expect, and this is none of them.
    #[serde(default)]
    pub unlisted: bool,
    /// It was started with `--allow-commands`.
    #[serde(default)]
    pub allows_commands: bool,
}

impl WorkerRow {
    /// The state of an expected node on which no worker is known.
    pub const MISSING: &str = "missing";
}
