//! The slots of the cluster as one decision sees them: what is idle, what becomes idle when, and
//! what is kept for a job whose turn it is. Pure arithmetic; decides nothing about jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use common::ids::JobId;
use common::slurm::allocation::AllocationName;
use common::units::MAX_DURATION;

use crate::coordinator::Machine;
use crate::coordinator::board::Drained;
use crate::coordinator::event::Now;
use crate::coordinator::hosts::place_on_hosts;
use crate::coordinator::ledger::Attempt;
use crate::coordinator::live::{LiveAttempt, LiveWorker, Standing};
use crate::coordinator::placement::{Offer, Verdict, Wish};
use crate::coordinator::record::Placement;

/// Reservations that look for the moment at which their job can start; each costs a placement per
/// halving of the list of ends. The ones behind them keep everything that could help them.
const MAX_TIMED: usize = 4;

/// What trainers hold on one worker.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) slots: BTreeSet<u32>,
    /// Their number by job.
    pub(super) jobs: BTreeMap<JobId, u32>,
}

/// Slots of a running attempt that says when it ends.
#[derive(Debug)]
struct End {
    within: Duration,
    slots: Vec<(usize, u32)>,
}

#[derive(Debug)]
pub(super) struct Floor {
    /// Everything, for what the cluster has and could do.
    full: Vec<Offer>,
    /// What may be given away: not what is kept for the jobs that were looked at before.
    left: Vec<Offer>,
    /// Place of a worker in both lists.
    index: BTreeMap<Uuid, usize>,
    /// Soonest first.
    ends: Vec<End>,
    timed: usize,
    drained: Vec<Drained>,
    /// Jobs that run, by group.
    groups: BTreeMap<String, u32>,
}

/// What a decision leaves for the readers of its reasons.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) offers: Vec<Offer>,
    pub(super) drained: Vec<Drained>,
    /// Jobs that run, by group.
    pub(super) groups: BTreeMap<String, u32>,
}

/// What the floor says about a wish.
#[derive(Debug)]
pub(super) enum Look {
    Place(Vec<Placement>),
    /// It could have slots that are not kept for others, once they are idle.
    Blocked,
    /// All that could help it is kept for others, or the cluster is too small.
    Passed,
}

/// What a reservation promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Within(Duration),
    /// Running jobs that it waits for have not said when they end.
    Unknown,
    /// They have said so before, and it has passed.
    Overdue,
}

impl Floor {
    pub(super) fn into_scene(self) -> Scene {
        Scene { offers: self.full, drained: self.drained, groups: self.groups }
    }

    /// Whether nothing can start any more.
    pub(super) fn is_empty(&self) -> bool {
        self.left.iter().all(|offer| offer.idle.is_empty())
    }

    /// Whether enough jobs of its group run.
    pub(super) fn is_limited(&self, wish: &Wish) -> bool {
        let running = |group: &String| self.groups.get(group).copied().unwrap_or(0);
        wish.limit.as_ref().is_some_and(|(group, max)| running(group) >= *max)
    }

    pub(super) fn look(&self, wish: &Wish) -> Look {
        match place_on_hosts(wish, &self.left) {
            Verdict::Place(places) => Look::Place(places),
            Verdict::Busy(_) => Look::Blocked,
            Verdict::TooLarge(_) => Look::Passed,
        }
    }

    /// Where a running attempt could have more ranks than it has: on its own slots and on those
    /// that nobody waits for.
    pub(super) fn larger(&self, wish: &Wish, attempt: &Attempt) -> Option<Vec<Placement>> {
        let mut offers = self.left.clone();
        for (_, rank) in attempt.unfinished() {
            let offer = &mut offers[*self.index.get(&rank.worker.uuid)?];
            offer.idle.extend(&rank.slots);
            offer.idle.sort_unstable();
        }
        match place_on_hosts(wish, &offers) {
            Verdict::Place(places) if places.len() > attempt.ranks.len() => Some(places),
            _ => None,
        }
    }

    /// Gives slots away, to a job of this group.
    pub(super) fn take(&mut self, places: &[Placement], group: Option<&str>) {
        if let Some(group) = group {
            *self.groups.entry(group.to_owned()).or_default() += 1;
        }
        let mut taken: BTreeMap<usize, u32> = BTreeMap::new();
        for place in places {
            let Some(at) = self.index.get(&place.worker.uuid) else { continue };
            for offers in [&mut self.full, &mut self.left] {
                offers[*at].idle.retain(|slot| !place.slots.contains(slot));
            }
            *taken.entry(*at).or_default() += place.slots.len() as u32;
        }
        for (at, slots) in taken {
            self.full[at].held.push(slots);
            self.left[at].held.push(slots);
        }
    }

    /// Keeps slots for a job that cannot start now, so that nothing that is placed later delays it:
    /// where the running jobs say when they end, the slots on which it can start soonest; else all
    /// that could ever help it. An estimate that turned out wrong (`is_overdue`) is not believed
    /// again, so a job never waits for more than one drain of the cluster.
    pub(super) fn reserve(&mut self, wish: &Wish, is_overdue: bool) -> Start {
        if is_overdue || self.timed == MAX_TIMED {
            self.reserve_all(wish);
            return if is_overdue { Start::Overdue } else { Start::Unknown };
        }
        self.timed += 1;
        match self.soonest(wish) {
            Some((within, places)) => {
                self.reserve_places(&places);
                Start::Within(within)
            }
            None => {
                self.reserve_all(wish);
                Start::Unknown
            }
        }
    }

    /// The first moment at which it can start, and where.
    fn soonest(&self, wish: &Wish) -> Option<(Duration, Vec<Placement>)> {
        let after = |count: usize| {
            let mut offers = self.left.clone();
            for (at, slot) in self.ends[..count].iter().flat_map(|end| &end.slots) {
                // What is kept for another job stays away.
                let offer = &mut offers[*at];
                let is_kept = offer.kept.contains(slot);
                if !is_kept && offer.idle.len() < offer.slots as usize {
                    offer.idle.push(*slot);
                }
            }
            match place_on_hosts(wish, &offers) {
                Verdict::Place(places) => Some(places),
                Verdict::Busy(_) | Verdict::TooLarge(_) => None,
            }
        };
        let mut best = (self.ends.len(), after(self.ends.len())?);
        let mut low = 0;
        while low < best.0 {
            let middle = low + (best.0 - low) / 2;
            match after(middle) {
                Some(places) => best = (middle, places),
                None => low = middle + 1,
            }
        }
        let within = best.0.checked_sub(1).map(|last| self.ends[last].within);
        Some((within.unwrap_or_default(), best.1))
    }

    fn reserve_places(&mut self, places: &[Placement]) {
        for place in places {
            let Some(at) = self.index.get(&place.worker.uuid) else { continue };
            let offer = &mut self.left[*at];
            offer.idle.retain(|slot| !place.slots.contains(slot));
            offer.slots = offer.slots.saturating_sub(place.slots.len() as u32);
            offer.kept.extend(&place.slots);
        }
        for offer in &mut self.left {
            offer.idle.truncate(offer.slots as usize);
        }
    }

    fn reserve_all(&mut self, wish: &Wish) {
        let home = self.left.iter().find(|o| wish.is_home(o)).and_then(|home| wish.sees(home));
        let helps = |is_cuda: bool| home.as_ref().is_none_or(|home| home.is_cuda == is_cuda);
        let kinds = [true, false].into_iter().filter(|kind| wish.accepts(*kind) && helps(*kind));
        for is_cuda in kinds {
            let group: Vec<Offer> =
                self.left.iter().filter(|o| o.is_cuda == is_cuda).cloned().collect();
            // A kind of device of which there can never be enough is of no help.
            if matches!(place_on_hosts(wish, &group), Verdict::TooLarge(_)) {
                continue;
            }
            // Where the home alone can hold it, nothing else is waited for.
            let (world, slots) = (wish.worlds.smallest(), wish.slots_of_rank(is_cuda));
            let alone = home.as_ref().filter(|home| home.slots / slots >= world);
            let is_of_use = |o: &Offer| wish.suits(o) && alone.is_none_or(|home| home.id == o.id);
            let left = self.left.iter_mut();
            for offer in left.filter(|o| o.is_cuda == is_cuda && is_of_use(o)) {
                wish.keep(offer);
            }
        }
    }
}

impl Machine {
    pub(super) fn floor(&self, now: Now) -> Floor {
        let held = self.held();
        // One that is leaving has nothing to give, now or later.
        let stays = |w: &&LiveWorker| {
            w.standing == Standing::Ready && !w.is_leaving() && self.is_for_all(w)
        };
        let workers: Vec<&LiveWorker> = self.live.workers.values().filter(stays).collect();
        let offer = |worker: &&LiveWorker| {
            let uuid = worker.id.uuid;
            let is_trusted = self.excluded_until(&uuid, now.unix).is_none();
            // Jobs that were queued while commands were allowed wait until they are again.
            let allows_commands = worker.allows_commands && self.config.allow_commands;
            Offer { is_trusted, allows_commands, ..offer(worker, held.get(&uuid)) }
        };
        let offers: Vec<Offer> = workers.iter().map(offer).collect();
        let index = (0..).zip(&workers).map(|(at, w)| (w.id.uuid, at)).collect();
        let mut floor = Floor {
            left: offers.clone(),
            full: offers,
            index,
            ends: Vec::new(),
            timed: 0,
            drained: self.drained(),
            groups: self.running_groups(),
        };
        floor.ends = self.ends(&floor, now);
        floor
    }

    /// One of a job's own allocation is that job's alone; one of a pool's is everybody's until it is
    /// given back.
    fn is_for_all(&self, worker: &LiveWorker) -> bool {
        let is_open = |name: &AllocationName| {
            let known = self.ledger.allocations.get(name);
            name.pool().is_some() && known.is_some_and(|of| !of.is_released)
        };
        worker.allocation.as_ref().is_none_or(is_open)
    }

    fn drained(&self) -> Vec<Drained> {
        let is_out =
            |w: &&LiveWorker| w.standing == Standing::Ready && w.is_drained && self.is_for_all(w);
        let drained =
            |w: &LiveWorker| Drained { is_cuda: w.device == "cuda", node: Arc::clone(&w.node) };
        self.live.workers.values().filter(is_out).map(drained).collect()
    }

    pub(super) fn running_groups(&self) -> BTreeMap<String, u32> {
        let mut groups = BTreeMap::new();
        let jobs = self.live.attempts.keys().chain(self.allocated_jobs());
        let jobs = jobs.filter_map(|job_id| self.ledger.jobs.get(job_id));
        for group in jobs.filter_map(|job| job.submission.group.as_ref()) {
            *groups.entry(group.name.clone()).or_default() += 1;
        }
        groups
    }

    /// What trainers that are not known dead hold, by worker.
    pub(super) fn held(&self) -> BTreeMap<Uuid, Held> {
        let mut held: BTreeMap<Uuid, Held> = BTreeMap::new();
        for job_id in self.live.attempts.keys() {
            let attempt = self.ledger.jobs.get(job_id).and_then(|job| job.open_attempt());
            for (_, rank) in attempt.iter().flat_map(|a| a.unfinished()) {
                let held = held.entry(rank.worker.uuid).or_default();
                held.slots.extend(&rank.slots);
                let slots = rank.slots.len() as u32;
                match held.jobs.get_mut(job_id) {
                    Some(count) => *count += slots,
                    None => {
                        held.jobs.insert(job_id.clone(), slots);
                    }
                }
            }
        }
        held
    }

    fn ends(&self, floor: &Floor, now: Now) -> Vec<End> {
        let mut ends = Vec::new();
        for (job_id, live) in &self.live.attempts {
            let Some(within) = time_left(live, now) else { continue };
            let Some(attempt) = self.open_attempt(job_id) else { continue };
            let slots = attempt.unfinished().flat_map(|(_, rank)| {
                let worker = self.live.workers.get(&rank.worker.uuid);
                let is_open = worker.is_some_and(LiveWorker::is_placeable);
                let at = floor.index.get(&rank.worker.uuid).filter(|_| is_open);
                at.into_iter().flat_map(|at| rank.slots.iter().map(|slot| (*at, *slot)))
            });
            ends.push(End { within, slots: slots.collect() });
        }
        ends.sort_by_key(|end| end.within);
        ends
    }
}

/// Slots that are of no use to ranks of `threads` slots, whichever of the attempts that run there
/// end first: what is left over beside whole ranks, in the worst case.
pub(super) fn spare_slots(offer: &Offer, threads: u32) -> u32 {
    // What may be held at some moment, beyond whole ranks.
    let mut held = BTreeSet::from([0]);
    for slots in &offer.held {
        let more: Vec<u32> = held.iter().map(|before| (before + slots) % threads).collect();
        held.extend(more);
    }
    let spare = held.iter().map(|held| (offer.slots % threads + threads - held) % threads);
    spare.min().unwrap_or(0)
}

/// When an attempt ends, as far as it has said.
pub(super) fn time_left(live: &LiveAttempt, now: Now) -> Option<Duration> {
    if let Some(stop) = &live.stop {
        return Some(stop.until.saturating_sub(now.uptime));
    }
    let limit = live.limit_at.map(|at| at.saturating_sub(now.uptime));
    [said(live, now), limit].into_iter().flatten().min()
}

/// A program says it, and may say anything: all that is far away is equally far.
fn said(live: &LiveAttempt, now: Now) -> Option<Duration> {
    let (said_at, progress) = (live.progress_at?, live.progress.as_ref()?);
    let eta = Duration::try_from_secs_f64(progress.eta_seconds?).ok()?.min(MAX_DURATION);
    Some(eta.saturating_sub(now.uptime.saturating_sub(said_at)))
}

pub(super) fn offer(worker: &LiveWorker, held: Option<&Held>) -> Offer {
    Offer {
        id: worker.id,
        name: worker.name.as_str().into(),
        node: Arc::clone(&worker.node),
        order: 0,
        is_cuda: worker.device == "cuda",
        width: worker.slots,
        slots: worker.slots,
        idle: idle_slots(worker, held),
        held: held.map_or_else(Vec::new, |held| held.jobs.values().copied().collect()),
        kept: BTreeSet::new(),
        is_trusted: true,
        allows_commands: false,
    }
}

/// Slots of a worker that no trainer holds. A slot is held until its trainer is known dead.
pub(super) fn idle_slots(worker: &LiveWorker, held: Option<&Held>) -> Vec<u32> {
    if !worker.is_placeable() {
        return Vec::new();
    }
    let is_free = |slot: &u32| held.is_none_or(|held| !held.slots.contains(slot));
    (0..worker.slots).filter(is_free).collect()
}
