//! What the shell must make true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::ids::{AttemptId, Generation, JobId, Rank};
use common::slurm::pool::{MAX_POOLS, PoolName, PoolStatus};
use common::spec::JobSpec;
use common::status::JobState;

use crate::coordinator::allocation::AllocationOrder;
use crate::coordinator::event::{ConnectionId, Peer, RankKey, Ticket};
use crate::coordinator::record::{Record, StopMode, Token};

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make these durable before anything that follows (A2).
    Persist(Vec<Record>),
    /// What readers see has changed.
    Changed {
        jobs: BTreeSet<JobId>,
        workers: bool,
        /// Why queued jobs wait.
        board: bool,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// Accepts a hello.
    Welcome {
        to: ConnectionId,
        lease: Duration,
    },
    /// Rejects a hello; the stream ends.
    Refuse {
        to: ConnectionId,
        reason: String,
        is_retryable: bool,
    },
    /// Asks for a sign of life.
    Ping {
        to: ConnectionId,
    },
    /// Ends a stream that a newer one has replaced, or whose lease is over.
    Disconnect {
        connection: ConnectionId,
        reason: String,
    },
    StartTrainers {
        to: ConnectionId,
        order: Box<StartOrder>,
    },
    SendRankTable {
        to: ConnectionId,
        table: Arc<RankTable>,
    },
    StopJob {
        to: ConnectionId,
        order: StopOrder,
    },
    /// These ranks hang, it seems: where are their threads?
    ShowStacks {
        to: ConnectionId,
        job_id: JobId,
        generation: Generation,
        ranks: Vec<Rank>,
    },
    /// These ends are durable: the worker may forget them.
    AcknowledgeEnds {
        to: ConnectionId,
        ends: Vec<RankKey>,
    },
    /// All that is wanted of SLURM from now on.
    Allocations(Vec<AllocationOrder>),
    /// The job is forgotten: remove what is kept about it.
    Forget {
        job_id: JobId,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct StartOrder {
    pub job_id: JobId,
    pub generation: Generation,
    pub attempt: AttemptId,
    pub world: u32,
    pub spec: JobSpec,
    pub job_toml: String,
    pub uploads: BTreeMap<String, String>,
    /// Ranks of that worker, with their slots.
    pub ranks: Vec<(Rank, Vec<u32>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankTable {
    pub job_id: JobId,
    pub generation: Generation,
    pub token: Token,
    pub peers: Vec<Peer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOrder {
    pub job_id: JobId,
    pub generation: Generation,
    pub reason: String,
    pub mode: StopMode,
    /// After this the worker kills the trainers.
    pub grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Submitted(JobId),
    /// The state after the cancel was taken.
    Cancelling(JobState),
    /// This attempt is the one that leaves.
    Preempted(AttemptId),
    /// The worker's state; None: it is not connected.
    Drained(Option<&'static str>),
    /// As it is now; None: it is gone.
    Pool(Option<Box<PoolStatus>>),
    Refused(Refusal),
}

/// Why a request changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Propose another id.
    IdTaken,
    QueueFull {
        open: usize,
        max: usize,
    },
    UnknownJob(JobId),
    /// Only an ended job can be queued again.
    NotEnded(JobId, JobState),
    /// Only a job that has slots can leave them.
    NotRunning(JobId, JobState),
    /// Neither connected nor known from before.
    UnknownWorker(String),
    /// The job runs a program of its own, and this coordinator lets none.
    NoCommands,
    /// By this key the job runs code of its own, and whoever asks does not know the secret for that.
    SecretUnknown {
        key: String,
    },
    UnknownPool(PoolName),
    /// One of this name has other settings, or is being removed.
    PoolExists(PoolName),
    PoolClosing(PoolName),
    TooManyPools,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdTaken => f.write_str("the proposed job id is taken"),
            Self::QueueFull { open, max } => {
                write!(f, "{open} jobs are queued or running and {max} is the bound")
            }
            Self::UnknownJob(job_id) => write!(f, "there is no job `{job_id}`"),
            Self::NotEnded(job_id, state) => {
                write!(f, "job `{job_id}` is {state}: only a job that has ended can be requeued")
            }
            Self::NotRunning(job_id, state) => {
                write!(f, "job `{job_id}` is {state}: only a job that runs can be preempted")
            }
            Self::UnknownWorker(name) => write!(f, "there is no worker `{name}`"),
            Self::UnknownPool(name) => {
                write!(f, "there is no pool `{name}`: rsctl slurm pool list shows them")
            }
            Self::PoolExists(name) => write!(
                f,
                "pool `{name}` exists with other settings: remove it first, or add another name"
            ),
            Self::PoolClosing(name) => {
                write!(f, "pool `{name}` is being removed: its last nodes have not gone back")
            }
            Self::TooManyPools => write!(f, "{MAX_POOLS} pools are the bound"),
            Self::NoCommands => f.write_str(
                "the job runs code of its own (job.command, or a library in job.env), and this coordinator was started \
                 without --allow-commands; the workers that are to run it need the flag too",
            ),
            Self::SecretUnknown { key } => write!(
                f,
                "{key}: this coordinator runs programs for those alone who know its command-secret \
                 (RUSTSPEED_COMMAND_SECRET of rsctl)"
            ),
        }
    }
}
