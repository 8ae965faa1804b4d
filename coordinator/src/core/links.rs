//! The control streams of workers, as the loop sees them: bounded queues of wire messages.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;
use tracing::{info, warn};

use common::ids::Incarnation;
use control::coordinator::{ConnectionId, Effect};
use proto::v1;

use crate::door;

/// Messages that may wait for one worker. A stream that is this far behind is dead.
pub(crate) const QUEUE: usize = 1024;

/// Heartbeats per lease: four may be lost.
const HEARTBEATS_PER_LEASE: u32 = 5;

/// Where messages to one worker go.
pub(crate) type Link = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

pub(super) struct Links {
    open: HashMap<ConnectionId, (String, Link)>,
    incarnation: Incarnation,
    lease: Duration,
}

impl Links {
    pub(super) fn new(lease: Duration) -> Self {
        Self { open: HashMap::new(), incarnation: Incarnation(0), lease }
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
        let (to, message, is_last) = match effect {
            Effect::Welcome { to } => {
                let heartbeat = self.lease / HEARTBEATS_PER_LEASE;
                (to, door::welcome(self.incarnation, self.lease, heartbeat), false)
            }
            Effect::Refuse { to, reason, is_retryable } => {
                if let Some((worker, _)) = self.open.get(&to) {
                    info!(worker, reason, is_retryable, "worker refused");
                }
                (to, door::refused(reason, is_retryable), true)
            }
            Effect::Ping { to } => (to, door::ping(), false),
            Effect::StartTrainers { to, order } => (to, door::start_trainers(*order), false),
            Effect::SendRankTable { to, table } => (to, door::rank_table(&table), false),
            Effect::StopJob { to, order } => (to, door::stop_job(order), false),
            Effect::ShowStacks { to, job_id, generation, ranks } => {
                (to, door::show_stacks(job_id, generation, &ranks), false)
            }
            Effect::AcknowledgeEnds { to, ends } => (to, door::ends_acknowledged(ends), false),
            Effect::Disconnect { connection, reason } => {
                if let Some((worker, _)) = self.open.remove(&connection) {
                    info!(worker, reason, "stream ended");
                }
                return;
            }
            Effect::Persist(_)
            | Effect::Changed { .. }
            | Effect::Answer { .. }
            | Effect::Forget { .. } => return,
        };
        self.deliver(to, message);
        if is_last {
            self.open.remove(&to);
        }
    }

    fn deliver(&mut self, to: ConnectionId, message: v1::CoordinatorMessage) {
        let Some((worker, link)) = self.open.get(&to) else { return };
        if link.try_send(Ok(message)).is_err() {
            warn!(worker, "worker does not take its messages: ending its stream");
            self.open.remove(&to);
        }
    }

    /// Sends an order of the shell's own; whether the worker has a stream that takes it.
    pub(super) fn order(&mut self, worker: &str, order: v1::FetchOrder) -> bool {
        let link = self.open.values().find(|(name, _)| name == worker).map(|(_, link)| link);
        link.is_some_and(|link| link.try_send(Ok(door::fetch_order(order))).is_ok())
    }
}
