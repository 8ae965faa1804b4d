//! Who belongs to the cluster: hellos, names, leases, goodbyes, and the coordinator's own restart.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use uuid::Uuid;

use common::ids::{Incarnation, JobId, Rank, WorkerId};
use common::spec::NodeNames;
use common::status::{JobState, TrainerEnd, UnixMillis};

use crate::coordinator::Machine;
use crate::coordinator::effect::{Effect, StopOrder};
use crate::coordinator::event::{ConnectionId, Now, RankKey, RunningTrainer, WorkerHello};
use crate::coordinator::ledger::Job;
use crate::coordinator::live::{LiveAttempt, LiveStop, LiveWorker, Phase, Standing};
use crate::coordinator::record::{Record, StopMode};
use crate::coordinator::shared::Shared;

/// Why a hello is not accepted.
struct NotWelcome {
    reason: String,
    is_retryable: bool,
}

impl Machine {
    /// Goes on where the last life ended: queued jobs are queued, and for every open attempt its
    /// workers get a grace in which to come back with their truth (A11).
    pub(super) fn on_started(&mut self, now: Now) {
        let incarnation = Incarnation(self.ledger.incarnation.0 + 1);
        self.record(Record::CoordinatorStarted { incarnation, at: now.unix });
        let mut waiting: Vec<(JobId, Option<UnixMillis>)> = Vec::new();
        let mut open: Vec<(JobId, Shared<Job>)> = Vec::new();
        for (job_id, job) in &self.ledger.jobs {
            if job.state.is_final() {
                self.live.finals.insert((job.ended_at, job.number), job_id.clone());
            } else if job.open_attempt().is_some() {
                open.push((job_id.clone(), job.clone()));
            } else {
                waiting.push((job_id.clone(), job.restart_at));
            }
        }
        self.await_workers(now);
        for (job_id, job) in open {
            self.expect_back(&job_id, &job, now);
            self.review(&job_id, now);
        }
        for (job_id, restart_at) in waiting {
            match restart_at {
                Some(restart_at) => self.rest_again(&job_id, restart_at, now),
                None => self.enqueue(&job_id, now),
            }
        }
        self.out.are_allocations_changed = !self.ledger.allocations.is_empty();
        if !self.ledger.workers.is_empty() {
            self.live.pools.begin_after(now.uptime + self.config.reattach_grace);
        }
        self.out.is_schedule_due = true;
        // Expected nodes are told before any worker comes.
        self.out.workers_changed |= self.config.expected.is_some();
    }

    fn expect_back(&mut self, job_id: &JobId, job: &Job, now: Now) {
        let Some(attempt) = job.open_attempt() else { return };
        let back_by = now.uptime + self.config.reattach_grace;
        let phase = match attempt.running_at {
            Some(_) => Phase::Training,
            None => Phase::Gathering { until: back_by + self.config.rendezvous_timeout },
        };
        let mut live = LiveAttempt::new(attempt.generation, attempt.ranks.len(), phase);
        live.limit_at = self.limit_at(job_id, now);
        live.stop = attempt.stop.as_ref().map(|stop| LiveStop {
            mode: stop.mode,
            until: back_by + self.config.grace(stop) + self.config.confirm_margin,
        });
        for (index, rank) in live.ranks.iter_mut().enumerate() {
            rank.is_running = attempt.running_at.is_some() || attempt.ranks[index].end.is_some();
        }
        self.live.attempts.insert(job_id.clone(), live);
        if attempt.running_at.is_some() {
            self.may_grow_later(job_id, now);
        }
        for (_, placed) in attempt.unfinished() {
            self.expect_worker(placed.worker, &placed.worker_name, now);
        }
    }

    pub(super) fn on_hello(&mut self, from: ConnectionId, hello: Box<WorkerHello>, now: Now) {
        if let Err(NotWelcome { reason, is_retryable }) = self.admit(&hello, now) {
            self.effect(Effect::Refuse { to: from, reason, is_retryable });
            return;
        }
        let id = hello.id;
        let is_known = self
            .ledger
            .workers
            .get(&id.uuid)
            .is_some_and(|w| w.incarnation == id.incarnation && w.name == hello.name);
        if !is_known {
            let name = hello.name.clone();
            self.record(Record::WorkerSeen { id, name, at: now.unix });
        }
        let WorkerHello { running, unacknowledged, withdrawing, .. } =
            self.attach(from, *hello, now);
        let lease = self.live.workers.get(&id.uuid).map_or(self.config.lease, |w| w.lease);
        self.effect(Effect::Welcome { to: from, lease });
        // Before the ends: it says why they came.
        if let Some(withdrawal) = withdrawing {
            self.on_withdrawing(&id.uuid, withdrawal, now);
        }
        for report in unacknowledged {
            self.on_ended(&id.uuid, report, now);
        }
        self.reconcile(id, running, now);
        let allocation = self.live.workers.get(&id.uuid).and_then(|w| w.allocation.clone());
        if let Some(name) = allocation {
            self.on_joined_of(&name, now);
        }
        self.out.is_schedule_due = true;
        self.out.workers_changed = true;
    }

    pub(super) fn on_welcomed(&mut self, connection: ConnectionId, now: Now) {
        let uuid = self.live.connections.get(&connection);
        if let Some(worker) = uuid.and_then(|uuid| self.live.workers.get_mut(uuid)) {
            worker.deadline = worker.deadline.max(now.uptime + worker.lease);
        }
    }

    /// Whether the worker may join under its name and in its incarnation.
    fn admit(&mut self, hello: &WorkerHello, now: Now) -> Result<(), NotWelcome> {
        let known = self.ledger.workers.get(&hello.id.uuid);
        if let Some(newer) = known.filter(|w| w.incarnation > hello.id.incarnation) {
            let reason = format!(
                "a newer life of this worker has joined (incarnation {}, this is {})",
                newer.incarnation, hello.id.incarnation
            );
            return Err(NotWelcome { reason, is_retryable: false });
        }
        if let Some(allocation) = &hello.allocation
            && !self.is_expected(allocation, &hello.id.uuid)
        {
            let reason = format!("allocation {allocation} is over or was given back");
            return Err(NotWelcome { reason, is_retryable: false });
        }
        let name = &hello.name;
        let holder = self.live.workers.values_mut().find(|w| {
            w.standing == Standing::Ready && w.name == *name && w.id.uuid != hello.id.uuid
        });
        let Some(holder) = holder else { return Ok(()) };
        match (holder.connection, holder.pinged_at) {
            (Some(_), Some(asked)) if holder.last_heard > asked => Err(NotWelcome {
                reason: format!(
                    "the name `{name}` belongs to a live worker ({}); hint: choose another with \
                     --name",
                    holder.id.uuid
                ),
                is_retryable: false,
            }),
            (Some(to), None) => {
                holder.pinged_at = Some(now.uptime);
                self.out.effects.push(Effect::Ping { to });
                let reason = format!("the name `{name}` is taken; asking its holder");
                Err(NotWelcome { reason, is_retryable: true })
            }
            _ => {
                let reason = format!(
                    "the name `{name}` is taken by a worker that does not answer; it is free when \
                     that one's lease is over"
                );
                Err(NotWelcome { reason, is_retryable: true })
            }
        }
    }

    /// Takes the worker's new stream; the one before it ends.
    fn attach(&mut self, from: ConnectionId, mut hello: WorkerHello, now: Now) -> WorkerHello {
        let uuid = hello.id.uuid;
        let before = self.live.workers.remove(&uuid);
        if let Some(old) = before.and_then(|w| w.connection).filter(|old| *old != from) {
            self.live.connections.remove(&old);
            let reason = "a newer stream of this worker has replaced it".to_owned();
            self.effect(Effect::Disconnect { connection: old, reason });
        }
        self.live.connections.insert(from, uuid);
        let is_drained = self.ledger.drained.contains_key(&hello.name);
        let is_other = |w: &&LiveWorker| w.standing == Standing::Ready && w.id.uuid != uuid;
        let others = self.live.workers.values().filter(is_other).count();
        let lease = self.config.lease_among(others + 1);
        let node = NodeNames::new(&hello.name, &hello.hostname, &hello.advertise);
        let worker = LiveWorker {
            id: hello.id,
            name: mem::take(&mut hello.name),
            standing: Standing::Ready,
            connection: Some(from),
            advertise: mem::take(&mut hello.advertise),
            hostname: mem::take(&mut hello.hostname),
            node: Arc::new(node),
            slots: hello.slots,
            device: mem::take(&mut hello.device),
            memory_bytes: hello.memory_bytes,
            version: mem::take(&mut hello.version),
            libtorch: mem::take(&mut hello.libtorch),
            gpus: mem::take(&mut hello.gpus),
            allows_commands: hello.allows_commands,
            allocation: hello.allocation.take(),
            is_withdrawing: false,
            is_drained,
            last_heard: now.uptime,
            last_heard_unix: now.unix,
            lease,
            deadline: now.uptime + lease,
            pinged_at: None,
            stragglers: Default::default(),
            awaited_by: Default::default(),
            resend_at: None,
        };
        self.live.workers.insert(uuid, worker);
        hello
    }

    /// Compares what the worker runs with what it should run, and mends the difference.
    fn reconcile(&mut self, id: WorkerId, running: Vec<RunningTrainer>, now: Now) {
        let mut running: BTreeMap<RankKey, RunningTrainer> =
            running.into_iter().map(|trainer| (trainer.key.clone(), trainer)).collect();
        let jobs: Vec<JobId> = self.live.attempts.keys().cloned().collect();
        for job_id in jobs {
            self.reconcile_job(id, &job_id, &mut running, now);
        }
        // What is left belongs to no open attempt: it must die, and its slots are not free before.
        let strays: Vec<RankKey> = running.into_keys().collect();
        self.expel(&id.uuid, strays, now);
    }

    fn reconcile_job(
        &mut self,
        id: WorkerId,
        job_id: &JobId,
        running: &mut BTreeMap<RankKey, RunningTrainer>,
        now: Now,
    ) {
        let keys = self.unfinished_keys(&id.uuid, job_id);
        if keys.is_empty() {
            return;
        }
        let mut absent: Vec<Rank> = Vec::new();
        let mut is_table_due = false;
        for key in keys {
            match running.remove(&key) {
                Some(trainer) if self.is_same_life(id, &key) => {
                    is_table_due |= !trainer.is_running;
                    self.take_truth(trainer);
                }
                _ if !self.is_same_life(id, &key) => {
                    let line = "its worker was restarted, and trainers die with it".to_owned();
                    self.end_rank(key, TrainerEnd::Lost, line, now);
                }
                _ => absent.push(key.rank),
            }
        }
        self.settle_absent(id, job_id, &absent, now);
        let is_stopping = self.live.attempts.get(job_id).is_some_and(|a| a.stop.is_some());
        let is_connecting = self
            .live
            .attempts
            .get(job_id)
            .is_some_and(|a| matches!(a.phase, Phase::Connecting { .. }));
        if is_stopping {
            self.order_stop(job_id, &id.uuid);
        } else if is_connecting && is_table_due {
            self.send_rank_table(job_id, &id.uuid);
        }
        self.review(job_id, now);
        self.advance(job_id, now);
        self.touch(job_id);
    }

    /// Ranks that should be here, and the worker neither runs them nor reports their end.
    fn settle_absent(&mut self, id: WorkerId, job_id: &JobId, absent: &[Rank], now: Now) {
        if absent.is_empty() {
            return;
        }
        let Some(live) = self.live.attempts.get(job_id) else { return };
        let generation = live.generation;
        let is_stopping = live.stop.is_some();
        let is_unstarted = matches!(live.phase, Phase::Gathering { .. })
            && absent.iter().all(|rank| live.ranks[rank.0 as usize].pid.is_none());
        if is_unstarted && !is_stopping {
            // The order was lost with the stream before.
            self.order_start(job_id, &id.uuid, absent);
            return;
        }
        for rank in absent {
            let key = RankKey { job_id: job_id.clone(), generation, rank: *rank };
            let (end, line) = match is_unstarted {
                true => (TrainerEnd::Stopped, String::new()),
                false => (TrainerEnd::Lost, "its worker does not know it any more".to_owned()),
            };
            self.end_rank(key, end, line, now);
        }
    }

    fn is_same_life(&self, id: WorkerId, key: &RankKey) -> bool {
        let rank = self.open_attempt(&key.job_id).and_then(|a| a.ranks.get(key.rank.0 as usize));
        rank.is_some_and(|rank| rank.worker == id)
    }

    fn take_truth(&mut self, trainer: RunningTrainer) {
        let attempt = self.live.attempts.get_mut(&trainer.key.job_id);
        let rank = attempt.and_then(|a| a.ranks.get_mut(trainer.key.rank.0 as usize));
        if let Some(rank) = rank {
            rank.pid = Some(trainer.pid);
            rank.peer = trainer.peer.or(rank.peer.take());
            rank.is_running |= trainer.is_running;
            rank.libtorch = trainer.libtorch;
        }
    }

    /// Orders the death of trainers that belong to no open attempt.
    pub(super) fn expel(&mut self, uuid: &Uuid, keys: Vec<RankKey>, now: Now) {
        if keys.is_empty() {
            return;
        }
        let resend_at = now.uptime + self.config.resend_every;
        if let Some(worker) = self.live.workers.get_mut(uuid) {
            worker.stragglers.extend(keys);
            worker.resend_at = Some(resend_at);
        }
        self.tell_stragglers(uuid);
    }

    pub(super) fn tell_stragglers(&mut self, uuid: &Uuid) {
        let Some(worker) = self.live.workers.get(uuid) else { return };
        let Some(to) = worker.connection else { return };
        let mut jobs: Vec<_> =
            worker.stragglers.iter().map(|key| (key.job_id.clone(), key.generation)).collect();
        jobs.dedup();
        for (job_id, generation) in jobs {
            let state = self.ledger.jobs.get(&job_id).map(|job| job.state);
            let reason = match state.filter(|state| JobState::is_final(*state)) {
                Some(state) => format!("the job is {state}"),
                None => "this generation of the job is over".to_owned(),
            };
            let grace = self.config.abort_grace;
            let order = StopOrder { job_id, generation, reason, mode: StopMode::Abort, grace };
            self.effect(Effect::StopJob { to, order });
        }
    }

    /// The stream ended. The worker may be alive: its lease decides (A10).
    pub(super) fn on_dropped(&mut self, connection: ConnectionId) {
        let Some(uuid) = self.live.connections.remove(&connection) else { return };
        if let Some(worker) = self.live.workers.get_mut(&uuid) {
            worker.connection = None;
            self.out.is_schedule_due = true;
            self.out.workers_changed = true;
        }
    }
}
