//! One attempt from its orders to its end: start, rendezvous, stop, close.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use common::ids::{JobId, Rank};
use common::status::{Failure, FailureKind, JobState, TrainerEnd};

use crate::coordinator::Machine;
use crate::coordinator::effect::{Effect, RankTable, StartOrder, StopOrder};
use crate::coordinator::event::{Now, RankKey};
use crate::coordinator::guilt::{self, Evidence};
use crate::coordinator::ledger::{Attempt, Job, PlacedRank};
use crate::coordinator::live::{LiveStop, Phase};
use crate::coordinator::record::{CancelMode, Record, StopCause, StopDecision, StopMode};
use crate::coordinator::submit::Ending;

impl Machine {
    /// The open attempt of a job.
    pub(super) fn open_attempt(&self, job_id: &JobId) -> Option<&Attempt> {
        self.ledger.jobs.get(job_id).and_then(|job| job.open_attempt())
    }

    /// Tells every worker of the attempt which trainers to start.
    pub(super) fn order_starts(&mut self, job_id: &JobId) {
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let mut ranks: BTreeMap<Uuid, Vec<Rank>> = BTreeMap::new();
        for (rank, placed) in attempt.unfinished() {
            ranks.entry(placed.worker.uuid).or_default().push(Rank(rank));
        }
        for (uuid, ranks) in ranks {
            self.order_start(job_id, &uuid, &ranks);
        }
    }

    /// Tells one worker to start these ranks.
    pub(super) fn order_start(&mut self, job_id: &JobId, uuid: &Uuid, ranks: &[Rank]) {
        let Some(to) = self.live.connection_of(uuid) else { return };
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let Some(attempt) = job.open_attempt() else { return };
        let slots = |rank: &Rank| {
            let placed = attempt.ranks.get(rank.0 as usize)?;
            Some((*rank, placed.slots.clone()))
        };
        let order = Box::new(StartOrder {
            job_id: job_id.clone(),
            generation: attempt.generation,
            attempt: attempt.attempt,
            world: attempt.ranks.len() as u32,
            spec: job.submission.spec.clone(),
            job_toml: job.submission.job_toml.clone(),
            uploads: job.submission.uploads.clone(),
            ranks: ranks.iter().filter_map(slots).collect(),
        });
        self.effect(Effect::StartTrainers { to, order });
    }

    /// Moves the attempt on when its trainers allow it: all listen → rank table, all connected →
    /// training.
    pub(super) fn advance(&mut self, job_id: &JobId, now: Now) {
        let Some(live) = self.live.attempts.get_mut(job_id) else { return };
        if live.stop.is_some() || live.phase == Phase::Training {
            return;
        }
        if live.ranks.iter().all(|rank| rank.is_running) {
            live.phase = Phase::Training;
            let generation = live.generation;
            self.record(Record::AttemptRunning {
                job_id: job_id.clone(),
                generation,
                at: now.unix,
            });
            self.may_grow_later(job_id, now);
            return;
        }
        let is_gathering = matches!(live.phase, Phase::Gathering { .. });
        if is_gathering && live.ranks.iter().all(|rank| rank.peer.is_some()) {
            live.phase = Phase::Connecting { until: now.uptime + self.config.connect_timeout };
            // One table for all: with thousands of ranks a copy per node would hold up everything else.
            let table = self.rank_table(job_id);
            for uuid in self.workers_of(job_id) {
                self.hand_out(table.as_ref(), &uuid);
            }
        }
        self.touch(job_id);
    }

    /// Sends the rank table to one worker, if every address is known.
    pub(super) fn send_rank_table(&mut self, job_id: &JobId, uuid: &Uuid) {
        let table = self.rank_table(job_id);
        self.hand_out(table.as_ref(), uuid);
    }

    fn rank_table(&self, job_id: &JobId) -> Option<Arc<RankTable>> {
        let attempt = self.open_attempt(job_id)?;
        let live = self.live.attempts.get(job_id)?;
        let peers: Option<Vec<_>> = live.ranks.iter().map(|rank| rank.peer.clone()).collect();
        Some(Arc::new(RankTable {
            job_id: job_id.clone(),
            generation: attempt.generation,
            token: attempt.token,
            peers: peers?,
        }))
    }

    fn hand_out(&mut self, table: Option<&Arc<RankTable>>, uuid: &Uuid) {
        if let (Some(table), Some(to)) = (table, self.live.connection_of(uuid)) {
            self.effect(Effect::SendRankTable { to, table: Arc::clone(table) });
        }
    }

    /// The workers on which trainers of the attempt have not ended.
    fn workers_of(&self, job_id: &JobId) -> Vec<Uuid> {
        let Some(attempt) = self.open_attempt(job_id) else { return Vec::new() };
        let mut workers: Vec<Uuid> =
            attempt.unfinished().map(|(_, placed)| placed.worker.uuid).collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    /// Stops an attempt everywhere. A graceful stop can still become an abort, never the reverse; one
    /// for the job's own good gives way to any other.
    pub(super) fn stop_attempt(&mut self, job_id: &JobId, stop: StopDecision, now: Now) {
        let first = self.open_attempt(job_id).and_then(|attempt| attempt.stop.as_ref());
        let gives_way = first.is_some_and(|first| first.cause == StopCause::Growth)
            && stop.cause != StopCause::Growth;
        let Some(live) = self.live.attempts.get_mut(job_id) else { return };
        let is_told = live.stop.is_some_and(|told| {
            told.mode == StopMode::Abort || (told.mode == stop.mode && !gives_way)
        });
        live.grows_to.clear();
        if is_told {
            return;
        }
        let grace = self.config.grace(&stop);
        let until = now.uptime + grace + self.config.confirm_margin;
        live.stop = Some(LiveStop { until, mode: stop.mode });
        live.witness_until = None;
        let generation = live.generation;
        self.record(Record::StopDecided { job_id: job_id.clone(), generation, stop, at: now.unix });
        for uuid in self.workers_of(job_id) {
            self.order_stop(job_id, &uuid);
        }
    }

    /// Tells one worker about a stop that was decided.
    pub(super) fn order_stop(&mut self, job_id: &JobId, uuid: &Uuid) {
        let Some(to) = self.live.connection_of(uuid) else { return };
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let Some(stop) = &attempt.stop else { return };
        let order = StopOrder {
            job_id: job_id.clone(),
            generation: attempt.generation,
            reason: stop.reason.clone(),
            mode: stop.mode,
            grace: self.config.grace(stop),
        };
        self.effect(Effect::StopJob { to, order });
    }

    /// Writes down the end of a rank of the open attempt, once.
    pub(super) fn end_rank(&mut self, key: RankKey, end: TrainerEnd, line: String, now: Now) {
        let last_lines = if line.is_empty() { Vec::new() } else { vec![line] };
        self.record(Record::TrainerEnded { key, end, last_lines, summary: None, at: now.unix });
        self.out.is_schedule_due = true;
        self.out.workers_changed = true;
    }

    /// Looks at the ends of an attempt: closes it, stops it, or waits for the real cause.
    pub(super) fn review(&mut self, job_id: &JobId, now: Now) {
        let Some(attempt) = self.open_attempt(job_id) else { return };
        if attempt.unfinished().next().is_none() {
            self.close(job_id, now);
            return;
        }
        let ends = attempt.ranks.iter().filter_map(|rank| rank.end.as_ref());
        let Some(worst) = ends.map(guilt::evidence).min() else { return };
        let reason = guilt::verdict(attempt).map(|failure| failure.message);
        match worst {
            Evidence::Cause | Evidence::Unasked => {
                let reason = reason.unwrap_or_default();
                self.stop_attempt(job_id, StopDecision::abort(reason), now);
            }
            Evidence::Witness => {
                let until = now.uptime + self.config.witness_wait;
                if let Some(live) = self.live.attempts.get_mut(job_id)
                    && live.stop.is_none()
                {
                    live.witness_until.get_or_insert(until);
                }
            }
            Evidence::None => {}
        }
    }

    /// Every trainer is dead: the job ends, or starts again.
    fn close(&mut self, job_id: &JobId, now: Now) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let Some(attempt) = job.open_attempt() else { return };
        let ending = ending(job, attempt);
        match ending.state {
            JobState::Failed => self.restart_or_fail(job_id, ending, now),
            _ => self.end_job(job_id, ending, now),
        }
    }

    /// Not every trainer listened, or connected, in time.
    pub(super) fn on_phase_timeout(&mut self, job_id: &JobId, now: Now) {
        let Some(live) = self.live.attempts.get(job_id) else { return };
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let (is_missing, what, limit): (Vec<bool>, _, _) = match live.phase {
            Phase::Gathering { .. } => (
                live.ranks.iter().map(|rank| rank.peer.is_none()).collect(),
                "did not start",
                self.config.rendezvous_timeout,
            ),
            Phase::Connecting { .. } => (
                live.ranks.iter().map(|rank| !rank.is_running).collect(),
                "did not connect to their peers",
                self.config.connect_timeout,
            ),
            Phase::Training => return,
        };
        let missing: Vec<String> = (0..)
            .zip(attempt.ranks.iter().zip(is_missing))
            .filter(|(_, (_, is_missing))| *is_missing)
            .map(|(rank, (placed, _)): (u32, _)| {
                format!("{rank} (worker `{}`)", placed.worker_name)
            })
            .collect();
        let message = format!(
            "rendezvous: {} of {} ranks {what} within {} s: {}",
            missing.len(),
            attempt.ranks.len(),
            limit.as_secs(),
            missing.join(", ")
        );
        let failure = Failure {
            rank: None,
            worker: None,
            kind: Some(FailureKind::Start),
            message,
            last_lines: Vec::new(),
        };
        self.stop_attempt(job_id, StopDecision::failed(failure), now);
    }
}

fn ending(job: &Job, attempt: &Attempt) -> Ending {
    let is_finished =
        |rank: &PlacedRank| rank.end.as_ref().is_some_and(|end| end.end == TrainerEnd::Finished);
    if attempt.ranks.iter().all(is_finished) {
        let reason = match job.cancel {
            Some(_) => "finished before the cancel reached it",
            None => "finished",
        };
        return Ending::new(JobState::Succeeded, reason.to_owned(), None);
    }
    let mut failure = match job.cancel {
        Some(_) => guilt::cause(attempt),
        None => guilt::verdict(attempt),
    };
    if let Some(failure) = failure.as_mut().filter(|_| guilt::was_cut_off(attempt)) {
        failure.message.push_str(&match job.latest_checkpoint() {
            Some(whole) => format!("; the newest whole checkpoint is {}", whole.tag),
            None => "; no whole checkpoint was saved".to_owned(),
        });
    }
    match (job.cancel, failure) {
        (Some(mode), failure) => {
            let reason = match (mode, &failure) {
                (_, Some(failure)) => format!("cancelled; {}", failure.message),
                (CancelMode::Save, None) => "cancelled".to_owned(),
                (CancelMode::Now, None) => "cancelled at once".to_owned(),
            };
            Ending::new(JobState::Cancelled, reason, failure)
        }
        (None, Some(failure)) => {
            Ending::new(JobState::Failed, failure.message.clone(), Some(failure))
        }
        // Some finished and some were stopped, and nobody says why: a bug of ours, said as such.
        (None, None) => {
            let reason = "some ranks finished and others stopped, for no known reason".to_owned();
            Ending::new(JobState::Failed, reason, None)
        }
    }
}
