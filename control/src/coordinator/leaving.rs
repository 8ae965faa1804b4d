//! Who goes: workers that were told to leave, that said goodbye, or whose lease is over.

use uuid::Uuid;

use common::ids::JobId;
use common::status::{Failure, TrainerEnd};

use crate::coordinator::Machine;
use crate::coordinator::effect::Effect;
use crate::coordinator::event::{ConnectionId, Now, Withdrawal};
use crate::coordinator::live::Standing;
use crate::coordinator::record::StopDecision;

impl Machine {
    /// The worker was told to leave: what runs there saves and stops, together with the ranks
    /// elsewhere, and nothing new is placed there.
    pub(super) fn on_withdrawing(&mut self, uuid: &Uuid, withdrawal: Withdrawal, now: Now) {
        let Some(worker) = self.live.workers.get_mut(uuid) else { return };
        let name = worker.name.clone();
        worker.is_withdrawing = true;
        let Withdrawal { reason, grace } = withdrawal;
        let jobs: Vec<JobId> = self.live.attempts.keys().cloned().collect();
        for job_id in jobs {
            let keys = self.unfinished_keys(uuid, &job_id);
            if keys.is_empty() {
                continue;
            }
            let is_running =
                self.open_attempt(&job_id).is_some_and(|attempt| attempt.running_at.is_some());
            let ranks: Vec<String> = keys.iter().map(|key| key.rank.to_string()).collect();
            let s = if ranks.len() == 1 { "" } else { "s" };
            let failure = Failure {
                rank: None,
                worker: Some(name.clone()),
                kind: None,
                message: format!(
                    "worker `{name}` was told to leave ({reason}) while it ran rank{s} {}",
                    ranks.join(", ")
                ),
                last_lines: Vec::new(),
            };
            let stop = StopDecision::preempted(failure, is_running, Some(grace));
            self.stop_attempt(&job_id, stop, now);
        }
        self.out.is_schedule_due = true;
        self.out.workers_changed = true;
    }

    pub(super) fn on_leaving(&mut self, uuid: &Uuid, from: ConnectionId, reason: &str, now: Now) {
        self.depart(uuid, Standing::Left, &format!("its worker has left: {reason}"), now);
        self.live.connections.remove(&from);
    }

    /// The lease is over: everything that ran there is lost (A10).
    pub(super) fn on_lease_over(&mut self, uuid: &Uuid, now: Now) {
        let Some(worker) = self.live.workers.get(uuid) else { return };
        let silent = now.uptime.saturating_sub(worker.last_heard).as_secs_f64();
        let why = format!("worker `{}` gave no sign of life for {silent:.1} s", worker.name);
        if let Some(connection) = worker.connection {
            self.live.connections.remove(&connection);
            self.effect(Effect::Disconnect { connection, reason: "the lease is over".to_owned() });
        }
        self.depart(uuid, Standing::Lost, &why, now);
    }

    fn depart(&mut self, uuid: &Uuid, standing: Standing, why: &str, now: Now) {
        let Some(worker) = self.live.workers.get_mut(uuid) else { return };
        worker.standing = standing;
        worker.connection = None;
        worker.stragglers.clear();
        worker.resend_at = None;
        worker.deadline = now.uptime + self.config.forget_worker_after;
        let jobs: Vec<JobId> = self.live.attempts.keys().cloned().collect();
        for job_id in jobs {
            let keys = self.unfinished_keys(uuid, &job_id);
            if keys.is_empty() {
                continue;
            }
            for key in keys {
                self.end_rank(key, TrainerEnd::Lost, why.to_owned(), now);
            }
            self.review(&job_id, now);
        }
        self.out.is_schedule_due = true;
        self.out.workers_changed = true;
    }
}
