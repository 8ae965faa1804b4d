//! A small cluster around one machine. Every step checks that what is durable comes first (A2),
//! that a replay of it gives the same ledger (A3), that no slot is held twice (A6), that final states
//! stay (A13), and that no job waits without a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use expect_test::Expect;
use uuid::Uuid;

use common::ids::{Generation, Incarnation, JobId, Rank, WorkerId};
use common::slurm::allocation::AllocationName;
use common::slurm::request::Request;
use common::spec::{self, JobSpec};
use common::status::{
    CheckpointRow, FailureKind, Gpus, JobState, JobStatus, Live, Summary, TrainerEnd,
    TrainerFailure,
};

use crate::coordinator::{
    After, AllocationNews, AllocationOrder, Answer, CancelMode, Chance, Config, ConnectionId,
    DrainOrder, Effect, EndReport, Event, Group, Ledger, Machine, NcclId, Now, Peer, PoolOrder,
    RankKey, Record, RunningTrainer, StopMode, Submission, Ticket, Token, WorkerHello,
    WorkerMessage,
};

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    /// What a store would hold: records that went through JSON.
    shadow: Ledger,
    /// By how many milliseconds the machine's clock was set forward (or back).
    pub(super) clock: i64,
    connections: BTreeMap<String, ConnectionId>,
    incarnations: BTreeMap<String, u64>,
    next_number: u64,
    log: String,
}

/// The real numbers, and bounds that tests can reach.
fn config() -> Config {
    let usual = Config::default();
    Config {
        max_final_jobs: 20,
        max_heartbeat_rate: 100,
        allow_commands: true,
        max_allocations: 3,
        ..usual
    }
}

struct FixedChance;

impl Chance for FixedChance {
    fn token(&mut self) -> Token {
        Token([7; 16])
    }
}

pub(super) fn check(log: &str, expect: &Expect) {
    expect.assert_eq(log);
}

pub(super) fn id(job: &str) -> JobId {
    format!("{job}-000000").parse().unwrap()
}

pub(super) fn key(job: &str, generation: u64, rank: u32) -> RankKey {
    RankKey { job_id: id(job), generation: Generation(generation), rank: Rank(rank) }
}

pub(super) fn uuid_of(worker: &str) -> Uuid {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(worker.bytes()) {
        *to = from;
    }
    Uuid::from_bytes(bytes)
}

pub(super) fn failed(kind: FailureKind, message: &str) -> TrainerEnd {
    let failure = TrainerFailure { kind, step: Some(7), message: message.to_owned() };
    TrainerEnd::Failed { failure }
}

pub(super) const KILLED: TrainerEnd = TrainerEnd::Killed { signal: 9, core_dumped: false };

/// A job of `world` ranks, or of all idle slots, that is never started again.
pub(super) fn spec(name: &str, world: Option<u32>) -> JobSpec {
    let json = r#"{
        "job": {"name": "", "seed": 1, "priority": 0, "output-dir": "/runs",
                "collective-timeout": "30s"},
        "resources": {"device": "auto", "threads-per-rank": 1, "transport": "auto"},
        "model": {"kind": "lstm", "hidden-size": 8, "num-layers": 1, "dropout": 0.0,
                  "head-dropout": 0.0, "bidirectional": false},
        "data": {"source": {"kind": "sine", "samples": 64, "validation-samples": 16, "noise": 0.1},
                 "window": 5, "horizon": 1, "shuffle": true, "drop-last": true},
        "training": {"epochs": 1, "validate": "never",
            "batch": {"batch-size": {"value": 32, "origin": "test"}, "mismatch": "adapt"},
            "optimizer": {"learning-rate": 0.001, "weight-decay": 0.0, "rule":
                {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "bias-correction": true}},
            "schedule": {"kind": "constant"}, "gradient-clipping": 1.0,
            "precision": {"asked": "fp32", "effective": "fp32"}},
        "zero": {"stage": 0, "overlap-comm": false, "reduce-bucket-size": 1},
        "checkpoint": {"keep-last": 2, "keep-best": 1, "async": false, "resume": "never",
                       "layout": "auto"},
        "monitor": {"tensorboard": false, "csv": false}
    }"#;
    let mut spec: JobSpec = serde_json::from_str(json).unwrap();
    spec.job.name = name.to_owned();
    spec.resources.world_size = world;
    spec.restart = spec::Restart::NEVER;
    spec
}

/// The same job with the usual budgets.
pub(super) fn restarting(name: &str, world: Option<u32>) -> JobSpec {
    JobSpec { restart: spec::Restart::DEFAULT, ..spec(name, world) }
}

/// The same job on these hosts: `a`, or `a:0,2`.
pub(super) fn on_hosts(mut spec: JobSpec, hosts: &[&str]) -> JobSpec {
    let host = |text: &&str| {
        let (name, slots) = text.split_once(':').unwrap_or((text, ""));
        let slots: Vec<u32> = slots.split(',').filter_map(|slot| slot.parse().ok()).collect();
        let slots = match slots.is_empty() {
            true => spec::HostSlots::All,
            false => spec::HostSlots::These(slots),
        };
        spec::Host { name: name.to_owned(), slots }
    };
    spec.resources.hosts = Some(spec::Hosts::new(hosts.iter().map(host).collect()).unwrap());
    spec
}

pub(super) fn with_batch(mut spec: JobSpec, batch_size: u64) -> JobSpec {
    let origin = "test".to_owned();
    spec.training.batch.batch_size = Some(spec::Sourced { value: batch_size, origin });
    spec
}

impl World {
    pub(super) fn new(workers: &[(&str, u32)]) -> Self {
        let mut world = Self::with(config());
        for (name, slots) in workers {
            world.join(name, *slots);
        }
        world.take();
        world
    }

    /// Without workers.
    pub(super) fn with(config: Config) -> Self {
        let mut world = Self {
            machine: Machine::new(config, Ledger::default()),
            now: Duration::from_secs(1000),
            shadow: Ledger::default(),
            clock: 0,
            connections: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            next_number: 0,
            log: String::new(),
        };
        world.step(Event::Started);
        world
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Effect> {
        let finals = self.finals();
        let now = self.moment();
        let effects = self.machine.step(event, now, &mut FixedChance);
        for (index, effect) in effects.iter().enumerate() {
            if let Effect::Persist(records) = effect {
                assert_eq!(index, 0, "A2: durable first: {effects:#?}");
                records.iter().for_each(|record| self.keep(record));
            }
            self.tell(effect);
        }
        assert_eq!(*self.machine.ledger(), self.shadow, "A3: the replay differs");
        self.check_slots();
        self.check_hosts();
        self.check_allocations();
        self.check_pools();
        self.check_homes(&effects);
        self.check_reasons();
        for (job_id, state) in finals {
            let after = self.machine.ledger().jobs.get(&job_id).map(|job| job.state);
            assert!(after.is_none_or(|after| after == state), "A13: {job_id} left {state}");
        }
        effects
    }

    fn keep(&mut self, record: &Record) {
        let stored = serde_json::to_string(record).unwrap();
        self.shadow.apply(&serde_json::from_str(&stored).unwrap());
    }

    fn finals(&self) -> Vec<(JobId, JobState)> {
        let jobs = self.machine.ledger().jobs.iter();
        jobs.filter(|(_, j)| j.state.is_final()).map(|(id, j)| (id.clone(), j.state)).collect()
    }

    /// An attempt that is not the first has rank 0 where the newest checkpoint lies, if on one
    /// worker's own disk and that one is known and in service.
    fn check_homes(&self, effects: &[Effect]) {
        let records = effects.iter().filter_map(|effect| match effect {
            Effect::Persist(records) => Some(records),
            _ => None,
        });
        for record in records.flatten() {
            let Record::AttemptStarted { job_id, ranks, .. } = record else { continue };
            let Some(job) = self.machine.ledger().jobs.get(job_id) else { continue };
            let home = job.latest_checkpoint().and_then(|whole| whole.worker.as_deref());
            // Nodes of an allocation come and go.
            let is_lent = |home: &str| {
                let workers = &self.machine.live.workers;
                workers.values().any(|w| w.name == home && w.allocation.is_some())
            };
            let has_home = |home: &&str| job.attempts.len() > 1 && !is_lent(home);
            let is_own = job.submission.slurm.is_some();
            let Some(home) = home.filter(|home| !is_own && has_home(home)) else { continue };
            let is_drained = self.machine.ledger().drained.contains_key(home);
            let is_known = ["ready", "excluded", "disconnected"].contains(&&*state_of(self, home));
            if is_known && !is_drained {
                assert_eq!(ranks[0].worker_name, home, "{job_id} starts anew");
            }
        }
    }

    fn check_slots(&self) {
        let mut taken = BTreeSet::new();
        for (job_id, job) in &self.machine.ledger().jobs {
            let Some(attempt) = job.open_attempt() else { continue };
            for (rank, placed) in attempt.unfinished() {
                for slot in &placed.slots {
                    let is_free = taken.insert((placed.worker.uuid, *slot));
                    assert!(is_free, "A6: slot {slot} of {rank} of {job_id} is held twice");
                }
            }
        }
    }

    /// Ranks are on the hosts and slots that their job names.
    fn check_hosts(&self) {
        for (job_id, job) in &self.machine.ledger().jobs {
            let Some(hosts) = &job.submission.spec.resources.hosts else { continue };
            for rank in job.open_attempt().iter().flat_map(|attempt| &attempt.ranks) {
                let node = spec::NodeNames::new(&rank.worker_name, "host", "127.0.0.1");
                let host = hosts.find(&node).and_then(|index| hosts.get(index)).unwrap();
                let is_named = rank.slots.iter().all(|slot| host.slots.contains(*slot));
                assert!(is_named, "{job_id} has slots {:?} of {host}", rank.slots);
            }
        }
    }

    /// A job that has ended keeps no allocation, and none has two that it could use.
    fn check_allocations(&self) {
        let ledger = self.machine.ledger();
        let mut holders = BTreeSet::new();
        for (name, allocation) in ledger.allocations.iter().filter(|(_, of)| !of.is_released) {
            let Some(job_id) = name.job() else { continue };
            let job = ledger.jobs.get(job_id);
            assert!(job.is_some_and(|job| !job.state.is_final()), "{name} is kept: {allocation:?}");
            assert!(holders.insert(job_id), "{job_id} has two allocations");
        }
    }

    /// No pool has more nodes than it may, nor more that wait in SLURM's queue.
    fn check_pools(&self) {
        for pool in self.machine.pools() {
            let settings = &pool.settings;
            assert!(pool.nodes <= settings.max_workers, "{pool:#?}");
            let ledger = self.machine.ledger();
            let waiting = pool.allocations.iter().map(|of| &ledger.allocations[&of.name]);
            let waiting = waiting.filter(|of| !of.is_used && !of.is_released).count();
            assert!(waiting <= settings.backlog as usize, "{pool:#?}");
        }
        let of_no_pool = self.machine.ledger().allocations.keys().find(|name| {
            name.pool().is_some_and(|pool| !self.machine.ledger().pools.contains_key(pool))
        });
        assert_eq!(of_no_pool, None);
    }

    fn check_reasons(&self) {
        for (job_id, job) in &self.machine.ledger().jobs {
            let is_waiting = matches!(job.state, JobState::Queued | JobState::Restarting);
            let has_reason = self.machine.queued(job_id).is_some();
            assert_eq!(is_waiting, has_reason, "{job_id} is {}", job.state);
        }
    }

    /// The coordinator dies and comes back from what was durable.
    pub(super) fn restart(&mut self) -> Vec<Effect> {
        let snapshot = serde_json::to_string(&self.shadow).unwrap();
        let ledger: Ledger = serde_json::from_str(&snapshot).unwrap();
        self.machine = Machine::new(config(), ledger);
        self.connections.clear();
        self.step(Event::Started)
    }

    /// What was done since the last call.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.log)
    }

    /// Now, as the machine's two clocks tell it.
    pub(super) fn moment(&self) -> Now {
        let unix = self.now.as_millis() as u64;
        Now { uptime: self.now, unix: unix.saturating_add_signed(self.clock) }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets time pass in which every connected worker gives its heartbeats, ticking when due.
    pub(super) fn live_on(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + Duration::from_millis(500));
            let connections: Vec<ConnectionId> = self.connections.values().copied().collect();
            for connection in connections {
                self.step(Event::Worker { connection, message: WorkerMessage::Heartbeat });
            }
            if self.machine.next_deadline().is_some_and(|at| at <= self.now) {
                self.step(Event::Tick);
            }
        }
    }

    /// Time passes, then a tick. The shell comes back at each deadline on the way.
    pub(super) fn tick_after(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.step(Event::Tick);
        }
        self.now = end;
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn hello(&self, name: &str, slots: u32) -> WorkerHello {
        let incarnation = Incarnation(self.incarnations.get(name).copied().unwrap_or(1));
        WorkerHello {
            id: WorkerId { uuid: uuid_of(name), incarnation },
            name: name.to_owned(),
            advertise: "127.0.0.1".to_owned(),
            slots,
            device: "cpu".to_owned(),
            memory_bytes: 1 << 30,
            version: "0.1.0".to_owned(),
            hostname: "host".to_owned(),
            libtorch: String::new(),
            gpus: Gpus::default(),
            allows_commands: false,
            allocation: None,
            withdrawing: None,
            running: Vec::new(),
            unacknowledged: Vec::new(),
        }
    }

    pub(super) fn send_hello(&mut self, hello: WorkerHello) -> ConnectionId {
        let connection = ConnectionId(self.number());
        self.connections.insert(hello.name.clone(), connection);
        self.step(Event::Hello { connection, hello: Box::new(hello) });
        connection
    }

    pub(super) fn join(&mut self, name: &str, slots: u32) -> ConnectionId {
        self.send_hello(self.hello(name, slots))
    }

    /// The worker's daemon was restarted: its next hello is of a new life.
    pub(super) fn new_life(&mut self, name: &str) {
        *self.incarnations.entry(name.to_owned()).or_insert(1) += 1;
    }

    pub(super) fn connection(&self, name: &str) -> ConnectionId {
        self.connections[name]
    }

    pub(super) fn drop_stream(&mut self, name: &str) {
        let connection = self.connections.remove(name).unwrap();
        self.step(Event::Dropped { connection });
    }

    pub(super) fn say(&mut self, worker: &str, message: WorkerMessage) -> Vec<Effect> {
        let connection = self.connection(worker);
        self.step(Event::Worker { connection, message })
    }

    pub(super) fn submit(&mut self, spec: JobSpec) -> Vec<Effect> {
        let job_id = id(&spec.job.name);
        let request_id = spec.job.name.clone();
        self.submit_as(job_id, request_id, spec)
    }

    pub(super) fn submit_as(
        &mut self,
        job_id: JobId,
        request_id: String,
        spec: JobSpec,
    ) -> Vec<Effect> {
        let ticket = Ticket(self.number());
        let submission = Box::new(submission(request_id, spec));
        self.step(Event::Submit { ticket, job_id, submission })
    }

    /// Submits with what the command line adds to a job file.
    pub(super) fn submit_with(
        &mut self,
        spec: JobSpec,
        group: Option<Group>,
        after: Vec<After>,
    ) -> Vec<Effect> {
        self.submit_whole(spec, group, after, None)
    }

    /// The same, on nodes of its own perhaps.
    pub(super) fn submit_whole(
        &mut self,
        spec: JobSpec,
        group: Option<Group>,
        after: Vec<After>,
        slurm: Option<Request>,
    ) -> Vec<Effect> {
        let (job_id, request_id) = (id(&spec.job.name), spec.job.name.clone());
        let ticket = Ticket(self.number());
        let submission =
            Box::new(Submission { group, after, slurm, ..submission(request_id, spec) });
        self.step(Event::Submit { ticket, job_id, submission })
    }

    /// Submits with an allocation of so many nodes to itself.
    pub(super) fn submit_to_slurm(&mut self, spec: JobSpec, nodes: u32) -> Vec<Effect> {
        let slurm = Some(Request { nodes, ..Request::of(&spec.resources) });
        self.submit_whole(spec, None, Vec::new(), slurm)
    }

    /// What SLURM says of the job's `number`th allocation.
    pub(super) fn slurm(&mut self, job: &str, number: u32, news: AllocationNews) -> Vec<Effect> {
        self.step(Event::Allocation { name: AllocationName::of_job(id(job), number), news })
    }

    /// An operator changes the pool; the answer.
    pub(super) fn pool(&mut self, name: &str, order: PoolOrder) -> Answer {
        let ticket = Ticket(self.number());
        let effects = self.step(Event::Pool { ticket, name: name.parse().unwrap(), order });
        let answer = |effect| match effect {
            Effect::Answer { answer, .. } => Some(answer),
            _ => None,
        };
        effects.into_iter().find_map(answer).unwrap()
    }

    /// What SLURM says of the pool's `number`th allocation.
    pub(super) fn slurm_of_pool(&mut self, pool: &str, number: u32, news: AllocationNews) {
        let name = AllocationName::of_pool(pool.parse().unwrap(), number);
        self.step(Event::Allocation { name, news });
    }

    /// A worker joins on a node of the pool's allocation.
    pub(super) fn join_of_pool(&mut self, name: &str, slots: u32, pool: &str, number: u32) {
        let allocation = Some(AllocationName::of_pool(pool.parse().unwrap(), number));
        self.send_hello(WorkerHello { allocation, ..self.hello(name, slots) });
    }

    /// A worker joins on a node of the allocation.
    pub(super) fn join_of(&mut self, name: &str, slots: u32, job: &str, number: u32) {
        let allocation = Some(AllocationName::of_job(id(job), number));
        self.send_hello(WorkerHello { allocation, ..self.hello(name, slots) });
    }

    /// The job's step, and the seconds that it says it still needs.
    pub(super) fn progress(&mut self, job: &str, step: u64, eta_seconds: f64) {
        let worker = self.places(job)[0].clone();
        let (job_id, generation) = (id(job), Generation(self.generation(job)));
        let live = Live { step, eta_seconds: Some(eta_seconds), ..Live::default() };
        self.say(&worker, WorkerMessage::Progress { job_id, generation, live });
    }

    pub(super) fn drain(&mut self, worker: &str, order: DrainOrder) -> Vec<Effect> {
        let ticket = Ticket(self.number());
        self.step(Event::Drain { ticket, worker: worker.to_owned(), order })
    }

    pub(super) fn cancel(&mut self, job: &str, mode: CancelMode) -> Vec<Effect> {
        let ticket = Ticket(self.number());
        self.step(Event::Cancel { ticket, job_id: id(job), mode })
    }

    /// Worker names of the newest attempt's ranks.
    pub(super) fn places(&self, job: &str) -> Vec<String> {
        let attempt = self.machine.ledger().jobs[&id(job)].attempt();
        attempt.map_or(Vec::new(), |a| a.ranks.iter().map(|r| r.worker_name.clone()).collect())
    }

    pub(super) fn generation(&self, job: &str) -> u64 {
        self.machine.ledger().jobs[&id(job)].attempt().unwrap().generation.0
    }

    pub(super) fn ready(&mut self, job: &str, rank: u32) {
        let worker = self.places(job)[rank as usize].clone();
        let key = key(job, self.generation(job), rank);
        let (peer, libtorch) = (peer(rank, &worker), "2.11.0, AVX2".to_owned());
        let message = WorkerMessage::TrainerReady { key, peer, pid: 100 + rank, libtorch };
        self.say(&worker, message);
    }

    pub(super) fn running(&mut self, job: &str, rank: u32) {
        let worker = self.places(job)[rank as usize].clone();
        let key = key(job, self.generation(job), rank);
        self.say(&worker, WorkerMessage::TrainerRunning { key });
    }

    /// Brings a job that was placed to `running`.
    pub(super) fn train(&mut self, job: &str) {
        let world = self.places(job).len() as u32;
        (0..world).for_each(|rank| self.ready(job, rank));
        (0..world).for_each(|rank| self.running(job, rank));
        assert_eq!(self.state(job), JobState::Running, "{}", self.reason(job));
    }

    pub(super) fn end(&mut self, job: &str, rank: u32, end: TrainerEnd) {
        let worker = self.places(job)[rank as usize].clone();
        let report = self.report(job, rank, end);
        self.say(&worker, WorkerMessage::Ended(report));
    }

    pub(super) fn report(&self, job: &str, rank: u32, end: TrainerEnd) -> EndReport {
        let is_done = rank == 0 && end == TrainerEnd::Finished;
        EndReport {
            key: key(job, self.generation(job), rank),
            end,
            last_lines: vec![format!("last line of {rank}")],
            summary: is_done.then(|| Box::new(Summary { steps: 40, ..Summary::default() })),
            at: self.now.as_millis() as u64,
        }
    }

    /// Rank 0 reports a whole checkpoint of this step.
    pub(super) fn commit(&mut self, job: &str, step: u64) {
        self.commit_on(job, step, None);
    }

    /// It lies on this worker's own disk.
    pub(super) fn commit_on(&mut self, job: &str, step: u64, holder: Option<&str>) {
        let worker = holder.map(str::to_owned);
        let checkpoint = CheckpointRow { worker, ..whole(id(job).as_str(), step) };
        let (job_id, generation) = (id(job), Generation(self.generation(job)));
        let (removed, found) = (Vec::new(), None);
        let worker = self.places(job)[0].clone();
        let message = WorkerMessage::Checkpoint { job_id, generation, checkpoint, removed, found };
        self.say(&worker, message);
    }

    /// The truth of a worker on which these ranks run.
    pub(super) fn running_trainers(&self, job: &str, ranks: &[u32]) -> Vec<RunningTrainer> {
        let generation = self.generation(job);
        let trainer = |rank: &u32| RunningTrainer {
            key: key(job, generation, *rank),
            pid: 100 + rank,
            peer: Some(peer(*rank, &self.places(job)[*rank as usize])),
            is_running: true,
            libtorch: "2.11.0, AVX2".to_owned(),
        };
        ranks.iter().map(trainer).collect()
    }

    pub(super) fn state(&self, job: &str) -> JobState {
        self.machine.ledger().jobs[&id(job)].state
    }

    pub(super) fn reason(&self, job: &str) -> String {
        self.status(job).row.reason
    }

    pub(super) fn status(&self, job: &str) -> JobStatus {
        let now = self.moment();
        self.machine.status(&id(job), now).unwrap()
    }

    fn worker_at(&self, connection: ConnectionId) -> String {
        let found = self.connections.iter().find(|(_, c)| **c == connection);
        found.map_or_else(|| "?".to_owned(), |(name, _)| name.clone())
    }

    /// One line per effect, as a reader of the test would tell it.
    fn tell(&mut self, effect: &Effect) {
        let line = match effect {
            Effect::Persist(records) => {
                let mut line = "persist".to_owned();
                for record in records {
                    write!(line, " {}", tell_record(record)).unwrap();
                }
                line
            }
            Effect::Changed { .. } => return,
            Effect::Answer { answer, .. } => format!("answer {answer:?}"),
            Effect::Welcome { to, .. } => format!("-> {}: welcome", self.worker_at(*to)),
            Effect::Refuse { to, reason, is_retryable } => {
                let come_back = if *is_retryable { "come back" } else { "for good" };
                format!("-> {}: refused ({come_back}): {reason}", self.worker_at(*to))
            }
            Effect::Ping { to } => format!("-> {}: ping", self.worker_at(*to)),
            Effect::Disconnect { reason, .. } => format!("disconnect: {reason}"),
            Effect::StartTrainers { to, order } => {
                let ranks = order.ranks.iter().map(|(rank, slots)| format!("{rank}@{slots:?}"));
                let ranks: Vec<String> = ranks.collect();
                let (job, generation) = (&order.job_id, order.generation);
                let to = self.worker_at(*to);
                format!("-> {to}: start {job}.{generation} of {}: {}", order.world, ranks.join(" "))
            }
            Effect::SendRankTable { to, table } => {
                let (job, generation) = (&table.job_id, table.generation);
                let to = self.worker_at(*to);
                let ids = table.peers.iter().map(|peer| &peer.nccl_id.0);
                let ids: Vec<_> = ids.filter(|id| !id.is_empty()).collect();
                let nccl = if ids.is_empty() { String::new() } else { format!(", NCCL {ids:?}") };
                format!("-> {to}: rank table {job}.{generation} of {}{nccl}", table.peers.len())
            }
            Effect::StopJob { to, order } => {
                let mode = match order.mode {
                    StopMode::Gracefully => "gracefully",
                    StopMode::Abort => "at once",
                };
                let (job, generation) = (&order.job_id, order.generation);
                let (to, reason) = (self.worker_at(*to), &order.reason);
                format!("-> {to}: stop {job}.{generation} {mode}: {reason}")
            }
            Effect::AcknowledgeEnds { to, ends } => {
                let ranks: Vec<String> = ends.iter().map(|key| key.rank.to_string()).collect();
                format!("-> {}: acknowledge end of {}", self.worker_at(*to), ranks.join(" "))
            }
            Effect::ShowStacks { to, job_id, ranks, .. } => {
                let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
                format!("-> {}: show stacks of {job_id}: {}", self.worker_at(*to), ranks.join(" "))
            }
            Effect::Allocations(orders) => {
                let order = |order: &AllocationOrder| {
                    let verb = if order.wanted.is_some() { "want" } else { "give back" };
                    let number = order.slurm_job.map_or("?".to_owned(), |job| job.to_string());
                    format!("{verb} {} ({number})", order.name)
                };
                let orders: Vec<String> = orders.iter().map(order).collect();
                format!("slurm: {}", orders.join(", "))
            }
            Effect::Forget { job_id } => format!("forget {job_id}"),
        };
        writeln!(self.log, "{line}").unwrap();
    }
}

fn submission(request_id: String, spec: JobSpec) -> Submission {
    Submission {
        request_id,
        spec,
        job_toml: "[job]".to_owned(),
        uploads: BTreeMap::new(),
        group: None,
        after: Vec::new(),
        slurm: None,
        origin: None,
    }
}

pub(super) fn whole(job_id: &str, step: u64) -> CheckpointRow {
    let tag = format!("step-{step:08}");
    CheckpointRow {
        path: format!("/runs/{job_id}/checkpoints/{tag}"),
        tag,
        step,
        world_size: 2,
        zero_stage: 0,
        loss: None,
        val_loss: None,
        bytes: 100,
        durable: true,
        pinned: true,
        worker: None,
    }
}

/// How the list of workers shows one of them; empty: not at all.
pub(super) fn state_of(w: &World, name: &str) -> String {
    let rows = w.machine.workers().into_iter();
    rows.filter(|row| row.name == name).map(|row| row.state).next().unwrap_or_default()
}

pub(super) fn peer(rank: u32, worker: &str) -> Peer {
    Peer {
        rank: Rank(rank),
        address: format!("127.0.0.1:{}", 4000 + rank),
        unix_name: String::new(),
        worker: worker.to_owned(),
        nccl_id: NcclId::default(),
    }
}

fn tell_record(record: &Record) -> String {
    match record {
        Record::CoordinatorStarted { incarnation, .. } => format!("started({incarnation})"),
        Record::WorkerSeen { name, .. } => format!("worker({name})"),
        Record::JobSubmitted { .. } => "submitted".to_owned(),
        Record::CancelAsked { .. } => "cancel-asked".to_owned(),
        Record::AttemptStarted { attempt, .. } => format!("attempt-started({attempt})"),
        Record::AttemptRunning { .. } => "attempt-running".to_owned(),
        Record::AttemptReady { step, .. } => format!("attempt-ready({step})"),
        Record::StopDecided { .. } => "stop-decided".to_owned(),
        Record::TrainerEnded { key, .. } => format!("ended({})", key.rank),
        Record::CheckpointCommitted { .. } => "checkpoint".to_owned(),
        Record::NotesAdded { .. } => "notes".to_owned(),
        Record::JobEnded { state, reason, .. } => format!("job-ended({state}: {reason})"),
        Record::AttemptEnded { over, wait, .. } => {
            format!("attempt-ended({} in {wait:?})", over.class)
        }
        Record::JobForgotten { .. } => "forgotten".to_owned(),
        Record::WorkerDrained { name, .. } => format!("drained({name})"),
        Record::WorkerUndrained { name, .. } => format!("undrained({name})"),
        Record::WorkerAllowed { name, .. } => format!("allowed({name})"),
        Record::AllocationAsked { name, .. } => format!("allocation-asked({name})"),
        Record::AllocationAccepted { name, slurm_job, .. } => {
            format!("allocation-accepted({name}: {slurm_job})")
        }
        Record::AllocationReleased { name, why, .. } => {
            format!("allocation-released({name}: {why})")
        }
        Record::AllocationEnded { name, why, .. } => format!("allocation-ended({name}: {why})"),
        Record::AllocationServed { name, .. } => format!("allocation-served({name})"),
        Record::PoolAdded { name, .. } => format!("pool-added({name})"),
        Record::PoolPaused { name, why, .. } => format!("pool-paused({name}: {why})"),
        Record::PoolResumed { name, .. } => format!("pool-resumed({name})"),
        Record::PoolFailed { name, why, .. } => format!("pool-failed({name}: {why})"),
        Record::PoolClosed { name, .. } => format!("pool-closed({name})"),
    }
}
