//! The soft state: who is connected, which trainers listen, what waits until when. Lost with the
//! process and rebuilt from the workers' hellos.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use common::ids::{Generation, JobId, WorkerId};
use common::slurm::allocation::AllocationName;
use common::spec::NodeNames;
use common::status::{self, Gpus, UnixMillis};

use crate::coordinator::allocation::LiveAllocation;
use crate::coordinator::board::Board;
use crate::coordinator::event::{ConnectionId, Peer, RankKey};
use crate::coordinator::grow::Growth;
use crate::coordinator::hang::Watch;
use crate::coordinator::line::{Line, Turn};
use crate::coordinator::pools::LivePools;
use crate::coordinator::record::{Placement, StopMode};

#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) workers: BTreeMap<Uuid, LiveWorker>,
    pub(super) connections: BTreeMap<ConnectionId, Uuid>,
    /// Of every job with an open attempt.
    pub(super) attempts: BTreeMap<JobId, LiveAttempt>,
    /// Jobs that wait for slots.
    pub(super) line: Line,
    /// Queued jobs that were submitted to run after others, with those that have not ended.
    pub(super) held: BTreeMap<JobId, BTreeSet<JobId>>,
    /// The other way round: who waits for the end of a job.
    pub(super) dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    /// Final jobs, in the order in which they are forgotten.
    pub(super) finals: BTreeMap<(Option<UnixMillis>, u64), JobId>,
    /// Why they wait, as of the last decision.
    pub(super) board: Arc<Board>,
    /// When jobs for which slots are kept were first expected to start.
    pub(super) promises: BTreeMap<Turn, Duration>,
    /// When estimates are next looked at.
    pub(super) estimate_at: Duration,
    /// Jobs between two attempts, and the end of their wait; None: it is over.
    pub(super) resting: BTreeMap<JobId, Option<Duration>>,
    /// Jobs that wait for workers of an allocation of their own, and until when none is asked for;
    /// None: it may be.
    pub(super) allocating: BTreeMap<JobId, Option<Duration>>,
    pub(super) allocations: BTreeMap<AllocationName, LiveAllocation>,
    pub(super) pools: LivePools,
    /// The first end of a worker's exclusion.
    pub(super) trusted_at: Option<Duration>,
    /// The time of the newest events.
    pub(super) unix: UnixMillis,
    /// When the shell was to come back: a call much later than this means that the process slept.
    pub(super) wake_at: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct LiveWorker {
    pub(super) id: WorkerId,
    pub(super) name: String,
    pub(super) standing: Standing,
    /// None: no stream; the lease still runs.
    pub(super) connection: Option<ConnectionId>,
    pub(super) advertise: String,
    pub(super) hostname: String,
    /// What a job's list of hosts may call it, of the three.
    pub(super) node: Arc<NodeNames>,
    pub(super) slots: u32,
    pub(super) device: String,
    pub(super) memory_bytes: u64,
    pub(super) version: String,
    /// What its trainers compute with; empty before the first has said so.
    pub(super) libtorch: String,
    pub(super) gpus: Gpus,
    /// Jobs may run programs of their own there.
    pub(super) allows_commands: bool,
    /// Its node is of this one. Of a job's own: nothing else runs there.
    pub(super) allocation: Option<AllocationName>,
    /// It was told to leave: nothing new starts there.
    pub(super) is_withdrawing: bool,
    /// Taken out of service by an operator.
    pub(super) is_drained: bool,
    pub(super) last_heard: Duration,
    pub(super) last_heard_unix: UnixMillis,
    /// How long it may be silent.
    pub(super) lease: Duration,
    /// End of the lease; of a lost or departed worker: when it is forgotten.
    pub(super) deadline: Duration,
    /// Another worker wants this name: when this one was asked for a sign of life.
    pub(super) pinged_at: Option<Duration>,
    /// Trainers that must die and are not confirmed dead. While there are any, their slots are not
    /// known to be free, and nothing is placed here (A6).
    pub(super) stragglers: BTreeSet<RankKey>,
    /// Since our own restart it has not come back to say what it runs: jobs whose earlier attempts
    /// it may still run.
    pub(super) awaited_by: BTreeSet<JobId>,
    /// When stragglers are told again.
    pub(super) resend_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its lease runs.
    Ready,
    /// Its lease is over.
    Lost,
    /// It said goodbye.
    Left,
}

impl LiveWorker {
    /// Whether only one job may run there.
    pub(super) fn is_of_a_job(&self) -> bool {
        self.allocation.as_ref().is_some_and(|name| name.job().is_some())
    }

    /// It has nothing to give, now or later.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_withdrawing || self.is_drained
    }

    pub(super) fn is_placeable(&self) -> bool {
        self.standing == Standing::Ready
            && !self.is_leaving()
            && self.connection.is_some()
            && self.stragglers.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct LiveAttempt {
    pub(super) generation: Generation,
    pub(super) ranks: Vec<LiveRank>,
    pub(super) phase: Phase,
    pub(super) stop: Option<LiveStop>,
    /// Only witnesses have spoken: when the wait for the real cause ends.
    pub(super) witness_until: Option<Duration>,
    pub(super) progress: Option<status::Live>,
    /// When its step last grew.
    pub(super) stepped_at: Option<UnixMillis>,
    /// When that was said.
    pub(super) progress_at: Option<Duration>,
    pub(super) watch: Watch,
    /// When the job's time is over.
    pub(super) limit_at: Option<Duration>,
    /// Of an elastic job: since when it trains, as far as this process knows.
    pub(super) training_since: Option<Duration>,
    /// When it is looked at for more ranks.
    pub(super) grow_at: Option<Duration>,
    /// More ranks would fit, and why it does not have them; None: no more fit.
    pub(super) growth: Option<Growth>,
    /// The slots for which it is being stopped.
    pub(super) grows_to: Vec<Placement>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct LiveRank {
    pub(super) pid: Option<u32>,
    pub(super) peer: Option<Peer>,
    pub(super) is_running: bool,
    pub(super) libtorch: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Trainers start and report where they listen.
    Gathering {
        until: Duration,
    },
    /// The rank table is out.
    Connecting {
        until: Duration,
    },
    Training,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct LiveStop {
    pub(super) mode: StopMode,
    /// The ends must be confirmed by then.
    pub(super) until: Duration,
}

impl LiveAttempt {
    pub(super) fn new(generation: Generation, world: usize, phase: Phase) -> Self {
        Self {
            generation,
            ranks: vec![LiveRank::default(); world],
            phase,
            stop: None,
            witness_until: None,
            progress: None,
            stepped_at: None,
            progress_at: None,
            watch: Watch::default(),
            limit_at: None,
            training_since: None,
            grow_at: None,
            growth: None,
            grows_to: Vec::new(),
        }
    }

    /// The last step that the attempt itself made; None: none that was told.
    pub(super) fn own_step(&self) -> Option<u64> {
        let progress = self.progress.as_ref()?;
        let from = progress.resumed_at_step.unwrap_or(0);
        (progress.step > from).then_some(progress.step)
    }

    /// For so long nobody could be heard: what is waited for may come so much later.
    pub(super) fn forgive(&mut self, slept: Duration) {
        if let Phase::Gathering { until } | Phase::Connecting { until } = &mut self.phase {
            *until += slept;
        }
        if let Some(stop) = &mut self.stop {
            stop.until += slept;
        }
        self.watch.forgive(slept);
    }

    fn deadline(&self) -> Option<Duration> {
        if let Some(stop) = &self.stop {
            return Some(stop.until);
        }
        let phase = match self.phase {
            Phase::Gathering { until } | Phase::Connecting { until } => Some(until),
            Phase::Training => self.watch.deadline(),
        };
        earliest(earliest(earliest(phase, self.witness_until), self.limit_at), self.grow_at)
    }
}

impl Live {
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let workers = self
            .workers
            .values()
            .map(|w| w.resend_at.map_or(w.deadline, |resend| resend.min(w.deadline)));
        let attempts = self.attempts.values().filter_map(LiveAttempt::deadline);
        let rests = self.resting.values().chain(self.allocating.values()).copied().flatten();
        let joins = self.allocations.values().filter_map(LiveAllocation::deadline);
        let pools = self.pools.deadlines();
        workers.chain(attempts).chain(rests).chain(joins).chain(pools).chain(self.trusted_at).min()
    }

    /// The stream of a worker, if it has one.
    pub(super) fn connection_of(&self, uuid: &Uuid) -> Option<ConnectionId> {
        self.workers.get(uuid).and_then(|w| w.connection)
    }
}

fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
