//! What clients see, made of the ledger and the present moment.

use common::ids::{AttemptId, JobId, Rank};
use common::status::{
    AttemptStatus, CheckpointRow, JobRow, JobState, JobStatus, RankStatus, WorkerRow,
};

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::floor::{self, Held};
use crate::coordinator::goodput;
use crate::coordinator::ledger::{Attempt, Job};
use crate::coordinator::live::{LiveAttempt, LiveRank, LiveWorker, Phase, Standing};

impl Machine {
    /// A job as `rsctl status` shows it.
    pub fn status(&self, job_id: &JobId, now: Now) -> Option<JobStatus> {
        let mut status = self.facts(job_id, now)?;
        if let Some(queued) = self.queued(job_id) {
            let waiting = self.live.board.explain(&queued);
            if status.row.state == JobState::Queued {
                status.row.reason = waiting.reason.to_string();
            }
            status.waiting = Some(waiting);
        }
        Some(status)
    }

    /// The same, but of a job in the queue without why it waits: its readers work that out from the
    /// board.
    pub fn facts(&self, job_id: &JobId, now: Now) -> Option<JobStatus> {
        let job = self.ledger.jobs.get(job_id)?;
        let live = self.live.attempts.get(job_id);
        let attempt = job.attempt();
        let time = goodput::split(job, now.unix);
        let run_dir = job.submission.spec.job.output_dir.join(job_id.as_str());
        Some(JobStatus {
            row: self.row(job_id, job, live),
            attempts: job.attempts.iter().map(attempt_status).collect(),
            ranks: attempt.map(|a| rank_statuses(a, live)).unwrap_or_default(),
            goodput: time.map(|time| time.goodput()),
            time,
            live: live.and_then(|l| l.progress.clone()),
            notes: job.notes.clone(),
            summary: job.summary.as_deref().cloned(),
            output_dir: Some(run_dir.display().to_string()),
            latest_checkpoint: job.latest_checkpoint().map(|row| row.path.clone()),
            failure: job.failure.clone(),
            waiting: None,
        })
    }

    /// Checkpoints of a job, oldest first.
    pub fn checkpoints(&self, job_id: &JobId) -> Option<&[CheckpointRow]> {
        self.ledger.jobs.get(job_id).map(|job| job.checkpoints.as_slice())
    }

    /// Workers by name.
    pub fn workers(&self) -> Vec<WorkerRow> {
        let mut held = self.held();
        let mut row = |w: &LiveWorker| {
            let held = held.remove(&w.id.uuid).unwrap_or_default();
            worker_row(w, self.worker_state(w, !held.slots.is_empty()), held)
        };
        let mut rows: Vec<WorkerRow> = self.live.workers.values().map(&mut row).collect();
        self.compare_with_expected(&mut rows);
        rows.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.uuid.cmp(&b.uuid)));
        rows
    }

    fn row(&self, job_id: &JobId, job: &Job, live: Option<&LiveAttempt>) -> JobRow {
        let attempt = job.attempt();
        let asked = job.submission.spec.resources.world_size.unwrap_or(0);
        let progress = live.and_then(|l| l.progress.as_ref());
        JobRow {
            job_id: job_id.clone(),
            name: job.submission.spec.job.name.clone(),
            state: job.state,
            reason: self.reason(job_id, job, live),
            attempt: attempt.map_or(AttemptId(0), |a| a.attempt),
            step: progress.map_or(job.step, |p| p.step),
            max_steps: progress.and_then(|p| p.max_steps).or(job.max_steps),
            world_size: attempt.map_or(asked, |a| a.ranks.len() as u32),
            submitted_at: job.submitted_at,
            labels: job.submission.spec.job.labels.clone(),
            group: job.submission.group.as_ref().map(|group| group.name.clone()),
        }
    }

    fn reason(&self, job_id: &JobId, job: &Job, live: Option<&LiveAttempt>) -> String {
        match (job.state, live) {
            (JobState::Restarting, _) => match self.queued(job_id) {
                Some(queued) => {
                    format!("{}; {}", job.reason, self.live.board.explain(&queued).reason)
                }
                None => job.reason.clone(),
            },
            (JobState::Starting, Some(live)) if live.stop.is_none() => {
                starting(job, live).unwrap_or_else(|| job.reason.clone())
            }
            (JobState::Running, Some(live)) if live.stop.is_none() => match live.growth {
                Some(growth) => {
                    format!("{}; {}", job.reason, growth.tell(&job.submission.spec))
                }
                None => job.reason.clone(),
            },
            _ => job.reason.clone(),
        }
    }

    pub(super) fn worker_state(&self, worker: &LiveWorker, is_busy: bool) -> &'static str {
        match (worker.standing, worker.connection) {
            (Standing::Ready, Some(_)) if worker.is_withdrawing => "draining",
            (Standing::Ready, Some(_)) if worker.is_drained && is_busy => "draining",
            (Standing::Ready, Some(_)) if worker.is_drained => "drained",
            (Standing::Ready, Some(_))
                if self.excluded_until(&worker.id.uuid, self.live.unix).is_some() =>
            {
                "excluded"
            }
            (Standing::Ready, Some(_)) => "ready",
            // Its lease still runs.
            (Standing::Ready, None) => "disconnected",
            (Standing::Lost, _) => "lost",
            (Standing::Left, _) => "left",
        }
    }
}

fn worker_row(worker: &LiveWorker, state: &'static str, held: Held) -> WorkerRow {
    WorkerRow {
        name: worker.name.clone(),
        uuid: worker.id.uuid.to_string(),
        incarnation: worker.id.incarnation.0,
        state: state.to_owned(),
        address: worker.advertise.clone(),
        slots: worker.slots,
        free_slots: floor::idle_slots(worker, Some(&held)).len() as u32,
        device: worker.device.clone(),
        memory_bytes: worker.memory_bytes,
        jobs: held.jobs.into_keys().collect(),
        version: worker.version.clone(),
        last_seen: worker.last_heard_unix,
        libtorch: worker.libtorch.clone(),
        gpus: worker.gpus.clone(),
        hostname: worker.hostname.clone(),
        unlisted: false,
        allows_commands: worker.allows_commands,
    }
}

/// Who is missing before training can begin.
fn starting(job: &Job, live: &LiveAttempt) -> Option<String> {
    let attempt = job.attempt()?;
    let is_missing = |rank: &LiveRank| match live.phase {
        Phase::Gathering { .. } => rank.peer.is_none(),
        Phase::Connecting { .. } | Phase::Training => !rank.is_running,
    };
    let missing: Vec<String> = (0..)
        .zip(live.ranks.iter().zip(&attempt.ranks))
        .filter(|(_, (rank, _))| is_missing(rank))
        .map(|(rank, (_, placed)): (u32, _)| format!("{rank} ({})", placed.worker_name))
        .collect();
    let verb = match live.phase {
        Phase::Gathering { .. } => "start",
        Phase::Connecting { .. } | Phase::Training => "connect",
    };
    (!missing.is_empty()).then(|| {
        format!("{}; waiting for these ranks to {verb}: {}", attempt.reason, missing.join(", "))
    })
}

fn attempt_status(attempt: &Attempt) -> AttemptStatus {
    let over = attempt.over.as_deref();
    AttemptStatus {
        attempt: attempt.attempt,
        generation: attempt.generation,
        world_size: attempt.ranks.len() as u32,
        state: attempt.state,
        reason: attempt.reason.clone(),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        class: over.map(|over| over.class.to_string()).unwrap_or_default(),
        decision: over.map(|over| over.decision.clone()).unwrap_or_default(),
        resumed_at_step: attempt.ready_at.map(|(_, step)| step),
        last_step: over.and_then(|over| over.step),
    }
}

fn rank_statuses(attempt: &Attempt, live: Option<&LiveAttempt>) -> Vec<RankStatus> {
    let default = LiveRank::default();
    (0..)
        .zip(&attempt.ranks)
        .map(|(rank, placed)| {
            let live = live.and_then(|l| l.ranks.get(rank as usize)).unwrap_or(&default);
            let end = placed.end.as_ref().map(|end| end.end.clone());
            let state = match (&end, live.is_running, &live.peer) {
                (Some(end), _, _) => end.to_string(),
                (None, true, _) => "running".to_owned(),
                (None, false, Some(_)) => "ready".to_owned(),
                (None, false, None) => "waiting".to_owned(),
            };
            RankStatus {
                rank: Rank(rank),
                worker: placed.worker_name.clone(),
                slots: placed.slots.clone(),
                pid: live.pid,
                state,
                end,
                libtorch: live.libtorch.clone(),
            }
        })
        .collect()
}
