//! What a job that names its hosts sees of the cluster: their workers alone, and of each the slots
//! that it may use. A job that names none sees everything. Pure; places nothing.

use std::collections::BTreeSet;

use common::spec::{Host, HostSlots, Hosts, NodeNames};
use common::status::{HostLack, SmallHost};

use crate::coordinator::exclude::place_with_care;
use crate::coordinator::floor::spare_slots;
use crate::coordinator::placement::{Offer, Verdict, Wish};

/// Hosts that a reason names; it is for people.
const MAX_TOLD: usize = 8;

/// Finds places for every rank where the job may be, or says why there are none.
pub(super) fn place_on_hosts(wish: &Wish, offers: &[Offer]) -> Verdict {
    let Some(hosts) = &wish.hosts else { return place_with_care(wish, offers) };
    let seen: Vec<Offer> = offers.iter().filter_map(|offer| wish.sees(offer)).collect();
    match place_with_care(wish, &seen) {
        Verdict::Place(places) => Verdict::Place(places),
        Verdict::Busy(mut shortage) => {
            shortage.hosts = Some(lack(hosts, &seen));
            Verdict::Busy(shortage)
        }
        Verdict::TooLarge(mut shortage) => {
            shortage.hosts = Some(lack(hosts, &seen));
            Verdict::TooLarge(shortage)
        }
    }
}

impl Wish {
    /// Which of its hosts the node is, and that host. None: the job names none, or not this one.
    fn host(&self, node: &NodeNames) -> Option<(usize, &Host)> {
        let hosts = self.hosts.as_ref()?;
        let index = hosts.find(node)?;
        Some((index, hosts.get(index)?))
    }

    /// Whether ranks may be on this node.
    pub(super) fn names(&self, node: &NodeNames) -> bool {
        self.hosts.is_none() || self.host(node).is_some()
    }

    /// The part of the offer that the job may use.
    pub(super) fn sees(&self, offer: &Offer) -> Option<Offer> {
        if self.hosts.is_none() {
            return Some(offer.clone());
        }
        let Some((index, host)) = self.host(&offer.node) else {
            // One that has not come back yet is known by its worker's name alone.
            let may_be_one = offer.width == 0 && self.is_home(offer);
            return may_be_one.then(|| Offer { order: u32::MAX, ..offer.clone() });
        };
        let mut seen = Offer { order: index as u32, ..offer.clone() };
        if let HostSlots::These(numbers) = &host.slots {
            seen.idle.retain(|slot| host.slots.contains(*slot));
            seen.slots = seen.slots.min(free(numbers, offer).len() as u32);
        }
        Some(seen)
    }

    /// Keeps all of the offer that could help the job.
    pub(super) fn keep(&self, offer: &mut Offer) {
        match self.host(&offer.node).map(|(_, host)| &host.slots) {
            Some(HostSlots::These(numbers)) => {
                let kept = free(numbers, offer);
                offer.slots = offer.slots.saturating_sub(kept.len() as u32);
                offer.idle.retain(|slot| !kept.contains(slot));
                offer.kept.extend(kept);
            }
            Some(HostSlots::All) | None => {
                offer.slots = spare_slots(offer, self.slots_of_rank(offer.is_cuda));
            }
        }
        offer.idle.truncate(offer.slots as usize);
    }

    /// Whether a worker could serve both, as far as hosts decide it.
    pub(super) fn shares_hosts(&self, other: &Self, offers: &[Offer]) -> bool {
        let is_open = self.hosts.is_none() && other.hosts.is_none();
        is_open || offers.iter().any(|o| self.names(&o.node) && other.names(&o.node))
    }
}

/// Those of the numbers that the worker has and that are not kept for another job.
fn free(numbers: &[u32], offer: &Offer) -> BTreeSet<u32> {
    let is_free = |slot: &u32| *slot < offer.width && !offer.kept.contains(slot);
    numbers.iter().copied().filter(is_free).collect()
}

/// What the hosts lack, whoever holds their slots.
fn lack(hosts: &Hosts, seen: &[Offer]) -> HostLack {
    let mut widest: Vec<Option<u32>> = vec![None; hosts.iter().len()];
    for offer in seen {
        if let Some(width) = widest.get_mut(offer.order as usize) {
            *width = (*width).max(Some(offer.width));
        }
    }
    let both = || hosts.iter().zip(&widest);
    let missing = || both().filter(|(_, width)| width.is_none()).map(|(host, _)| host.name.clone());
    let small = both().filter_map(|(host, width)| {
        let (slots, named) = ((*width)?, host.slots.least());
        // One that has not come back yet has told no width.
        let is_small = slots > 0 && slots < named;
        is_small.then(|| SmallHost { host: host.name.clone(), slots, named })
    });
    HostLack {
        named: hosts.iter().len() as u32,
        missing: missing().take(MAX_TOLD).collect(),
        missing_count: missing().count() as u32,
        small: small.take(MAX_TOLD).collect(),
    }
}
