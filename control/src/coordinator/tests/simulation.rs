//! A seeded cluster: workers that start, train, fail, restart, lose their streams and come back;
//! trainers that hang; a coordinator that dies; users that submit, also in groups, after other jobs
//! and to some hosts, cancel and requeue; operators that drain workers; messages that come late or twice. Every
//! step checks the invariants (see `world`); at the end the trouble stops and every job must come to
//! its end with nothing left running.

mod slurm;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use common::ids::{Generation, JobId, Rank};
use common::position::{Phase, Position};
use common::slurm::allocation::AllocationName;
use common::slurm::pool::{PoolState, PoolStatus};
use common::spec::{Hosts, NodeNames};
use common::status::{CheckpointRow, FailureKind, Live, TrainerEnd};

use super::world::{KILLED, World, failed, id, key, peer, whole};
use crate::coordinator::{
    After, AllocationOrder, Config, ConnectionId, DrainOrder, Effect, EndReport, Event, PoolOrder,
    RankKey, RankPosition, RunningTrainer, StartOrder, StopMode, WorkerMessage,
};

/// Fixed, so that a failure in CI is the same failure here.
const SEEDS: u64 = 150;
const STEPS: usize = 400;

/// SplitMix64: enough chance for a test, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

/// One worker as the protocol sees it.
#[derive(Default)]
struct SimWorker {
    slots: u32,
    /// Its node is of this one, and goes with it.
    allocation: Option<AllocationName>,
    connection: Option<ConnectionId>,
    /// The coordinator takes it for alive until then.
    lease_until: Duration,
    trainers: BTreeMap<RankKey, SimTrainer>,
    unacknowledged: Vec<EndReport>,
    /// Orders that are on their way; lost with the stream.
    inbox: Vec<Effect>,
}

#[derive(Clone, Default)]
struct SimTrainer {
    is_ready: bool,
    has_table: bool,
    is_running: bool,
    is_told_to_stop: bool,
    /// It does nothing any more until it is stopped.
    is_stuck: bool,
    /// What it got done.
    beat: u64,
}

struct Sim {
    world: World,
    dice: Dice,
    workers: BTreeMap<String, SimWorker>,
    jobs: Vec<String>,
    past: Vec<(String, WorkerMessage)>,
    is_calm: bool,
    slurm: slurm::SimSlurm,
    /// Attempts whose first order was seen.
    begun: BTreeSet<(JobId, Generation)>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut workers = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let slots = 1 + dice.below(3) as u32;
            workers.insert(name.to_owned(), SimWorker { slots, ..SimWorker::default() });
        }
        let world = World::new(&[]);
        Self {
            world,
            dice,
            workers,
            jobs: Vec::new(),
            past: Vec::new(),
            is_calm: false,
            slurm: slurm::SimSlurm::default(),
            begun: BTreeSet::new(),
        }
    }

    /// Hands the machine's effects to the workers; checks A4 and A6 on the way.
    fn route(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let to = match &effect {
                Effect::StartTrainers { to, .. }
                | Effect::SendRankTable { to, .. }
                | Effect::StopJob { to, .. }
                | Effect::ShowStacks { to, .. }
                | Effect::Refuse { to, .. }
                | Effect::AcknowledgeEnds { to, .. } => *to,
                Effect::Disconnect { connection, .. } => *connection,
                _ => continue,
            };
            if let Effect::StartTrainers { order, .. } = &effect {
                self.check_alone(order);
            }
            let worker = self.workers.values_mut().find(|w| w.connection == Some(to));
            let Some(worker) = worker else { continue };
            match effect {
                Effect::Disconnect { .. } | Effect::Refuse { .. } => {
                    worker.connection = None;
                    worker.inbox.clear();
                }
                order => worker.inbox.push(order),
            }
        }
    }

    /// A6: an attempt begins when no worker still runs an older generation, but those that are known
    /// lost. One that comes into reach later is told to stop; its commits are fenced off.
    fn check_alone(&mut self, order: &StartOrder) {
        if !self.begun.insert((order.job_id.clone(), order.generation)) {
            return;
        }
        let now = self.world.now;
        let is_alive = |w: &SimWorker| w.connection.is_some() || w.lease_until > now;
        for (name, worker) in self.workers.iter().filter(|(_, w)| is_alive(w)) {
            let is_older =
                |key: &&RankKey| key.job_id == order.job_id && key.generation < order.generation;
            let older = worker.trainers.keys().find(is_older);
            assert_eq!(older, None, "A6: it runs on {name} beside {}", order.generation);
        }
    }

    fn step(&mut self, event: Event) {
        let effects = self.world.step(event);
        self.route(effects);
    }

    fn say(&mut self, name: &str, message: WorkerMessage) {
        // The node may be gone.
        if let Some(connection) = self.workers.get(name).and_then(|worker| worker.connection) {
            self.past.push((name.to_owned(), message.clone()));
            self.step(Event::Worker { connection, message });
            self.renew_lease(name);
        }
    }

    fn connect(&mut self, name: &str) {
        let worker = &self.workers[name];
        let mut hello = self.world.hello(name, worker.slots);
        hello.running = worker
            .trainers
            .iter()
            .map(|(key, trainer)| RunningTrainer {
                key: key.clone(),
                pid: 1,
                peer: trainer.is_ready.then(|| peer(key.rank.0, name)),
                is_running: trainer.is_running,
                libtorch: String::new(),
            })
            .collect();
        hello.unacknowledged.clone_from(&worker.unacknowledged);
        hello.allocation.clone_from(&worker.allocation);
        let connection = ConnectionId(self.world.number());
        let worker = self.workers.get_mut(name).unwrap();
        worker.connection = Some(connection);
        worker.inbox.clear();
        self.step(Event::Hello { connection, hello: Box::new(hello) });
        self.renew_lease(name);
    }

    /// The coordinator has heard it, if it did not turn it away.
    fn renew_lease(&mut self, name: &str) {
        let lease_until = self.world.now + Config::default().lease;
        let worker = self.workers.get_mut(name).unwrap();
        if worker.connection.is_some() {
            worker.lease_until = lease_until;
        }
    }

    fn disconnect(&mut self, name: &str) {
        let worker = self.workers.get_mut(name).unwrap();
        worker.inbox.clear();
        if let Some(connection) = worker.connection.take() {
            self.step(Event::Dropped { connection });
        }
    }

    /// A worker does one of the things that wait in its inbox.
    fn obey(&mut self, name: &str) {
        let worker = self.workers.get_mut(name).unwrap();
        if worker.inbox.is_empty() {
            return;
        }
        match worker.inbox.remove(0) {
            Effect::StartTrainers { order, .. } if !self.is_calm && self.dice.one_in(10) => {
                let (job_id, generation) = (order.job_id, order.generation);
                let message = "the disk is full".to_owned();
                let is_configuration = false;
                let failed =
                    WorkerMessage::PrepareFailed { job_id, generation, is_configuration, message };
                self.say(name, failed);
            }
            Effect::StartTrainers { order, .. } => {
                for (rank, _) in &order.ranks {
                    let key = RankKey {
                        job_id: order.job_id.clone(),
                        generation: order.generation,
                        rank: *rank,
                    };
                    worker.trainers.entry(key).or_default();
                }
                let used = worker.trainers.len();
                assert!(used <= worker.slots as usize, "A6: {used} trainers on {name}");
            }
            Effect::SendRankTable { table, .. } => {
                for (key, trainer) in &mut worker.trainers {
                    let is_meant = key.job_id == table.job_id && key.generation == table.generation;
                    trainer.has_table |= is_meant;
                }
            }
            Effect::StopJob { order, .. } => {
                for (key, trainer) in &mut worker.trainers {
                    if key.job_id == order.job_id && key.generation == order.generation {
                        trainer.is_told_to_stop = true;
                        assert!(matches!(order.mode, StopMode::Gracefully | StopMode::Abort));
                    }
                }
            }
            Effect::AcknowledgeEnds { ends, .. } => {
                worker.unacknowledged.retain(|report| !ends.contains(&report.key));
            }
            Effect::ShowStacks { job_id, generation, ranks, .. } => {
                for rank in ranks {
                    let (job_id, lines) = (job_id.clone(), vec!["a frame".to_owned()]);
                    let key = RankKey { job_id, generation, rank };
                    // Some tell nothing.
                    if worker.trainers.contains_key(&key) && self.dice.one_in(2) {
                        self.say(name, WorkerMessage::Stacks { key, lines });
                        return;
                    }
                }
            }
            other => panic!("not for a worker: {other:?}"),
        }
    }

    /// One trainer of a worker takes its next step.
    fn run_trainer(&mut self, name: &str) {
        let worker = &self.workers[name];
        if worker.trainers.is_empty() {
            return;
        }
        let place = self.dice.below(worker.trainers.len());
        let key = worker.trainers.keys().nth(place).unwrap().clone();
        let trainer = worker.trainers[&key].clone();
        let mut change = |change: fn(&mut SimTrainer)| {
            let worker = self.workers.get_mut(name).unwrap();
            change(worker.trainers.get_mut(&key).unwrap());
        };
        if trainer.is_told_to_stop {
            self.end(name, key, TrainerEnd::Stopped);
        } else if !trainer.is_ready {
            change(|trainer| trainer.is_ready = true);
            let peer = peer(key.rank.0, name);
            self.say(
                name,
                WorkerMessage::TrainerReady { key, peer, pid: 1, libtorch: String::new() },
            );
        } else if trainer.has_table && !trainer.is_running {
            change(|trainer| trainer.is_running = true);
            self.say(name, WorkerMessage::TrainerRunning { key: key.clone() });
            self.go_on(name, key);
        } else if trainer.is_stuck {
        } else if trainer.is_running && !self.is_calm && self.dice.one_in(15) {
            change(|trainer| trainer.is_stuck = true);
        } else if trainer.is_running && key.rank.0 == 0 && self.dice.one_in(3) {
            let RankKey { job_id, generation, .. } = key;
            self.say(name, WorkerMessage::Progress { job_id, generation, live: Live::default() });
        } else if trainer.is_running && key.rank.0 == 0 && self.dice.one_in(3) {
            let job = key.job_id.as_str();
            let step = self.world.machine.checkpoints(&key.job_id).map_or(0, <[_]>::len) as u64;
            // Some jobs save on the own disk of rank 0's worker.
            let holder = key.job_id.as_str().starts_with("job1").then(|| name.to_owned());
            let checkpoint = CheckpointRow { worker: holder, ..whole(job, 100 * (step + 1)) };
            let RankKey { job_id, generation, .. } = key;
            let (removed, found) = (Vec::new(), None);
            let message =
                WorkerMessage::Checkpoint { job_id, generation, checkpoint, removed, found };
            self.say(name, message);
        } else if trainer.is_running {
            let end = match self.dice.below(if self.is_calm { 1 } else { 8 }) {
                0..=3 => TrainerEnd::Finished,
                4 => KILLED,
                5 => failed(FailureKind::NotFinite, "NaN"),
                _ => failed(FailureKind::Communication, "a peer vanished"),
            };
            self.end(name, key, end);
        }
    }

    /// A sign of life, with where the trainers are.
    fn heartbeat(&mut self, name: &str) {
        let worker = self.workers.get_mut(name).unwrap();
        let mut told = Vec::new();
        for (key, trainer) in worker.trainers.iter_mut().filter(|(_, t)| t.is_running) {
            trainer.beat += u64::from(!trainer.is_stuck);
            let position = Position {
                step: 1,
                phase: Phase::Forward,
                beat: trainer.beat,
                slow_step: Duration::from_millis(100),
                ..Position::default()
            };
            told.push(RankPosition { key: key.clone(), position, age: Duration::ZERO });
        }
        self.say(name, WorkerMessage::Positions(told));
    }

    /// Rank 0 has its state: of the newest checkpoint, if that lies where it runs.
    fn go_on(&mut self, name: &str, RankKey { job_id, generation, rank }: RankKey) {
        let rows = self.world.machine.checkpoints(&job_id).unwrap_or_default();
        let is_here = |row: &&CheckpointRow| row.worker.as_deref().is_none_or(|w| w == name);
        let resumed_at_step = rows.last().filter(is_here).map(|row| row.step);
        let step = resumed_at_step.unwrap_or(0);
        let live = Live { step, resumed_at_step, ..Live::default() };
        if rank.0 == 0 {
            self.say(name, WorkerMessage::Progress { job_id, generation, live });
        }
    }

    fn end(&mut self, name: &str, key: RankKey, end: TrainerEnd) {
        let report = EndReport {
            key: key.clone(),
            end,
            last_lines: vec!["last".to_owned()],
            summary: None,
            at: 0,
        };
        let worker = self.workers.get_mut(name).unwrap();
        worker.trainers.remove(&key);
        worker.unacknowledged.push(report.clone());
        self.say(name, WorkerMessage::Ended(report));
    }

    fn pass(&mut self, millis: u64) {
        self.world.pass(Duration::from_millis(millis));
        let now = self.world.now;
        if self.world.machine.next_deadline().is_some_and(|at| at <= now) {
            self.step(Event::Tick);
        }
    }

    fn restart_coordinator(&mut self) {
        let now = self.world.now;
        for worker in self.workers.values_mut() {
            worker.connection = None;
            worker.inbox.clear();
            // One that was lost before is not waited for again.
            if worker.lease_until > now {
                worker.lease_until = now + Config::default().reattach_grace;
            }
        }
        let effects = self.world.restart();
        self.route(effects);
    }

    fn random_worker(&mut self) -> String {
        let place = self.dice.below(self.workers.len());
        self.workers.keys().nth(place).unwrap().clone()
    }

    fn trouble(&mut self) {
        let name = self.random_worker();
        match self.dice.below(48) {
            0 => self.restart_coordinator(),
            1 => {
                // The daemon is killed: its trainers die with it, its ends stay on disk.
                self.disconnect(&name);
                self.workers.get_mut(&name).unwrap().trainers.clear();
                self.world.new_life(&name);
            }
            2..=4 => self.disconnect(&name),
            5..=9 if self.workers[&name].connection.is_none() => self.connect(&name),
            10..=12 => self.user(),
            13 => {
                let place = self.dice.below(self.past.len().max(1));
                // A message comes again, or late.
                if let Some((name, message)) = self.past.get(place).cloned() {
                    self.say(&name, message);
                }
            }
            14 => {
                let job = format!("job{}", self.dice.below(12));
                let stale = key(&job, 99, 0);
                self.say(&name, WorkerMessage::TrainerRunning { key: stale });
            }
            15..=18 => {
                let time = 50 + self.dice.below(1500) as u64;
                self.pass(time);
            }
            19..=21 => self.heartbeat(&name),
            22..=32 => self.obey(&name),
            33 | 34 => self.operator(&name),
            42..=45 => self.slurm_acts(),
            46 => self.pool_operator(),
            _ => self.run_trainer(&name),
        }
    }

    /// Slots that a job on these hosts could have.
    fn room(&self, hosts: Option<&Hosts>) -> u32 {
        let of = |(name, worker): (&String, &SimWorker)| match hosts {
            None => worker.slots,
            Some(hosts) => {
                let host = hosts.find(&NodeNames::new(name, "", "")).and_then(|at| hosts.get(at));
                let is_named = |slot: &u32| host.is_some_and(|host| host.slots.contains(*slot));
                (0..worker.slots).filter(is_named).count() as u32
            }
        };
        self.workers.iter().filter(|(_, w)| w.allocation.is_none()).map(of).sum()
    }

    /// Slots of the largest pool that asks.
    fn room_of_pools(&self) -> u32 {
        let asks = |pool: &PoolStatus| pool.state == PoolState::Open;
        let of = |pool: PoolStatus| pool.settings.max_workers * pool.settings.request.cpus_per_task;
        self.world.machine.pools().into_iter().filter(asks).map(of).max().unwrap_or(0)
    }

    /// No more trouble: everything must come to its end.
    fn calm_down(&mut self) {
        self.is_calm = true;
        let names: Vec<String> = self.workers.keys().cloned().collect();
        names.iter().for_each(|name| self.order_drain(name, DrainOrder::Undo));
        ["p", "q"].into_iter().for_each(|name| self.order_pool(name, PoolOrder::Resume));
        for _ in 0..400 {
            self.slurm_acts();
            // Nodes of allocations come and go.
            let names: Vec<String> = self.workers.keys().cloned().collect();
            for name in &names {
                if self.workers[name].connection.is_none() {
                    self.connect(name);
                }
                self.heartbeat(name);
                while !self.workers[name].inbox.is_empty() {
                    self.obey(name);
                }
                for _ in 0..3 {
                    self.run_trainer(name);
                }
            }
            self.pass(250);
        }
        let jobs = &self.world.machine.ledger().jobs;
        for name in &self.jobs {
            let Some(job) = jobs.get(&id(name)) else { continue };
            let resources = &job.submission.spec.resources;
            let pools = if resources.hosts.is_some() { 0 } else { self.room_of_pools() };
            let asked = resources.smallest_world();
            let slots = pools.max(self.room(resources.hosts.as_ref()));
            // It waits for one that does not fit.
            let is_open =
                |after: &After| jobs.get(&after.job_id).is_some_and(|job| !job.state.is_final());
            let is_held = job.submission.after.iter().any(is_open);
            let state = job.state;
            let asked = if job.submission.slurm.is_some() { 0 } else { asked };
            assert!(state.is_final() || asked > slots || is_held, "{name} is {state} for ever");
        }
        for (name, worker) in &self.workers {
            let left: Vec<(&RankKey, Rank)> =
                worker.trainers.keys().map(|key| (key, key.rank)).collect();
            assert!(left.is_empty(), "{left:?} still run on {name}");
            assert!(worker.unacknowledged.is_empty(), "ends on {name} are not acknowledged");
        }
        let kept = self.world.machine.allocations();
        let is_kept = |order: &&AllocationOrder| {
            let job = order.name.job().and_then(|job_id| jobs.get(job_id));
            order.wanted.is_none() || job.is_none_or(|job| job.state.is_final())
        };
        assert_eq!(kept.iter().find(is_kept), None, "an allocation dangles");
        for row in self.world.machine.workers().into_iter().filter(|row| row.state == "ready") {
            assert_eq!(row.free_slots, row.slots, "slots of {} leaked", row.name);
        }
    }
}

fn check(seed: u64) {
    let run = std::panic::catch_unwind(|| {
        let mut sim = Sim::new(seed);
        for _ in 0..STEPS {
            sim.trouble();
        }
        sim.calm_down();
    });
    if let Err(panic) = run {
        eprintln!("seed={seed}");
        std::panic::resume_unwind(panic);
    }
}

/// The long form takes new seeds until its minutes are over; RUSTSPEED_SOAK_SEED is its first.
#[test]
#[expect(clippy::disallowed_methods, reason = "the long form ends by the clock")]
fn soak_whatever_happens_the_invariants_hold_and_every_job_ends() {
    let setting = |name| std::env::var(name).ok();
    if setting("RUSTSPEED_SOAK").as_deref() != Some("1") {
        return (0..SEEDS).for_each(check);
    }
    let number =
        |name, default| setting(name).map_or(default, |text: String| text.parse().unwrap());
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let first = number("RUSTSPEED_SOAK_SEED", since_1970 << 20);
    let bound = Duration::from_secs(60 * number("RUSTSPEED_SOAK_MINUTES", 60));
    let (started, mut seeds) = (Instant::now(), first..);
    eprintln!("simulation: at most {bound:?}, RUSTSPEED_SOAK_SEED={first}");
    while started.elapsed() < bound {
        seeds.next().into_iter().for_each(check);
    }
    eprintln!("simulation: {} seeds", seeds.start - first);
}
