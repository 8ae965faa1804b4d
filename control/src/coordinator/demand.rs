//! What the jobs that wait would need of SLURM: they are placed, in the order of service, on what is
//! idle, on the nodes that were asked for and have not come, and where that does not do on nodes that
//! a pool could ask for. Pure arithmetic; asks for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use common::ids::{Incarnation, WorkerId};
use common::slurm::allocation::AllocationName;
use common::slurm::pool::{Pool, PoolName};
use common::spec::NodeNames;

use crate::coordinator::floor::Scene;
use crate::coordinator::hosts::place_on_hosts;
use crate::coordinator::placement::{Offer, Verdict, Wish};
use crate::coordinator::record::Placement;

/// What a pool may still ask for.
#[derive(Debug)]
pub(super) struct Room<'a> {
    pub(super) name: &'a PoolName,
    pub(super) pool: &'a Pool,
    pub(super) nodes: u32,
    pub(super) allocations: u32,
}

/// One decision's look at all that wait.
pub(super) struct Demand<'a> {
    offers: Vec<Offer>,
    groups: BTreeMap<String, u32>,
    rooms: Vec<Room<'a>>,
    /// Of whose allocation a node is.
    owners: BTreeMap<Uuid, AllocationName>,
    invented: u128,
    allows_commands: bool,
    /// Nodes of one allocation each.
    pub(super) asks: Vec<(PoolName, u32)>,
    /// Allocations on whose nodes a waiting job will run.
    pub(super) needed: BTreeSet<AllocationName>,
}

impl<'a> Demand<'a> {
    /// `owners` are the workers of pools' allocations that are there.
    pub(super) fn new(
        scene: &Scene,
        rooms: Vec<Room<'a>>,
        owners: BTreeMap<Uuid, AllocationName>,
        allows_commands: bool,
    ) -> Self {
        let (offers, groups) = (scene.offers.clone(), scene.groups.clone());
        let (asks, needed) = (Vec::new(), BTreeSet::new());
        Self { offers, groups, rooms, owners, invented: 0, allows_commands, asks, needed }
    }

    /// Nodes that were asked for and have not joined.
    pub(super) fn expect(&mut self, name: &AllocationName, nodes: u32, slots: u32) {
        for offer in self.invent(nodes, slots) {
            self.owners.insert(offer.id.uuid, name.clone());
            self.offers.push(offer);
        }
    }

    /// Nothing more can be asked for, and nothing that comes can be needed.
    pub(super) fn is_over(&self) -> bool {
        let may_ask = |room: &Room<'_>| room.nodes > 0 && room.allocations > 0;
        !self.rooms.iter().any(may_ask) && self.offers.iter().all(|offer| offer.idle.is_empty())
    }

    /// Finds the next waiting job its nodes.
    pub(super) fn serve(&mut self, wish: &Wish) {
        if let Some((group, max)) = &wish.limit {
            let running = self.groups.entry(group.clone()).or_default();
            if *running >= *max {
                return;
            }
            *running += 1;
        }
        if let Verdict::Place(places) = place_on_hosts(wish, &self.offers) {
            return self.take(&places);
        }
        for index in 0..self.rooms.len() {
            let Some((nodes, places)) = self.try_room(index, wish) else { continue };
            let slots = self.rooms[index].pool.request.cpus_per_task;
            // The same that the try has seen: numbers go on where they were.
            let offers = self.invent(nodes, slots);
            self.offers.extend(offers);
            self.take(&places);
            let room = &mut self.rooms[index];
            room.nodes -= nodes;
            room.allocations -= 1;
            self.asks.push((room.name.clone(), nodes));
            return;
        }
    }

    /// The fewest nodes of this pool with which the job has as many ranks as it can have, and its
    /// places then.
    fn try_room(&self, index: usize, wish: &Wish) -> Option<(u32, Vec<Placement>)> {
        let Room { pool, nodes, allocations, .. } = &self.rooms[index];
        let (least, asked) = (pool.request.nodes, wish.worlds.asked());
        if *allocations == 0 || *nodes < least {
            return None;
        }
        let most = (*nodes).min(asked).max(least);
        let slots = pool.request.cpus_per_task;
        let with = |count: u32| {
            let mut offers = self.offers.clone();
            offers.extend(invented(self.invented, count, slots, self.allows_commands));
            match place_on_hosts(wish, &offers) {
                Verdict::Place(places) => Some(places),
                Verdict::Busy(_) | Verdict::TooLarge(_) => None,
            }
        };
        let mut best = (most, with(most)?);
        let (ranks, mut low) = (best.1.len().min(asked as usize), least);
        while low < best.0 {
            let middle = low + (best.0 - low) / 2;
            match with(middle).filter(|places| places.len() >= ranks) {
                Some(places) => best = (middle, places),
                None => low = middle + 1,
            }
        }
        Some(best)
    }

    fn take(&mut self, places: &[Placement]) {
        for place in places {
            if let Some(owner) = self.owners.get(&place.worker.uuid) {
                self.needed.insert(owner.clone());
            }
            let offer = self.offers.iter_mut().find(|offer| offer.id == place.worker);
            if let Some(offer) = offer {
                offer.idle.retain(|slot| !place.slots.contains(slot));
            }
        }
    }

    fn invent(&mut self, nodes: u32, slots: u32) -> Vec<Offer> {
        let offers = invented(self.invented, nodes, slots, self.allows_commands);
        self.invented += u128::from(nodes);
        offers
    }
}

/// Whether a pool's nodes, all of them, could hold a job.
pub(super) fn could_hold(wish: &Wish, nodes: u32, slots: u32) -> bool {
    let offers = invented(0, nodes.min(wish.worlds.smallest()), slots, true);
    matches!(place_on_hosts(wish, &offers), Verdict::Place(_))
}

/// Nodes that are not there: numbers from above, where no worker's own is.
fn invented(from: u128, nodes: u32, slots: u32, allows_commands: bool) -> Vec<Offer> {
    let node = Arc::new(NodeNames::new("", "", ""));
    let offer = |number: u32| Offer {
        id: WorkerId {
            uuid: Uuid::from_u128(u128::MAX - from - u128::from(number)),
            incarnation: Incarnation(0),
        },
        name: format!("~{}", from + u128::from(number)).into(),
        node: Arc::clone(&node),
        order: 0,
        is_cuda: false,
        width: slots,
        slots,
        idle: (0..slots).collect(),
        held: Vec::new(),
        kept: BTreeSet::new(),
        is_trusted: true,
        allows_commands,
    };
    (0..nodes).map(offer).collect()
}
