//! The coordinator's decisions: membership, queue, placement, rendezvous, failure, cancel.
//!
//! [`Machine::step`] takes one event and gives effects. What must survive the process is a
//! [`Record`]: it changes the [`Ledger`] here and comes out in [`Effect::Persist`], always first
//! (A2); replaying the records gives the same ledger (A3). Leases, progress and who is connected
//! are soft: they are lost with the process and told again by the workers.

mod allocation;
mod attempt;
mod await_back;
mod board;
mod config;
mod decisions;
mod demand;
mod dependency;
mod drain;
mod effect;
mod event;
mod exclude;
mod expected;
mod explain;
mod floor;
mod goodput;
mod grow;
mod guilt;
mod hang;
mod hosts;
mod leaving;
mod ledger;
mod limit;
mod line;
mod live;
mod membership;
mod past;
mod placement;
mod pools;
mod preempt;
mod queue;
mod record;
mod restart;
mod retry;
mod shared;
mod submit;
mod tick;
mod trainers;
mod view;
mod worlds;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::mem;
use std::time::Duration;

use common::ids::JobId;
use common::status::JobState;

pub use self::allocation::{AllocationOrder, Wanted};
pub use self::board::{Board, Queued};
pub use self::config::{Config, HEARTBEATS_PER_LEASE};
pub use self::effect::{Answer, Effect, RankTable, Refusal, StartOrder, StopOrder};
pub use self::event::{
    AllocationNews, Chance, ConnectionId, DrainOrder, EndReport, Event, NcclId, Now, Peer,
    PreemptOrder, RankKey, RankPosition, Requeue, RunningTrainer, Ticket, Withdrawal, WorkerHello,
    WorkerMessage,
};
pub use self::ledger::{
    Allocation, Attempt, Drained, Fault, Job, Ledger, PlacedRank, RankEnd, WorkerIdentity,
};
pub use self::line::Turn;
pub use self::past::OldAttempt;
pub use self::pools::{PoolEntry, PoolOrder};
pub use self::record::{
    After, CancelMode, Condition, Group, Origin, Over, Record, StopCause, StopDecision, StopMode,
    Submission, Token,
};
pub use self::restart::Class;
pub use self::shared::Shared;

use self::live::Live;

/// The coordinator's whole state: what is durable and what the present moment adds.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    ledger: Ledger,
    live: Live,
    out: Outbox,
}

/// What one step has decided so far.
#[derive(Debug, Default)]
struct Outbox {
    records: Vec<Record>,
    effects: Vec<Effect>,
    changed: BTreeSet<JobId>,
    workers_changed: bool,
    is_board_changed: bool,
    /// Jobs that ended, for the ones that were submitted to run after them.
    ended: Vec<(JobId, JobState)>,
    /// What SLURM is to be asked for has changed.
    are_allocations_changed: bool,
    /// Something that placement depends on has changed.
    is_schedule_due: bool,
}

impl Machine {
    /// A machine that goes on from `ledger`. Its first event must be [`Event::Started`].
    pub fn new(config: Config, mut ledger: Ledger) -> Self {
        ledger.complete();
        Self { config, ledger, live: Live::default(), out: Outbox::default() }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Applies one event. Effects come in the order in which they must happen; a `Persist`, if any,
    /// is first and must be durable before the others are begun (A2).
    pub fn step(&mut self, event: Event, now: Now, chance: &mut dyn Chance) -> Vec<Effect> {
        self.steps([event], now, chance)
    }

    /// Applies events that are ready together and looks at the queue once: a thousand workers that
    /// join at once do not wait for a thousand schedules.
    pub fn steps(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: Now,
        chance: &mut dyn Chance,
    ) -> Vec<Effect> {
        self.live.unix = now.unix;
        // Before any event: after it, nobody knows any more when this one was due.
        self.forgive_own_sleep(now);
        for event in events {
            self.apply(event, now);
        }
        self.settle_ended(now);
        // What ends for want of a possible start can free those that wait for its end.
        while mem::take(&mut self.out.is_schedule_due) {
            self.schedule(now, chance);
            self.settle_ended(now);
        }
        self.live.wake_at = self.wake_at(now);
        self.drain()
    }

    fn apply(&mut self, event: Event, now: Now) {
        match event {
            Event::Started => self.on_started(now),
            Event::Submit { ticket, job_id, submission } => {
                self.on_submit(ticket, job_id, submission, now);
            }
            Event::Cancel { ticket, job_id, mode } => self.on_cancel(ticket, &job_id, mode, now),
            Event::Requeue { ticket, ended, requeue } => {
                self.on_requeue(ticket, &ended, requeue, now);
            }
            Event::Preempt { ticket, job_id, order } => {
                self.on_preempt(ticket, &job_id, order, now);
            }
            Event::Drain { ticket, worker, order } => self.on_drain(ticket, &worker, order, now),
            Event::Hello { connection, hello } => self.on_hello(connection, hello, now),
            Event::Worker { connection, message } => self.on_worker(connection, message, now),
            Event::Welcomed { connection } => self.on_welcomed(connection, now),
            Event::Dropped { connection } => self.on_dropped(connection),
            Event::Allocation { name, news } => self.on_allocation(&name, news, now),
            Event::Pool { ticket, name, order } => self.on_pool(ticket, name, order, now),
            Event::Tick => self.on_tick(now),
        }
    }

    /// When [`Event::Tick`] is due at the latest; None: nothing waits.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.live.wake_at
    }

    /// The only way in which durable state changes (A1).
    fn record(&mut self, record: Record) {
        if let Some(job_id) = record.job_id() {
            self.out.changed.insert(job_id.clone());
        }
        self.ledger.apply(&record);
        self.out.records.push(record);
    }

    fn effect(&mut self, effect: Effect) {
        self.out.effects.push(effect);
    }

    fn touch(&mut self, job_id: &JobId) {
        self.out.changed.insert(job_id.clone());
    }

    fn drain(&mut self) -> Vec<Effect> {
        let out = mem::take(&mut self.out);
        let mut effects = Vec::with_capacity(out.effects.len() + 3);
        if !out.records.is_empty() {
            effects.push(Effect::Persist(out.records));
        }
        // Readers see a change before anybody acts on it, so that an answer is never ahead of what
        // the same client can read.
        if !out.changed.is_empty() || out.workers_changed || out.is_board_changed {
            let (workers, board) = (out.workers_changed, out.is_board_changed);
            effects.push(Effect::Changed { jobs: out.changed, workers, board });
        }
        effects.extend(out.effects);
        if out.are_allocations_changed {
            effects.push(Effect::Allocations(self.allocations()));
        }
        effects
    }
}
