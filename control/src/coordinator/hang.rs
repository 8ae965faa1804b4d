//! Attempts that get nothing done any more: who hangs, told from where the ranks are. A rank that
//! waits in a collective is a victim; the one that has not come there, or that is in another one, is
//! the reason. What people see of it is the rank, its step, the operation and its stack.

mod verdict;

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use common::ids::{JobId, Rank};
use common::position::Position;
use common::spec;
use common::status::{Failure, FailureKind};

use crate::coordinator::Machine;
use crate::coordinator::effect::Effect;
use crate::coordinator::event::{Now, RankKey, RankPosition};
use crate::coordinator::live::Phase;
use crate::coordinator::record::StopDecision;

/// A step may take this many of the longest ones before.
const STEPS: u32 = 3;

/// Before the first step has ended nobody knows how long one takes; reading data and saving take as
/// long as disks are slow.
const PATIENCE: u32 = 10;

/// When an attempt that could not be judged is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// From the verdict until the stop, at most: the stacks of the guilty are asked for meanwhile.
const STACKS_WAIT: Duration = Duration::from_secs(5);

/// A rank that has told nothing for so long, while others tell every second, does not run at all.
const SILENT: Duration = Duration::from_secs(4);

/// Guilty ranks whose stacks are asked for. One tells the story; the others mostly repeat it.
const MAX_STACKS: usize = 4;

/// Lines of stacks that go with a failure.
const MAX_LINES: usize = 50;

/// What the ranks of one attempt have told of themselves.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By rank; None until it has told.
    seen: Vec<Option<Seen>>,
    /// When anybody last got something done.
    moved_at: Duration,
    limit: Duration,
    /// When to look whether they move, or act on the suspicion.
    due: Option<Duration>,
    suspicion: Option<Suspicion>,
}

#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) position: Position,
    /// How old that was when its worker brought it.
    pub(super) age: Duration,
    /// When its worker brought it, or the same again.
    brought_at: Duration,
}

/// A verdict that waits for the stacks of the guilty.
#[derive(Debug)]
struct Suspicion {
    failure: Failure,
    /// Who has not answered.
    asked: BTreeSet<Rank>,
    lines: Vec<String>,
}

impl Watch {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// For so long nobody could tell that they moved, or where their threads are.
    pub(super) fn forgive(&mut self, slept: Duration) {
        self.moved_at += slept;
        if let Some(due) = &mut self.due {
            *due += slept;
        }
    }

    /// Takes in what a rank told. Anything that was got done ends a suspicion.
    fn take(&mut self, rank: Rank, told: (Position, Duration), job: &spec::Job, now: Duration) {
        let (position, age) = told;
        let place = rank.0 as usize;
        if self.seen.len() <= place {
            self.seen.resize(place + 1, None);
        }
        let before = self.seen[place].take();
        if before.is_none_or(|before| before.position != position) {
            self.moved_at = now;
            self.suspicion = None;
        }
        self.seen[place] = Some(Seen { position, age, brought_at: now });
        if self.suspicion.is_none() {
            self.limit = limit(job, self.seen.iter().flatten());
            self.due = Some(self.moved_at + self.limit);
        }
    }

    /// Whether every one of these ranks has been heard of since then.
    fn is_fresh(&self, mut ranks: impl Iterator<Item = u32>, since: Duration) -> bool {
        ranks.all(|rank| {
            let seen = self.seen.get(rank as usize).and_then(Option::as_ref);
            seen.is_some_and(|seen| seen.brought_at >= since)
        })
    }
}

/// How long an attempt may stand still where it is.
fn limit<'a>(job: &spec::Job, seen: impl Iterator<Item = &'a Seen>) -> Duration {
    let (mut slow_step, mut is_patient, mut is_dead) = (Duration::ZERO, false, false);
    for Seen { position, age, .. } in seen {
        slow_step = slow_step.max(position.slow_step);
        is_patient |= !position.phase.is_of_a_step();
        is_dead |= *age > SILENT;
    }
    // A process that says nothing any more is why the others read, save or wait for so long: what
    // anybody was doing excuses nobody then.
    if !is_dead && (is_patient || slow_step.is_zero()) {
        (job.hang_timeout * PATIENCE).max(job.collective_timeout)
    } else {
        job.hang_timeout.max(slow_step * STEPS)
    }
}

impl Machine {
    pub(super) fn on_positions(&mut self, uuid: &Uuid, told: Vec<RankPosition>, now: Now) {
        for RankPosition { key, position, age } in told {
            if !self.holds(uuid, &key) {
                continue;
            }
            let Some(job) = self.ledger.jobs.get(&key.job_id) else { continue };
            let job = &job.submission.spec.job;
            if let Some(live) = self.live.attempts.get_mut(&key.job_id) {
                live.watch.take(key.rank, (position, age), job, now.uptime);
            }
        }
    }

    /// Nobody has got anything done for the limit, or a suspicion has waited for its stacks.
    pub(super) fn on_standstill(&mut self, job_id: &JobId, now: Now) {
        // A worker that is out of reach may have ranks that only seem to stand still.
        let lease = self.config.lease_among(self.live.workers.len());
        let since = now.uptime.saturating_sub(lease);
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let unfinished: Vec<u32> = attempt.unfinished().map(|(rank, _)| rank).collect();
        let Some(live) = self.live.attempts.get_mut(job_id) else { return };
        if live.phase != Phase::Training {
            return;
        }
        if live.watch.suspicion.is_some() {
            self.convict(job_id, now);
        } else if live.watch.is_fresh(unfinished.into_iter(), since) {
            self.suspect(job_id, now);
        } else {
            live.watch.due = Some(now.uptime + AGAIN);
        }
    }

    /// Names who hangs, and asks where their threads are.
    fn suspect(&mut self, job_id: &JobId, now: Now) {
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let generation = attempt.generation;
        let Some(live) = self.live.attempts.get(job_id) else { return };
        let ranks: Vec<verdict::Judged<'_>> = attempt
            .unfinished()
            .filter_map(|(rank, placed)| {
                let seen = live.watch.seen.get(rank as usize)?.as_ref()?;
                Some(verdict::Judged { rank: Rank(rank), worker: &placed.worker_name, seen })
            })
            .collect();
        let still = now.uptime.saturating_sub(live.watch.moved_at);
        let failure = verdict::judge(&ranks, still);
        let guilty: Vec<(Rank, Uuid)> = failure
            .guilty
            .iter()
            .take(MAX_STACKS)
            .filter_map(|rank| Some((*rank, attempt.ranks.get(rank.0 as usize)?.worker.uuid)))
            .collect();
        let mut asked = BTreeSet::new();
        for (rank, uuid) in guilty {
            if let Some(to) = self.live.connection_of(&uuid) {
                asked.insert(rank);
                let (job_id, ranks) = (job_id.clone(), vec![rank]);
                self.effect(Effect::ShowStacks { to, job_id, generation, ranks });
            }
        }
        let Some(live) = self.live.attempts.get_mut(job_id) else { return };
        let failure = failure.failure;
        live.watch.due = Some(now.uptime + STACKS_WAIT);
        live.watch.suspicion = Some(Suspicion { failure, asked, lines: Vec::new() });
    }

    pub(super) fn on_stacks(&mut self, uuid: &Uuid, key: &RankKey, lines: Vec<String>, now: Now) {
        if !self.holds(uuid, key) {
            return;
        }
        let Some(live) = self.live.attempts.get_mut(&key.job_id) else { return };
        let Some(suspicion) = &mut live.watch.suspicion else { return };
        if !suspicion.asked.remove(&key.rank) {
            return;
        }
        let room = MAX_LINES.saturating_sub(suspicion.lines.len());
        let lines = lines.into_iter().map(|line| format!("rank {}: {line}", key.rank));
        suspicion.lines.extend(lines.take(room));
        if suspicion.asked.is_empty() {
            self.convict(&key.job_id, now);
        }
    }

    /// Stops the attempt with the verdict and what was heard of stacks.
    fn convict(&mut self, job_id: &JobId, now: Now) {
        let Some(live) = self.live.attempts.get_mut(job_id) else { return };
        live.watch.due = None;
        let Some(suspicion) = live.watch.suspicion.take() else { return };
        let Suspicion { mut failure, asked, lines } = suspicion;
        failure.last_lines = lines;
        failure.last_lines.extend(asked.iter().map(|rank| {
            format!("rank {rank}: no stack: its worker did not tell within {STACKS_WAIT:?}")
        }));
        self.stop_attempt(job_id, StopDecision::failed(failure), now);
    }
}

/// A failure of kind hang.
fn failure(guilty: Option<(Rank, &str)>, message: String) -> Failure {
    Failure {
        rank: guilty.map(|(rank, _)| rank),
        worker: guilty.map(|(_, worker)| worker.to_owned()),
        kind: Some(FailureKind::Hang),
        message,
        last_lines: Vec::new(),
    }
}
