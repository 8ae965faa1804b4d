//! What workers report about trainers. A message counts only from the worker that holds the rank
//! and in the newest generation (A4); an end is acknowledged in any case.

use uuid::Uuid;

use common::ids::{Generation, JobId};
use common::status::{CheckpointRow, Failure, FailureKind, Live, TrainerEnd};

use crate::coordinator::Machine;
use crate::coordinator::effect::Effect;
use crate::coordinator::event::{ConnectionId, EndReport, Now, Peer, RankKey, WorkerMessage};
use crate::coordinator::live::{LiveRank, Standing};
use crate::coordinator::record::{Record, StopDecision};

impl Machine {
    pub(super) fn on_worker(&mut self, from: ConnectionId, message: WorkerMessage, now: Now) {
        // A superseded stream has no say.
        let Some(uuid) = self.live.connections.get(&from).copied() else { return };
        self.renew_lease(&uuid, now);
        match message {
            WorkerMessage::Heartbeat => {}
            WorkerMessage::Positions(positions) => self.on_positions(&uuid, positions, now),
            WorkerMessage::Stacks { key, lines } => self.on_stacks(&uuid, &key, lines, now),
            WorkerMessage::TrainerReady { key, peer, pid, libtorch } => {
                self.on_ready(&uuid, &key, (peer, pid, libtorch), now);
            }
            WorkerMessage::TrainerRunning { key } => self.on_running(&uuid, &key, now),
            WorkerMessage::Progress { job_id, generation, live } => {
                self.on_progress(&uuid, &job_id, (generation, live), now);
            }
            WorkerMessage::Ended(report) => self.on_ended(&uuid, report, now),
            WorkerMessage::Checkpoint { job_id, generation, checkpoint, removed, found } => {
                self.on_checkpoint(&uuid, (job_id, generation), checkpoint, (removed, found));
            }
            WorkerMessage::PrepareFailed { job_id, generation, is_configuration, message } => {
                let kind = match is_configuration {
                    true => FailureKind::Configuration,
                    false => FailureKind::Start,
                };
                self.on_prepare_failed(&uuid, (job_id, generation), (kind, message), now);
            }
            WorkerMessage::Notes { job_id, generation, notes } => {
                self.on_notes(&uuid, job_id, generation, notes);
            }
            WorkerMessage::Withdrawing(withdrawal) => self.on_withdrawing(&uuid, withdrawal, now),
            WorkerMessage::Leaving { reason } => self.on_leaving(&uuid, from, &reason, now),
        }
    }

    /// Whether the worker holds a rank of the job's newest generation.
    fn takes_part(&self, uuid: &Uuid, job_id: &JobId, generation: Generation) -> bool {
        let attempt = self.ledger.jobs.get(job_id).and_then(|job| job.attempt());
        attempt.is_some_and(|a| {
            a.generation == generation && a.ranks.iter().any(|rank| rank.worker.uuid == *uuid)
        })
    }

    /// Whether `key` is a rank of an open attempt, held by this worker and not ended.
    pub(super) fn holds(&self, uuid: &Uuid, key: &RankKey) -> bool {
        let rank = self
            .open_attempt(&key.job_id)
            .filter(|attempt| attempt.generation == key.generation)
            .and_then(|attempt| attempt.ranks.get(key.rank.0 as usize));
        rank.is_some_and(|rank| rank.worker.uuid == *uuid && rank.end.is_none())
    }

    fn live_rank(&mut self, uuid: &Uuid, key: &RankKey) -> Option<&mut LiveRank> {
        if !self.holds(uuid, key) {
            return None;
        }
        self.live.attempts.get_mut(&key.job_id)?.ranks.get_mut(key.rank.0 as usize)
    }

    fn on_ready(
        &mut self,
        uuid: &Uuid,
        key: &RankKey,
        (peer, pid, libtorch): (Peer, u32, String),
        now: Now,
    ) {
        let Some(rank) = self.live_rank(uuid, key) else { return };
        rank.pid = Some(pid);
        rank.peer = Some(peer);
        rank.libtorch.clone_from(&libtorch);
        if let Some(worker) = self.live.workers.get_mut(uuid)
            && worker.libtorch != libtorch
            // A command computes with what we know nothing of.
            && !libtorch.is_empty()
        {
            worker.libtorch = libtorch;
            self.out.workers_changed = true;
        }
        self.advance(&key.job_id, now);
    }

    fn on_running(&mut self, uuid: &Uuid, key: &RankKey, now: Now) {
        let Some(rank) = self.live_rank(uuid, key) else { return };
        rank.is_running = true;
        self.advance(&key.job_id, now);
    }

    fn on_progress(
        &mut self,
        uuid: &Uuid,
        job_id: &JobId,
        (generation, live): (Generation, Live),
        now: Now,
    ) {
        if !self.takes_part(uuid, job_id, generation) {
            return;
        }
        let Some(attempt) = self.live.attempts.get_mut(job_id) else { return };
        let (step, from) = (live.step, live.resumed_at_step.unwrap_or(0));
        // Every rank tells where it is, and one may be behind: the job's step never falls.
        if attempt.progress.as_ref().is_some_and(|before| before.step > step) {
            return;
        }
        if attempt.progress.as_ref().is_none_or(|before| before.step != step) {
            attempt.stepped_at = Some(now.unix);
        }
        attempt.progress = Some(live);
        attempt.progress_at = Some(now.uptime);
        self.touch(job_id);
        self.refresh_estimates(now);
        if self.open_attempt(job_id).is_some_and(|attempt| attempt.ready_at.is_none()) {
            let (job_id, at) = (job_id.clone(), now.unix);
            self.record(Record::AttemptReady { job_id, generation, step: from, at });
        }
    }

    pub(super) fn on_ended(&mut self, uuid: &Uuid, report: EndReport, now: Now) {
        // By our own clock, as all that is told of a job: the worker's may be another.
        let (at, EndReport { key, end, last_lines, summary, .. }) = (now.unix, report);
        if let Some(to) = self.live.connection_of(uuid) {
            self.effect(Effect::AcknowledgeEnds { to, ends: vec![key.clone()] });
        }
        if let Some(worker) = self.live.workers.get_mut(uuid)
            && worker.stragglers.remove(&key)
        {
            self.out.is_schedule_due = true;
            self.out.workers_changed = true;
        }
        if !self.holds(uuid, &key) {
            return;
        }
        let job_id = key.job_id.clone();
        self.record(Record::TrainerEnded { key, end, last_lines, summary, at });
        self.out.is_schedule_due = true;
        self.out.workers_changed = true;
        self.review(&job_id, now);
    }

    /// The catalogue takes commits of the newest generation, also after its end: a worker may
    /// report them late (A6, A11).
    fn on_checkpoint(
        &mut self,
        uuid: &Uuid,
        (job_id, generation): (JobId, Generation),
        checkpoint: CheckpointRow,
        (removed, found): (Vec<String>, Option<Vec<String>>),
    ) {
        let is_news = self
            .ledger
            .jobs
            .get(&job_id)
            .is_some_and(|job| !job.has_catalogued(&checkpoint, &removed, found.as_deref()));
        // A worker tells all again after each reconnect; what is known is no second event.
        if is_news && self.takes_part(uuid, &job_id, generation) {
            let committed = job_id.clone();
            self.record(Record::CheckpointCommitted {
                job_id: committed,
                checkpoint,
                removed,
                found,
            });
            self.renew_wish(&job_id);
        }
    }

    fn on_notes(&mut self, uuid: &Uuid, job_id: JobId, generation: Generation, notes: Vec<String>) {
        let Some(job) = self.ledger.jobs.get(&job_id) else { return };
        let notes = job.new_notes(notes);
        if !notes.is_empty() && self.takes_part(uuid, &job_id, generation) {
            self.record(Record::NotesAdded { job_id, notes });
        }
    }

    fn on_prepare_failed(
        &mut self,
        uuid: &Uuid,
        (job_id, generation): (JobId, Generation),
        (kind, message): (FailureKind, String),
        now: Now,
    ) {
        let Some(worker) = self.live.workers.get(uuid) else { return };
        let name = worker.name.clone();
        let keys = self.unfinished_keys(uuid, &job_id);
        if keys.is_empty() || keys.iter().any(|key| key.generation != generation) {
            return;
        }
        let message = format!("worker `{name}` cannot start the job: {message}");
        let failure = Failure {
            rank: None,
            worker: Some(name),
            kind: Some(kind),
            message,
            last_lines: Vec::new(),
        };
        self.stop_attempt(&job_id, StopDecision::failed(failure), now);
        for key in keys {
            self.end_rank(key, TrainerEnd::Stopped, String::new(), now);
        }
        self.review(&job_id, now);
    }

    /// Ranks of a job's open attempt that this worker holds and that have not ended.
    pub(super) fn unfinished_keys(&self, uuid: &Uuid, job_id: &JobId) -> Vec<RankKey> {
        let Some(attempt) = self.open_attempt(job_id) else { return Vec::new() };
        let held = attempt.unfinished().filter(|(_, placed)| placed.worker.uuid == *uuid);
        held.map(|(rank, _)| RankKey {
            job_id: job_id.clone(),
            generation: attempt.generation,
            rank: common::ids::Rank(rank),
        })
        .collect()
    }

    fn renew_lease(&mut self, uuid: &Uuid, now: Now) {
        if let Some(worker) = self.live.workers.get_mut(uuid)
            && worker.standing == Standing::Ready
        {
            worker.last_heard = now.uptime;
            worker.last_heard_unix = now.unix;
            worker.deadline = now.uptime + worker.lease;
        }
    }
}
