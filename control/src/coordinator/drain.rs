//! Workers that an operator takes out of service: what runs there saves and moves, nothing new
//! starts, and a restart of anything changes nothing about it. By name: it is the node that is
//! taken out, whatever becomes of its worker's state.

use uuid::Uuid;

use crate::coordinator::Machine;
use crate::coordinator::effect::{Answer, Effect, Refusal};
use crate::coordinator::event::{DrainOrder, Now, Ticket, Withdrawal};
use crate::coordinator::live::{LiveWorker, Standing};
use crate::coordinator::record::Record;

impl Machine {
    pub(super) fn on_drain(&mut self, ticket: Ticket, name: &str, order: DrainOrder, now: Now) {
        let answer = self.drain_worker(name, order, now);
        self.effect(Effect::Answer { ticket, answer });
    }

    fn drain_worker(&mut self, name: &str, order: DrainOrder, now: Now) -> Answer {
        let connected = self.worker_named(name);
        let is_drained = self.ledger.drained.contains_key(name);
        let is_known = is_drained || self.ledger.workers.values().any(|w| w.name == name);
        if connected.is_none() && !is_known {
            return Answer::Refused(Refusal::UnknownWorker(name.to_owned()));
        }
        match order {
            DrainOrder::Drain { reason, grace } => {
                let withdrawal = Withdrawal {
                    reason: format!("drained: {reason}"),
                    grace: grace.unwrap_or(self.config.cancel_grace),
                };
                let name = name.to_owned();
                self.record(Record::WorkerDrained { name, reason, at: now.unix });
                if let Some(uuid) = connected {
                    self.vacate(&uuid, withdrawal, now);
                }
            }
            DrainOrder::Undo if is_drained => {
                self.record(Record::WorkerUndrained { name: name.to_owned(), at: now.unix });
                if let Some(worker) = connected.and_then(|uuid| self.live.workers.get_mut(&uuid)) {
                    worker.is_drained = false;
                }
            }
            DrainOrder::Allow if self.has_faults(name) => {
                self.record(Record::WorkerAllowed { name: name.to_owned(), at: now.unix });
            }
            DrainOrder::Undo | DrainOrder::Allow => {}
        }
        self.out.is_schedule_due = true;
        self.out.workers_changed = true;
        let held = self.held();
        let worker = connected.and_then(|uuid| self.live.workers.get(&uuid));
        let state = |w: &LiveWorker| self.worker_state(w, held.contains_key(&w.id.uuid));
        Answer::Drained(worker.map(state))
    }

    fn has_faults(&self, name: &str) -> bool {
        self.ledger.workers.values().any(|w| w.name == name && !w.faults.is_empty())
    }

    fn worker_named(&self, name: &str) -> Option<Uuid> {
        let ready = |w: &&LiveWorker| w.standing == Standing::Ready && w.name == name;
        self.live.workers.values().find(ready).map(|w| w.id.uuid)
    }

    /// As if the worker had been told to leave; but it stays.
    fn vacate(&mut self, uuid: &Uuid, withdrawal: Withdrawal, now: Now) {
        let Some(worker) = self.live.workers.get_mut(uuid) else { return };
        worker.is_drained = true;
        let was_withdrawing = worker.is_withdrawing;
        self.on_withdrawing(uuid, withdrawal, now);
        if let Some(worker) = self.live.workers.get_mut(uuid) {
            worker.is_withdrawing = was_withdrawing;
        }
    }
}
