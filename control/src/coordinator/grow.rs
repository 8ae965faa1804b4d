//! Elastic jobs that run with fewer ranks than they may have. When slots stay idle after the queue
//! was served, such a job is stopped after a save and goes on with more ranks: not before it has
//! trained for its `restart.grow-after`, and only where what is left of the run, as it says itself,
//! gets shorter by more than a restart costs. No step is lost, and no budget pays for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use common::ids::JobId;
use common::spec::JobSpec;
use common::status::Failure;
use common::units::{count, display_duration};

use crate::coordinator::Machine;
use crate::coordinator::board::Blocker;
use crate::coordinator::event::Now;
use crate::coordinator::floor::{Floor, time_left};
use crate::coordinator::ledger::Attempt;
use crate::coordinator::line::Turn;
use crate::coordinator::live::{LiveAttempt, LiveWorker, Phase};
use crate::coordinator::placement::Wish;
use crate::coordinator::record::{Placement, StopCause, StopDecision, StopMode};
use crate::coordinator::worlds::Worlds;

/// A restart pays where it takes less than one part in so many of the time that it saves. Its cost
/// is taken to be what the attempt's own start took.
const PAYS: f64 = 2.0;

/// Where the run has not told its progress yet.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Nobody waits for a job that grows: its save may take its time.
const SAVE_GRACE: Duration = Duration::from_secs(120);

/// No job trains for longer before it may grow.
const MAX_GROW_AFTER: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// More ranks would fit now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    /// It has not trained for long enough.
    Later { ranks: u32 },
    /// The run ends too soon for a restart to pay.
    TooLate { ranks: u32 },
}

impl Machine {
    /// Training has begun: whether it can grow is looked at in time, even if nothing else happens.
    pub(super) fn may_grow_later(&mut self, job_id: &JobId, now: Now) {
        let Some(after) = self.grow_after(job_id) else { return };
        if let Some(live) = self.live.attempts.get_mut(job_id) {
            live.training_since = Some(now.uptime);
            live.grow_at = Some(now.uptime + after);
        }
    }

    /// None: its world is what it is.
    fn grow_after(&self, job_id: &JobId) -> Option<Duration> {
        let spec = &self.ledger.jobs.get(job_id)?.submission.spec;
        // Nothing would mend what breaks on the way.
        let is_final = spec.restart.infrastructure == 0;
        let grows = spec.resources.is_elastic() && !is_final;
        grows.then(|| spec.restart.grow_after.min(MAX_GROW_AFTER))
    }

    /// Lets elastic jobs have what the queue has left over.
    pub(super) fn grow(&mut self, floor: &mut Floor, blockers: &[Blocker], now: Now) {
        let trains = |live: &LiveAttempt| live.phase == Phase::Training && live.stop.is_none();
        let training = self.live.attempts.iter().filter(|(_, live)| trains(live));
        let elastic: Vec<(JobId, Duration)> = training
            .filter_map(|(job_id, _)| Some((job_id.clone(), self.grow_after(job_id)?)))
            .collect();
        if elastic.is_empty() || !self.is_settled() {
            return;
        }
        for (job_id, after) in elastic {
            let places = self.larger(&job_id, floor, blockers);
            let ranks = places.as_ref().map(|places| places.len() as u32);
            let growth = ranks.and_then(|ranks| self.hindrance(&job_id, ranks, after, now));
            match places {
                Some(places) if growth.is_none() => {
                    floor.take(&places, None);
                    self.stop_to_grow(&job_id, &places, now);
                }
                _ => self.tell_growth(&job_id, growth),
            }
        }
    }

    /// No attempt is between its first end and its last. The slots of one that is are idle for a
    /// moment only; its last end makes the next decision.
    fn is_settled(&self) -> bool {
        self.live.attempts.iter().all(|(job_id, live)| {
            let attempt = self.open_attempt(job_id);
            live.stop.is_none()
                && attempt.is_some_and(|a| a.ranks.iter().all(|rank| rank.end.is_none()))
        })
    }

    /// Slots that jobs on their way to more ranks were promised.
    pub(super) fn promised_to_grow(&self) -> Vec<Placement> {
        let growing = self.live.attempts.values().filter(|live| live.stop.is_some());
        growing.flat_map(|live| live.grows_to.iter().cloned()).collect()
    }

    /// Where it could have more ranks than it has.
    fn larger(
        &self,
        job_id: &JobId,
        floor: &Floor,
        blockers: &[Blocker],
    ) -> Option<Vec<Placement>> {
        let job = self.ledger.jobs.get(job_id)?;
        let attempt = job.open_attempt()?;
        // What cannot be told to stop, or cannot come back to where it is, does not grow.
        let is_here = attempt.unfinished().all(|(_, rank)| {
            let worker = self.live.workers.get(&rank.worker.uuid);
            worker.is_some_and(LiveWorker::is_placeable)
        });
        if !is_here || floor.is_empty() {
            return None;
        }
        let wish = Wish::of(job);
        if wish.worlds.goal() == Some(attempt.ranks.len() as u32) {
            return None;
        }
        // A job whose turn is earlier would take what it leaves.
        let turn = Turn::of(job);
        if blockers.iter().any(|other| other.turn < turn && other.wish.competes(&wish)) {
            return None;
        }
        floor.larger(&wish, attempt)
    }

    /// Why it does not take the ranks that it could have now.
    fn hindrance(
        &mut self,
        job_id: &JobId,
        ranks: u32,
        after: Duration,
        now: Now,
    ) -> Option<Growth> {
        let attempt = self.ledger.jobs.get(job_id)?.open_attempt()?;
        let live = self.live.attempts.get_mut(job_id)?;
        let earliest = live.training_since.unwrap_or(now.uptime) + after;
        let is_known = live.progress.is_some() && attempt.ready_at.is_some();
        if now.uptime < earliest || !is_known {
            let is_early = now.uptime < earliest;
            live.grow_at = Some(if is_early { earliest } else { now.uptime + LOOK_AGAIN });
            return Some(Growth::Later { ranks });
        }
        (!pays(attempt, live, ranks, now)).then_some(Growth::TooLate { ranks })
    }

    fn stop_to_grow(&mut self, job_id: &JobId, places: &[Placement], now: Now) {
        let Some(attempt) = self.open_attempt(job_id) else { return };
        let message = format!(
            "grows from {} to {}: {}",
            attempt.ranks.len(),
            count(places.len() as u64, "rank"),
            gained(attempt, places)
        );
        let failure =
            Failure { rank: None, worker: None, kind: None, message, last_lines: Vec::new() };
        let stop = StopDecision {
            mode: StopMode::Gracefully,
            grace: Some(SAVE_GRACE),
            cause: StopCause::Growth,
            ..StopDecision::failed(failure)
        };
        self.stop_attempt(job_id, stop, now);
        if let Some(live) = self.live.attempts.get_mut(job_id) {
            live.grows_to = places.to_vec();
        }
    }

    fn tell_growth(&mut self, job_id: &JobId, growth: Option<Growth>) {
        let Some(live) = self.live.attempts.get_mut(job_id) else { return };
        if live.growth != growth {
            live.growth = growth;
            self.touch(job_id);
        }
    }

    /// Why the running attempt of an elastic job has as many ranks as it has.
    pub(super) fn why_world(&self, job_id: &JobId) -> Option<String> {
        let job = self.ledger.jobs.get(job_id)?;
        let (spec, attempt) = (&job.submission.spec, job.open_attempt()?);
        if !spec.resources.is_elastic() {
            return None;
        }
        let (ranks, worlds) = (attempt.ranks.len() as u32, Worlds::of(spec));
        let growth = self.live.attempts.get(job_id).and_then(|live| live.growth);
        let more = match growth {
            _ if worlds.goal() == Some(ranks) => "as many as it may have".to_owned(),
            Some(growth) => growth.tell(spec),
            None => "no more fit now".to_owned(),
        };
        Some(format!("{} of {}: {more}", count(u64::from(ranks), "rank"), range(&worlds)))
    }
}

impl Growth {
    pub(super) fn tell(self, spec: &JobSpec) -> String {
        match self {
            Self::Later { ranks } => {
                let after = display_duration(spec.restart.grow_after);
                format!("{ranks} would fit, once it has trained for {after} (restart.grow-after)")
            }
            Self::TooLate { ranks } => {
                format!("{ranks} would fit, but the run ends too soon for a restart to pay")
            }
        }
    }
}

/// What is said when an attempt of an elastic job starts.
pub(super) fn share(spec: &JobSpec, ranks: u32) -> String {
    if !spec.resources.is_elastic() {
        return String::new();
    }
    let worlds = Worlds::of(spec);
    match worlds.goal() == Some(ranks) {
        true => "; as many as it may have".to_owned(),
        false => format!("; it may have {}, and no more fit now", range(&worlds)),
    }
}

fn range(worlds: &Worlds) -> String {
    match worlds.goal() {
        Some(goal) => format!("{} to {goal}", worlds.smallest()),
        None => format!("at least {}", worlds.smallest()),
    }
}

fn pays(attempt: &Attempt, live: &LiveAttempt, ranks: u32, now: Now) -> bool {
    // A run that does not know its end has a long way to go.
    let Some(left) = time_left(live, now) else { return true };
    let start = attempt.ready_at.map_or(0, |(at, _)| at.saturating_sub(attempt.started_at));
    let saved = left.as_secs_f64() * (1.0 - attempt.ranks.len() as f64 / f64::from(ranks));
    saved > PAYS * start as f64 / 1000.0
}

/// On which workers the new ranks have their slots.
fn gained(attempt: &Attempt, places: &[Placement]) -> String {
    let mut before: BTreeMap<Uuid, BTreeSet<u32>> = BTreeMap::new();
    for rank in &attempt.ranks {
        before.entry(rank.worker.uuid).or_default().extend(&rank.slots);
    }
    let is_new = |place: &&Placement| {
        let had = before.get(&place.worker.uuid);
        place.slots.iter().any(|slot| had.is_none_or(|had| !had.contains(slot)))
    };
    let names: BTreeSet<String> =
        places.iter().filter(is_new).map(|place| format!("`{}`", place.worker_name)).collect();
    let s = if names.len() == 1 { "" } else { "s" };
    let names: Vec<String> = names.into_iter().collect();
    format!("slots of worker{s} {} are idle", names.join(", "))
}
