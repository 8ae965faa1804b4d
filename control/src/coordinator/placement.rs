//! Where ranks go. Pure: the same offers and the same wish give the same places.
//!
//! All or nothing, on idle slots only, on as few workers as hold them; ranks are numbered through
//! the workers in the order of their names.

use std::fmt;

use common::ids::WorkerId;
use common::spec::{Device, Resources};

use crate::coordinator::record::Placement;

/// What one live worker has.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) id: WorkerId,
    pub(super) name: String,
    pub(super) is_cuda: bool,
    pub(super) slots: u32,
    /// Slot numbers that can be taken now, ascending.
    pub(super) idle: Vec<u32>,
}

/// What a job wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) resources: &'a Resources,
    /// The global batch, where the job fixes it: a world that the job does not name is no larger.
    pub(super) batch_size: Option<u64>,
    /// The worker that should have rank 0, by name.
    pub(super) home: Option<&'a str>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Place(Vec<Placement>),
    /// Not now; the cluster could.
    Busy(Shortage),
    /// Not with the workers that are here.
    TooLarge(Shortage),
}

/// Why a job waits, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shortage {
    /// None: any number of ranks would do.
    world: Option<u32>,
    threads: u32,
    max_workers: Option<u32>,
    device: Device,
    /// Ranks that fit now, and that would fit on an idle cluster.
    fits_now: u32,
    fits_idle: u32,
    idle_slots: u32,
    slots: u32,
    workers: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.world {
            Some(world) => write!(f, "needs {}", count(world, "rank"))?,
            None => f.write_str("needs at least 1 rank")?,
        }
        write!(f, " of {}", count(self.threads, "slot"))?;
        if let Some(max) = self.max_workers {
            write!(f, " on at most {}", count(max, "worker"))?;
        }
        let kind = match self.device {
            Device::Auto => "",
            Device::Cpu => "CPU ",
            Device::Cuda => "CUDA ",
        };
        if self.workers == 0 {
            return write!(f, "; no {kind}worker is connected");
        }
        let (slots, workers) = (count(self.slots, "slot"), count(self.workers as u32, "worker"));
        if self.fits_idle < self.world.unwrap_or(1) {
            let fits = count(self.fits_idle, "such rank");
            return write!(f, "; the cluster has {slots} on {workers}, room for {fits}");
        }
        let (idle, fits) = (self.idle_slots, count(self.fits_now, "such rank"));
        write!(f, "; {idle} of {slots} on {workers} are idle, room for {fits}")
    }
}

fn count(number: u32, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Finds places for every rank, or says why there are none.
pub(super) fn place(wish: &Wish<'_>, offers: &[Offer]) -> Verdict {
    let groups = groups(wish.resources.device, offers);
    let mut waiting = None;
    for group in groups {
        match place_in_group(wish, &group) {
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
    waiting.unwrap_or_else(|| place_in_group(wish, &[]))
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

fn place_in_group(wish: &Wish<'_>, offers: &[&Offer]) -> Verdict {
    let resources = wish.resources;
    let threads = resources.threads_per_rank.max(1);
    let max_workers = resources.workers.map_or(usize::MAX, |max| max as usize);
    let idle_ranks = |o: &Offer| o.idle.len() as u32 / threads;
    let fits_now = room(offers, max_workers, idle_ranks);
    let fits_idle = room(offers, max_workers, |o| o.slots / threads);
    let world = resources.world_size.unwrap_or_else(|| {
        let bound = wish.batch_size.map_or(u32::MAX, |t| u32::try_from(t).unwrap_or(u32::MAX));
        fits_now.min(bound).max(1)
    });
    if fits_now >= world {
        let capacities = capacities(offers, max_workers, idle_ranks);
        return Verdict::Place(match at_home(wish, offers, &capacities, world) {
            Some(taken) => give(offers, taken, threads),
            None => assign(offers, &capacities, world, threads),
        });
    }
    let shortage = Shortage {
        world: resources.world_size,
        threads,
        max_workers: resources.workers,
        device: resources.device,
        fits_now,
        fits_idle,
        idle_slots: offers.iter().map(|o| o.idle.len() as u32).sum(),
        slots: offers.iter().map(|o| o.slots).sum(),
        workers: offers.len(),
    };
    if fits_idle < world { Verdict::TooLarge(shortage) } else { Verdict::Busy(shortage) }
}

/// Ranks that fit on at most `max_workers`. The order of workers matters only where that bounds.
fn room(offers: &[&Offer], max_workers: usize, ranks_of: impl Fn(&Offer) -> u32) -> u32 {
    let sum = |sum: u32, ranks: u32| sum.saturating_add(ranks);
    if max_workers >= offers.len() {
        return offers.iter().map(|o| ranks_of(o)).fold(0, sum);
    }
    capacities(offers, max_workers, ranks_of).into_iter().map(|(_, ranks)| ranks).fold(0, sum)
}

/// Ranks that each worker can hold, largest first, at most `max_workers` of them.
fn capacities(
    offers: &[&Offer],
    max_workers: usize,
    ranks_of: impl Fn(&Offer) -> u32,
) -> Vec<(usize, u32)> {
    let mut all: Vec<(usize, u32)> =
        offers.iter().map(|o| ranks_of(o)).enumerate().filter(|(_, ranks)| *ranks > 0).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| offers[a.0].name.cmp(&offers[b.0].name)));
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
        // by name.
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
    taken.sort_by(|a, b| offers[a.0].name.cmp(&offers[b.0].name));
    give(offers, taken, threads)
}

/// The home first, and the rest by size; None: there is no room at home, or not beside it.
fn at_home(
    wish: &Wish<'_>,
    offers: &[&Offer],
    capacities: &[(usize, u32)],
    world: u32,
) -> Option<Vec<(usize, u32)>> {
    let home = wish.home?;
    let first = *capacities.iter().find(|(index, _)| offers[*index].name == home)?;
    let others = capacities.iter().filter(|(index, _)| *index != first.0);
    let mut left = world;
    let mut taken = Vec::new();
    for (index, capacity) in std::iter::once(&first).chain(others) {
        let ranks = left.min(*capacity);
        if ranks > 0 {
            taken.push((*index, ranks));
        }
        left -= ranks;
    }
    (left == 0).then_some(taken)
}

/// Ranks and slots, in the order of `taken`.
fn give(offers: &[&Offer], taken: Vec<(usize, u32)>, threads: u32) -> Vec<Placement> {
    let mut places = Vec::new();
    for (index, ranks) in taken {
        let offer = offers[index];
        for slots in offer.idle.chunks_exact(threads as usize).take(ranks as usize) {
            places.push(Placement {
                worker: offer.id,
                worker_name: offer.name.clone(),
                slots: slots.to_vec(),
            });
        }
    }
    places
}
