//! The control streams of workers, as the loop sees them: bounded queues of wire messages.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use common::ids::Incarnation;
use control::coordinator::{ConnectionId, Effect, HEARTBEATS_PER_LEASE, RankTable, StartOrder};
use proto::v1;

use crate::door;

/// Messages that may wait for one worker. A stream that is this far behind is dead.
pub(crate) const QUEUE: usize = 1024;

/// Where messages to one worker go.
pub(crate) type Link = mpsc::Sender<Outgoing>;

/// What goes to a worker. A large order becomes a message when the worker's stream takes it: the loop
/// does not make a table of thousands of ranks once per node, and memory never holds them all.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(v1::CoordinatorMessage),
    Start(Box<StartOrder>),
    RankTable(Arc<RankTable>),
}

impl Outgoing {
    pub(crate) fn into_wire(self) -> v1::CoordinatorMessage {
        match self {
            Self::Message(message) => message,
            Self::Start(order) => door::start_trainers(*order),
            Self::RankTable(table) => door::rank_table(&table),
        }
    }
}

pub(super) struct Links {
    open: HashMap<ConnectionId, (String, Link)>,
    incarnation: Incarnation,
}

impl Links {
    pub(super) fn new() -> Self {
        Self { open: HashMap::new(), incarnation: Incarnation(0) }
    }

    pub(super) fn set_incarnation(&mut self, incarnation: Incarnation) {
        self.incarnation = incarnation;
    }

    pub(super) fn open(&mut self, connection: ConnectionId, worker: String, link: Link) {
        self.open.insert(connection, (worker, link));
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        self.open.remove(&connection);
    }

    /// Ends every stream cleanly: workers keep training and come back.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Sends an effect that is meant for a worker.
    pub(super) fn send(&mut self, effect: Effect) {
        let mut is_last = false;
        let (to, message) = match effect {
            Effect::Welcome { to, lease } => {
                let heartbeat = lease / HEARTBEATS_PER_LEASE;
                (to, Outgoing::Message(door::welcome(self.incarnation, lease, heartbeat)))
            }
            Effect::Refuse { to, reason, is_retryable } => {
                if let Some((worker, _)) = self.open.get(&to) {
                    info!(worker, reason, is_retryable, "worker refused");
                }
                is_last = true;
                (to, Outgoing::Message(door::refused(reason, is_retryable)))
            }
            Effect::Ping { to } => (to, Outgoing::Message(door::ping())),
            Effect::StartTrainers { to, order } => (to, Outgoing::Start(order)),
            Effect::SendRankTable { to, table } => (to, Outgoing::RankTable(table)),
            Effect::StopJob { to, order } => (to, Outgoing::Message(door::stop_job(order))),
            Effect::AcknowledgeEnds { to, ends } => {
                (to, Outgoing::Message(door::ends_acknowledged(ends)))
            }
            Effect::ShowStacks { to, job_id, generation, ranks } => {
                (to, Outgoing::Message(door::show_stacks(job_id, generation, &ranks)))
            }
            Effect::Disconnect { connection, reason } => {
                if let Some((worker, _)) = self.open.remove(&connection) {
                    info!(worker, reason, "stream ended");
                }
                return;
            }
            Effect::Persist(_)
            | Effect::Changed { .. }
            | Effect::Answer { .. }
            | Effect::Allocations(_)
            | Effect::Forget { .. } => return,
        };
        self.deliver(to, message);
        if is_last {
            self.open.remove(&to);
        }
    }

    fn deliver(&mut self, to: ConnectionId, message: Outgoing) {
        let Some((worker, link)) = self.open.get(&to) else { return };
        if link.try_send(message).is_err() {
            warn!(worker, "worker does not take its messages: ending its stream");
            self.open.remove(&to);
        }
    }

    /// Sends an order of the shell's own; whether the worker has a stream that takes it.
    pub(super) fn order(&mut self, worker: &str, order: v1::CoordinatorMessage) -> bool {
        let link = self.open.values().find(|(name, _)| name == worker).map(|(_, link)| link);
        link.is_some_and(|link| link.try_send(Outgoing::Message(order)).is_ok())
    }
}
