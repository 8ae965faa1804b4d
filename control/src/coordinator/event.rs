//! What happens to the coordinator, already checked and in our own types.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use common::ids::{Generation, JobId, Rank, WorkerId};
use common::position::Position;
use common::slurm::allocation::AllocationName;
use common::slurm::pool::PoolName;
use common::status::{CheckpointRow, Gpus, Live, Summary, TrainerEnd, UnixMillis};

use crate::coordinator::pools::PoolOrder;
use crate::coordinator::record::{CancelMode, Submission, Token};

/// The moment of an event, stamped by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, since some fixed moment; leases and deadlines live on it, so that a clock that
    /// is set cannot end one.
    pub uptime: Duration,
    /// For people, and for spans that outlive this process: the 24 hours of budgets and exclusions,
    /// and until when a job rests. A clock that is set forward ends such a span early, one that is set
    /// back makes it longer.
    pub unix: UnixMillis,
}

/// Chance, passed in.
pub trait Chance {
    /// 16 bytes that nobody can guess.
    fn token(&mut self) -> Token;
}

/// One control stream of a worker, numbered by the shell and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A client that waits for an [`Answer`](crate::coordinator::Answer), numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One trainer: a rank of one generation of one job (A6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RankKey {
    pub job_id: JobId,
    pub generation: Generation,
    pub rank: Rank,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The first event after the ledger was loaded.
    Started,
    Submit {
        ticket: Ticket,
        /// A fresh id that the shell proposes.
        job_id: JobId,
        submission: Box<Submission>,
    },
    Cancel {
        ticket: Ticket,
        job_id: JobId,
        mode: CancelMode,
    },
    /// A new job that is as the ended one was.
    Requeue {
        ticket: Ticket,
        ended: JobId,
        requeue: Requeue,
    },
    /// Makes a running job leave its slots for now.
    Preempt {
        ticket: Ticket,
        job_id: JobId,
        order: PreemptOrder,
    },
    /// Takes a worker out of service, or back into it.
    Drain {
        ticket: Ticket,
        worker: String,
        order: DrainOrder,
    },
    /// The first message of a worker's control stream.
    Hello {
        connection: ConnectionId,
        hello: Box<WorkerHello>,
    },
    Worker {
        connection: ConnectionId,
        message: WorkerMessage,
    },
    /// A welcome is on its way: the lease begins. The commit before it may have taken longer than that.
    Welcomed {
        connection: ConnectionId,
    },
    /// A control stream ended, for whatever reason.
    Dropped {
        connection: ConnectionId,
    },
    /// The shell knows more about an allocation of SLURM.
    Allocation {
        name: AllocationName,
        news: AllocationNews,
    },
    /// An operator changes a pool of SLURM's nodes.
    Pool {
        ticket: Ticket,
        name: PoolName,
        order: PoolOrder,
    },
    /// Time has passed.
    Tick,
}

/// What SLURM says of an allocation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllocationNews {
    /// It is in the queue under this number.
    Accepted { slurm_job: u64 },
    /// SLURM's words; it would not take the same another time.
    Refused { words: String },
    /// SLURM could not be asked, for now.
    Delayed { words: String },
    Seen {
        /// `PENDING`, `RUNNING`, ...
        state: String,
        reason: String,
        nodes: String,
    },
    /// It is over, as SLURM puts it: `CANCELLED`. Empty: SLURM does not know it.
    Gone { state: String },
}

/// How an ended job is submitted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requeue {
    /// A fresh id that the shell proposes.
    pub job_id: JobId,
    pub request_id: String,
    /// Not from the newest checkpoint.
    pub from_start: bool,
    /// Whoever asks may have programs of their own run.
    pub knows_secret: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreemptOrder {
    pub reason: String,
    /// Its trainers have this long to save; None: as for a cancel.
    pub grace: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOrder {
    Drain {
        reason: String,
        /// What runs there has this long to save; None: as for a cancel.
        grace: Option<Duration>,
    },
    Undo,
    /// What broke off there is forgiven: it is not excluded any more.
    Allow,
}

/// A worker's full local truth.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerHello {
    pub id: WorkerId,
    pub name: String,
    /// IP that trainers of this node listen on.
    pub advertise: String,
    pub slots: u32,
    /// `cpu` or `cuda`.
    pub device: String,
    pub memory_bytes: u64,
    pub version: String,
    pub hostname: String,
    /// What its trainers compute with; empty before the first has said so.
    pub libtorch: String,
    /// What its node has, whatever it offers.
    pub gpus: Gpus,
    /// Jobs may run programs of their own there.
    pub allows_commands: bool,
    /// Of which allocation its node is; None: of none that a coordinator has asked for.
    pub allocation: Option<AllocationName>,
    /// None: it stays.
    pub withdrawing: Option<Withdrawal>,
    pub running: Vec<RunningTrainer>,
    pub unacknowledged: Vec<EndReport>,
}

/// A worker was told to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub reason: String,
    /// After this its trainers are killed.
    pub grace: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RunningTrainer {
    pub key: RankKey,
    pub pid: u32,
    /// Where it listens, once it does.
    pub peer: Option<Peer>,
    /// Connected to all peers.
    pub is_running: bool,
    /// What it computes with; empty before it has said so.
    pub libtorch: String,
}

/// Where a trainer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankPosition {
    pub key: RankKey,
    pub position: Position,
    /// Since the trainer told its worker.
    pub age: Duration,
}

/// A rank's place in the rank table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub rank: Rank,
    pub address: String,
    /// Abstract unix socket; empty: not offered.
    pub unix_name: String,
    pub worker: String,
    pub nccl_id: NcclId,
}

/// Where NCCL meets: opaque bytes that rank 0 of a job on GPUs makes, anew in each attempt. No bytes:
/// nowhere.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NcclId(pub Vec<u8>);

impl fmt::Debug for NcclId {
    /// As of a token: who knows it can join.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NcclId(..)")
    }
}

/// How a trainer ended, as its worker saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct EndReport {
    pub key: RankKey,
    pub end: TrainerEnd,
    pub last_lines: Vec<String>,
    /// Of rank 0, when it finished.
    pub summary: Option<Box<Summary>>,
    /// By the worker's clock, which is compared with no other.
    pub at: UnixMillis,
}

/// What a worker says after its hello.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkerMessage {
    Heartbeat,
    /// A heartbeat that also tells where trainers are.
    Positions(Vec<RankPosition>),
    /// Where a trainer's threads are, as it was asked to tell.
    Stacks {
        key: RankKey,
        lines: Vec<String>,
    },
    /// The trainer listens.
    TrainerReady {
        key: RankKey,
        peer: Peer,
        pid: u32,
        /// What it computes with, such as `2.11.0, AVX512`.
        libtorch: String,
    },
    /// The trainer is connected to all peers.
    TrainerRunning {
        key: RankKey,
    },
    Progress {
        job_id: JobId,
        generation: Generation,
        live: Live,
    },
    Ended(EndReport),
    Checkpoint {
        job_id: JobId,
        generation: Generation,
        checkpoint: CheckpointRow,
        /// Tags that retention removed.
        removed: Vec<String>,
        /// An attempt found it at its start: with the newest the tags of all that it found.
        found: Option<Vec<String>>,
    },
    /// No trainer of this attempt runs on this worker, and none can.
    PrepareFailed {
        job_id: JobId,
        generation: Generation,
        is_configuration: bool,
        message: String,
    },
    Notes {
        job_id: JobId,
        generation: Generation,
        notes: Vec<String>,
    },
    /// It was told to leave: its trainers save and stop, and nothing new starts there.
    Withdrawing(Withdrawal),
    /// A clean leave: its trainers are gone.
    Leaving {
        reason: String,
    },
}
