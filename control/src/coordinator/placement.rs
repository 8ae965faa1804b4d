//! Where ranks go. Pure: the same offers and the same wish give the same places.
//!
//! All or nothing, on idle slots only, on as few workers as hold them; ranks are numbered through
//! the workers in the order of the job's hosts, else of their names.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use common::ids::WorkerId;
use common::spec::{Device, Hosts, NodeNames};
use common::status::SlotShortage;

use crate::coordinator::ledger::Job;
use crate::coordinator::record::Placement;
use crate::coordinator::worlds::Worlds;

/// What one live worker has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    pub(super) id: WorkerId,
    pub(super) name: Arc<str>,
    /// What a job's list of hosts may call it.
    pub(super) node: Arc<NodeNames>,
    /// Its place in that list, where there is one: ranks are numbered in this order.
    pub(super) order: u32,
    pub(super) is_cuda: bool,
    /// Slots that it has.
    pub(super) width: u32,
    /// Slots that it could give on an idle cluster.
    pub(super) slots: u32,
    /// Slot numbers that can be taken now, ascending.
    pub(super) idle: Vec<u32>,
    /// Slots of each attempt that runs there: they become idle together.
    pub(super) held: Vec<u32>,
    /// Slot numbers that it cannot give even then: they are kept for a job that needs just these, or
    /// that is to start on them at a known moment.
    pub(super) kept: BTreeSet<u32>,
    /// It did not break attempts off of late.
    pub(super) is_trusted: bool,
    /// Jobs may run programs of their own on it.
    pub(super) allows_commands: bool,
}

/// What a job wants, as far as its place depends on it: of jobs with equal wishes the first is
/// served first, and one verdict holds for all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wish {
    pub(super) worlds: Worlds,
    pub(super) threads: u32,
    pub(super) max_workers: Option<u32>,
    /// Where ranks may be; None: anywhere.
    pub(super) hosts: Option<Hosts>,
    pub(super) device: Device,
    /// It runs a program of its own.
    pub(super) is_command: bool,
    /// Of its group.
    pub(super) limit: Option<(String, u32)>,
    /// The worker that has the checkpoint, by name: while it is known, rank 0 runs there or waits.
    pub(super) home: Option<String>,
    /// The worker that broke the last attempt off, or the last two that something broke off.
    pub(super) avoid: Option<Uuid>,
    /// It were two: fewer ranks are better than a third time.
    pub(super) is_repeated: bool,
}

impl Wish {
    pub(super) fn of(job: &Job) -> Self {
        let submission = &job.submission;
        let spec = &submission.spec;
        // Where the checkpoint lies on one worker's own disk, rank 0 has to read it there.
        let home = match job.latest_checkpoint().filter(|_| job.attempt().is_some()) {
            Some(whole) => whole.worker.clone(),
            None => submission.origin.as_ref().and_then(|origin| origin.holder.clone()),
        };
        let overs = job.attempts.iter().rev().filter_map(|attempt| attempt.over.as_deref());
        let mut blamed = overs.filter(|over| over.class.is_fault()).map(|over| over.implicates);
        let (last, before) = (blamed.next().flatten(), blamed.next().flatten());
        let is_repeated = last.is_some() && last == before;
        let just_now = || job.attempt().and_then(|attempt| attempt.over.as_ref()?.implicates);
        let avoid = if is_repeated { last } else { just_now() };
        let limit = submission.group.as_ref().and_then(|g| Some((g.name.clone(), g.max_running?)));
        let resources = &spec.resources;
        Self {
            worlds: Worlds::of(spec),
            threads: resources.threads_per_rank.max(1),
            max_workers: resources.workers,
            hosts: resources.hosts.clone(),
            device: resources.device,
            is_command: spec.brings_code(),
            limit,
            home,
            avoid,
            is_repeated,
        }
    }

    /// Whether the same workers could serve both.
    pub(super) fn competes(&self, other: &Self) -> bool {
        [true, false].iter().any(|kind| self.accepts(*kind) && other.accepts(*kind))
    }

    /// Where in the list rank 0 has to be. One that has not told what it has may yet be of use.
    fn home_in(&self, offers: &[Offer]) -> Option<usize> {
        let home = self.home.as_deref()?;
        let is_home = |o: &Offer| &*o.name == home && (self.accepts(o.is_cuda) || o.slots == 0);
        offers.iter().position(is_home)
    }

    /// Whether rank 0 has to be there, whatever speaks against it.
    pub(super) fn is_home(&self, offer: &Offer) -> bool {
        self.home.as_deref() == Some(&*offer.name)
    }

    /// Slots of one rank: where a slot is a GPU a rank has one, whatever its threads.
    pub(super) fn slots_of_rank(&self, is_cuda: bool) -> u32 {
        if is_cuda { 1 } else { self.threads }
    }

    /// Whether workers of this kind could take part.
    pub(super) fn accepts(&self, is_cuda: bool) -> bool {
        match self.device {
            Device::Auto => true,
            Device::Cpu => !is_cuda,
            Device::Cuda => is_cuda,
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Place(Vec<Placement>),
    /// Not now; the cluster could.
    Busy(SlotShortage),
    /// Not with the workers that are here.
    TooLarge(SlotShortage),
}

impl Verdict {
    /// How many ranks have places.
    pub(super) fn ranks(&self) -> usize {
        match self {
            Self::Place(places) => places.len(),
            Self::Busy(_) | Self::TooLarge(_) => 0,
        }
    }
}

/// Finds places for every rank, or says why there are none.
pub(super) fn place(wish: &Wish, offers: &[Offer]) -> Verdict {
    if let Some(home) = wish.home_in(offers) {
        let home = &offers[home];
        let group: Vec<&Offer> = offers.iter().filter(|o| o.is_cuda == home.is_cuda).collect();
        return place_in_group(wish, &group, Some(home));
    }
    let groups = groups(wish.device, offers);
    let mut waiting = None;
    for group in groups {
        match place_in_group(wish, &group, None) {
            Verdict::Place(places) => return Verdict::Place(places),
            // A group that is only busy is a better hope than one that is too small.
            busy @ Verdict::Busy(_) => {
                waiting = Some(busy);
            }
            other => {
                waiting.get_or_insert(other);
            }
        }
    }
    waiting.unwrap_or_else(|| place_in_group(wish, &[], None))
}

/// A job's ranks are all on one kind of device; `auto` prefers GPUs.
fn groups(device: Device, offers: &[Offer]) -> Vec<Vec<&Offer>> {
    let of = |is_cuda: bool| offers.iter().filter(|o| o.is_cuda == is_cuda).collect();
    let kinds: Vec<Vec<&Offer>> = match device {
        Device::Auto => vec![of(true), of(false)],
        Device::Cpu => vec![of(false)],
        Device::Cuda => vec![of(true)],
    };
    kinds.into_iter().filter(|group| !group.is_empty()).collect()
}

fn place_in_group(wish: &Wish, offers: &[&Offer], home: Option<&Offer>) -> Verdict {
    let is_cuda = offers.first().map_or(wish.device == Device::Cuda, |offer| offer.is_cuda);
    let threads = wish.slots_of_rank(is_cuda);
    let max_workers = wish.max_workers.map_or(usize::MAX, |max| max as usize);
    let idle_ranks = |o: &Offer| o.idle.len() as u32 / threads;
    let fits_now = room(offers, max_workers, home, idle_ranks);
    if let Some(world) = wish.worlds.largest(fits_now) {
        let capacities = capacities(offers, max_workers, home, idle_ranks);
        return Verdict::Place(match home {
            Some(_) => give(offers, in_order(&capacities, world), threads),
            None => assign(offers, &capacities, world, threads),
        });
    }
    let fits_idle = room(offers, max_workers, home, |o| o.slots / threads);
    let (smallest, is_fixed) = (wish.worlds.smallest(), wish.worlds.is_fixed());
    let shortage = SlotShortage {
        ranks: (is_fixed || smallest > 1).then_some(smallest),
        or_more: !is_fixed,
        slots_per_rank: threads,
        max_workers: wish.max_workers,
        device: wish.device,
        fits_now,
        fits_idle,
        idle_slots: offers.iter().map(|o| o.idle.len() as u32).sum(),
        slots: offers.iter().map(|o| o.slots).sum(),
        workers: offers.len() as u32,
        drained: 0,
        without_commands: 0,
        home: home.map(|home| home.name.to_string()),
        hosts: None,
    };
    match wish.worlds.largest(fits_idle) {
        None => Verdict::TooLarge(shortage),
        Some(_) => Verdict::Busy(shortage),
    }
}

/// Ranks that fit on at most `max_workers`, of which the home is one; without room there it is none.
/// The order of workers matters only where the number bounds.
fn room(
    offers: &[&Offer],
    max_workers: usize,
    home: Option<&Offer>,
    ranks_of: impl Fn(&Offer) -> u32,
) -> u32 {
    let sum = |sum: u32, ranks: u32| sum.saturating_add(ranks);
    if home.is_some_and(|home| ranks_of(home) == 0) {
        return 0;
    }
    if max_workers >= offers.len() {
        return offers.iter().map(|o| ranks_of(o)).fold(0, sum);
    }
    let capacities = capacities(offers, max_workers, home, ranks_of);
    capacities.into_iter().map(|(_, ranks)| ranks).fold(0, sum)
}

/// Ranks that each worker can hold, the home first, then the largest, at most `max_workers` of them.
fn capacities(
    offers: &[&Offer],
    max_workers: usize,
    home: Option<&Offer>,
    ranks_of: impl Fn(&Offer) -> u32,
) -> Vec<(usize, u32)> {
    let mut all: Vec<(usize, u32)> =
        offers.iter().map(|o| ranks_of(o)).enumerate().filter(|(_, ranks)| *ranks > 0).collect();
    let is_elsewhere = |index: usize| home.is_some_and(|home| offers[index].id != home.id);
    all.sort_by(|a, b| {
        let home_first = is_elsewhere(a.0).cmp(&is_elsewhere(b.0));
        home_first.then(b.1.cmp(&a.1)).then_with(|| in_turn(offers[a.0], offers[b.0]))
    });
    all.truncate(max_workers);
    all
}

/// Gives out `world` ranks; `capacities` hold at least as many.
fn assign(
    offers: &[&Offer],
    capacities: &[(usize, u32)],
    world: u32,
    threads: u32,
) -> Vec<Placement> {
    let mut taken: Vec<(usize, u32)> = Vec::new();
    let mut left = world;
    for (position, (index, capacity)) in capacities.iter().enumerate() {
        // The smallest worker that holds the whole rest: large gaps stay whole for large jobs.
        // Capacities descend, so it is the last one that is large enough; among equals the first
        // in turn.
        if *capacity >= left {
            let rest = &capacities[position..];
            let smallest = rest.iter().filter(|(_, c)| *c >= left).map(|(_, c)| *c).min();
            let best = rest.iter().find(|(_, c)| Some(*c) == smallest).unwrap_or(&rest[0]);
            taken.push((best.0, left));
            break;
        }
        taken.push((*index, *capacity));
        left -= capacity;
    }
    taken.sort_by(|a, b| in_turn(offers[a.0], offers[b.0]));
    give(offers, taken, threads)
}

/// Ranks are numbered in the order of the job's hosts, then of names.
fn in_turn(a: &Offer, b: &Offer) -> Ordering {
    a.order.cmp(&b.order).then_with(|| a.name.cmp(&b.name))
}

/// As many of `world` ranks on each as it holds; `capacities` hold at least as many.
fn in_order(capacities: &[(usize, u32)], world: u32) -> Vec<(usize, u32)> {
    let mut left = world;
    let mut taken = Vec::new();
    for (index, capacity) in capacities {
        let ranks = left.min(*capacity);
        if ranks > 0 {
            taken.push((*index, ranks));
        }
        left -= ranks;
    }
    taken
}

/// Ranks and slots, in the order of `taken`.
fn give(offers: &[&Offer], taken: Vec<(usize, u32)>, threads: u32) -> Vec<Placement> {
    let mut places = Vec::new();
    for (index, ranks) in taken {
        let offer = offers[index];
        for slots in offer.idle.chunks_exact(threads as usize).take(ranks as usize) {
            places.push(Placement {
                worker: offer.id,
                worker_name: offer.name.to_string(),
                slots: slots.to_vec(),
            });
        }
    }
    places
}
