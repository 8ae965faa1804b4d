//! Why a job is as it is, made of the ledger and the present moment. What ranks measured is not
//! known here: `why slow` is the shell's to add.

use std::collections::BTreeSet;

use common::ids::JobId;
use common::spec::{Command, Device, NodeNames};
use common::status::{
    Answer, AttemptCause, Explanation, GuiltyRank, JobState, Question, WorkerLack, WorkerRow,
};

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::guilt;
use crate::coordinator::ledger::{Attempt, Job};

impl Machine {
    pub fn explain(&self, job_id: &JobId, now: Now) -> Option<Explanation> {
        let job = self.ledger.jobs.get(job_id)?;
        let row = self.status(job_id, now)?.row;
        let is_waiting = matches!(row.state, JobState::Queued | JobState::Restarting);
        // A job with an allocation of its own uses no other worker, and nobody else uses those.
        let workers = match is_waiting && job.submission.slurm.is_none() {
            true => self.open_workers().map(|worker| lack(job, worker)).collect(),
            false => Vec::new(),
        };
        let attempts: Vec<AttemptCause> = job.attempts.iter().map(|a| cause(job, a)).collect();
        let mut answers = Vec::new();
        let mut answer = |question, text| answers.push(Answer { question, text });
        if is_waiting || row.state == JobState::Starting {
            answer(Question::Pending, row.reason.clone());
        }
        for pair in attempts.windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            let why = if before.ended.is_empty() { "it ended" } else { &before.ended };
            answer(
                Question::Restarted,
                format!("attempt {} followed attempt {}: {why}", next.attempt, before.attempt),
            );
        }
        if let Some(why) = self.why_world(job_id) {
            answer(Question::World, why);
        }
        if job.submission.spec.command.is_some() && row.state == JobState::Running {
            answer(Question::Unwatched, Command::UNWATCHED.to_owned());
        }
        if row.state.is_final() || row.state == JobState::Cancelling {
            answer(Question::Stopped, row.reason.clone());
        }
        let decisions = job.decisions.clone();
        Some(Explanation { row, answers, workers, attempts, pace: Vec::new(), decisions })
    }
}

impl Machine {
    /// Workers that are of no job's own allocation.
    fn open_workers(&self) -> impl Iterator<Item = WorkerRow> {
        let own = self.live.workers.values().filter(|worker| worker.is_of_a_job());
        let own: BTreeSet<String> = own.map(|worker| worker.id.uuid.to_string()).collect();
        self.workers().into_iter().filter(move |row| !own.contains(&row.uuid))
    }
}

/// What speaks against a worker for a rank of this job, by itself.
fn lack(job: &Job, worker: WorkerRow) -> WorkerLack {
    let resources = &job.submission.spec.resources;
    let threads = if worker.device == "cuda" { 1 } else { resources.threads_per_rank };
    let is_wrong_device = match resources.device {
        Device::Auto => false,
        Device::Cpu => worker.device != "cpu",
        Device::Cuda => worker.device != "cuda",
    };
    let slots =
        |count: u32| if count == 1 { "1 slot".to_owned() } else { format!("{count} slots") };
    let node = NodeNames::new(&worker.name, &worker.hostname, &worker.address);
    let is_named = resources.hosts.as_ref().is_none_or(|hosts| hosts.find(&node).is_some());
    let lacks = if !is_named {
        "is not one of the job's hosts".to_owned()
    } else if job.submission.spec.command.is_some() && !worker.allows_commands {
        "runs no commands: it needs --allow-commands".to_owned()
    } else if worker.state != "ready" {
        format!("is {}", worker.state)
    } else if is_wrong_device {
        format!("has {} slots only", worker.device)
    } else if worker.slots < threads {
        format!("has {}, a rank takes {threads}", slots(worker.slots))
    } else if worker.free_slots < threads {
        format!("{} of {} free, a rank takes {threads}", worker.free_slots, slots(worker.slots))
    } else {
        String::new()
    };
    let WorkerRow { name, state, device, slots, free_slots, jobs, .. } = worker;
    WorkerLack { worker: name, state, device, slots, free_slots, lacks, jobs }
}

fn cause(job: &Job, attempt: &Attempt) -> AttemptCause {
    // What was judged when it broke off knows more than what is left of its ranks' ends.
    let judged = attempt.over.as_ref().map(|over| over.failure.clone());
    let failure = judged.or_else(|| guilt::verdict(attempt)).filter(|_| attempt.ended_at.is_some());
    let guilty = failure.as_ref().and_then(|failure| {
        let rank = failure.rank?;
        let placed = attempt.ranks.get(rank.0 as usize)?;
        Some(GuiltyRank {
            rank,
            worker: placed.worker_name.clone(),
            end: placed.end.as_ref().map(|end| end.end.clone()),
            last_lines: failure.last_lines.clone(),
        })
    });
    // The job's own last word knows more than the attempt's ends.
    let is_last = job.attempt().is_some_and(|last| last.attempt == attempt.attempt);
    let ended = match (attempt.ended_at, failure) {
        (None, _) => String::new(),
        (Some(_), _) if is_last && job.state.is_final() => job.reason.clone(),
        (Some(_), Some(failure)) => failure.message,
        (Some(_), None) => attempt.reason.clone(),
    };
    // A long story has lost sentences, and an attempt's reason becomes that of its end.
    let start = format!("attempt {} starts: ", attempt.attempt);
    let told = job.decisions.iter().find(|decision| decision.text.starts_with(&start));
    let began = match (told, attempt.ended_at) {
        (Some(decision), _) => decision.text.clone(),
        (None, None) => attempt.reason.clone(),
        (None, Some(_)) => "why is no longer kept".to_owned(),
    };
    AttemptCause {
        attempt: attempt.attempt,
        state: attempt.state,
        world_size: attempt.ranks.len() as u32,
        began,
        started_at: attempt.started_at,
        running_at: attempt.running_at,
        ended_at: attempt.ended_at,
        ended,
        guilty,
    }
}
