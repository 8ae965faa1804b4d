//! What the passing of time decides.

use std::time::Duration;

use uuid::Uuid;

use common::ids::JobId;
use common::status::TrainerEnd;

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::guilt;
use crate::coordinator::live::{Phase, Standing};
use crate::coordinator::record::StopDecision;

/// A call that comes this much later than was asked for, or later by a heartbeat's interval where
/// that is shorter, means that this process stood still, or its whole machine, not that the workers
/// were silent: what they said meanwhile has not been read yet.
const SLEPT: Duration = Duration::from_secs(1);

impl Machine {
    pub(super) fn on_tick(&mut self, now: Now) {
        self.tick_workers(now);
        self.tick_resting(now);
        self.tick_exclusions(now);
        self.tick_allocations(now);
        self.tick_pools(now);
        let jobs: Vec<JobId> = self.live.attempts.keys().cloned().collect();
        for job_id in jobs {
            self.tick_attempt(&job_id, now);
        }
    }

    /// When the shell is to come back: at the next deadline, and while there are leases once in a
    /// heartbeat's interval. By that a sleep is seen for what it is also where it ends just after a
    /// lease.
    pub(super) fn wake_at(&self, now: Now) -> Option<Duration> {
        let next = self.live.next_deadline()?;
        let has_leases = self.live.workers.values().any(|w| w.standing == Standing::Ready);
        Some(if has_leases { next.min(now.uptime + self.config.heartbeat()) } else { next })
    }

    /// Of a lease, and of whatever else workers and trainers have to say by a deadline, only the time
    /// counts in which this process was awake, and could hear. One that is late all the time finds the
    /// dead, too, only later. A job's time limit is the user's and goes on.
    pub(super) fn forgive_own_sleep(&mut self, now: Now) {
        let Some(due) = self.live.wake_at else { return };
        let slept = now.uptime.saturating_sub(due);
        if slept <= SLEPT.min(self.config.heartbeat()) {
            return;
        }
        for worker in self.live.workers.values_mut() {
            worker.deadline += slept;
        }
        for attempt in self.live.attempts.values_mut() {
            attempt.forgive(slept);
            // Shorter than the time between two calls: nobody knows how much of it was slept.
            if let Some(until) = &mut attempt.witness_until {
                *until = now.uptime + self.config.witness_wait;
            }
        }
    }

    fn tick_workers(&mut self, now: Now) {
        let due: Vec<(Uuid, Standing)> = self
            .live
            .workers
            .iter()
            .filter(|(_, w)| w.deadline <= now.uptime)
            .map(|(uuid, w)| (*uuid, w.standing))
            .collect();
        for (uuid, standing) in due {
            match standing {
                Standing::Ready => self.on_lease_over(&uuid, now),
                Standing::Lost | Standing::Left => {
                    self.live.workers.remove(&uuid);
                    self.out.workers_changed = true;
                }
            }
        }
        let resend_at = now.uptime + self.config.resend_every;
        let mut late = Vec::new();
        for (uuid, worker) in &mut self.live.workers {
            if worker.resend_at.is_some_and(|at| at <= now.uptime) {
                let is_waiting = !worker.stragglers.is_empty();
                worker.resend_at = is_waiting.then_some(resend_at);
                late.push(*uuid);
            }
        }
        for uuid in late {
            self.tell_stragglers(&uuid);
        }
    }

    fn tick_attempt(&mut self, job_id: &JobId, now: Now) {
        let Some(live) = self.live.attempts.get(job_id) else { return };
        let is_over = |deadline: Option<Duration>| deadline.is_some_and(|at| at <= now.uptime);
        if let Some(stop) = live.stop {
            if stop.until <= now.uptime {
                self.give_up_on_ends(job_id, now);
            }
            return;
        }
        let phase_deadline = match live.phase {
            Phase::Gathering { until } | Phase::Connecting { until } => Some(until),
            Phase::Training => None,
        };
        let is_time_to_grow = is_over(live.grow_at);
        if is_over(live.witness_until) {
            // The real cause did not show up in time: the first witness speaks for it, unless the
            // remaining ends know better.
            let verdict = self.open_attempt(job_id).and_then(guilt::verdict);
            let reason = verdict.map_or_else(String::new, |failure| failure.message);
            self.stop_attempt(job_id, StopDecision::abort(reason), now);
        } else if is_over(phase_deadline) {
            self.on_phase_timeout(job_id, now);
        } else if is_over(live.watch.deadline()) {
            self.on_standstill(job_id, now);
        } else if is_over(live.limit_at) {
            self.on_limit(job_id, now);
        }
        if is_time_to_grow && let Some(live) = self.live.attempts.get_mut(job_id) {
            live.grow_at = None;
            self.out.is_schedule_due = true;
        }
    }

    /// Workers are alive and do not confirm that their trainers ended. The job ends; the trainers
    /// are told to die until they are known dead, and their slots stay taken (A6).
    fn give_up_on_ends(&mut self, job_id: &JobId, now: Now) {
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let mut workers: Vec<Uuid> =
            attempt.unfinished().map(|(_, placed)| placed.worker.uuid).collect();
        workers.dedup();
        for uuid in workers {
            let keys = self.unfinished_keys(&uuid, job_id);
            for key in &keys {
                let line = "its worker did not confirm its end in time".to_owned();
                self.end_rank(key.clone(), TrainerEnd::Lost, line, now);
            }
            self.expel(&uuid, keys, now);
        }
        self.review(job_id, now);
    }
}
