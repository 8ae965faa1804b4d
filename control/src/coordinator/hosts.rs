//! What a job that names its hosts sees of the cluster: their workers alone, and of each the slots
//! that it may use. A job that names none sees everything; one that runs a command, the workers that
//! allow it. Pure; places nothing.

use std::collections::BTreeSet;

use common::spec::{Host, HostSlots, Hosts, NodeNames};
use common::status::{HostLack, SlotShortage, SmallHost};

use crate::coordinator::exclude::place_with_care;
use crate::coordinator::floor::spare_slots;
use crate::coordinator::placement::{Offer, Verdict, Wish};

/// Hosts that a reason names; it is for people.
const MAX_TOLD: usize = 8;

/// Finds places for every rank where the job may be, or says why there are none.
pub(super) fn place_on_hosts(wish: &Wish, offers: &[Offer]) -> Verdict {
    if wish.hosts.is_none() && !wish.is_command {
        return place_with_care(wish, offers);
    }
    let named: Vec<Offer> = offers.iter().filter_map(|offer| wish.sees(offer)).collect();
    let lacks = |shortage: SlotShortage| SlotShortage {
        hosts: wish.hosts.as_ref().map(|hosts| lack(hosts, &named)),
        without_commands: wish.without_commands(&named),
        ..shortage
    };
    let seen: Vec<Offer> = named.iter().filter(|offer| wish.may_run_on(offer)).cloned().collect();
    match place_with_care(wish, &seen) {
        Verdict::Place(places) => Verdict::Place(places),
        Verdict::Busy(shortage) => Verdict::Busy(lacks(shortage)),
        Verdict::TooLarge(shortage) => Verdict::TooLarge(lacks(shortage)),
    }
}

impl Wish {
    /// Which of its hosts the node is, and that host. None: the job names none, or not this one.
    fn host(&self, node: &NodeNames) -> Option<(usize, &Host)> {
        let hosts = self.hosts.as_ref()?;
        let index = hosts.find(node)?;
        Some((index, hosts.get(index)?))
    }

    fn may_run_on(&self, offer: &Offer) -> bool {
        !self.is_command || offer.allows_commands
    }

    /// Workers that could help the job if they ran commands.
    fn without_commands(&self, named: &[Offer]) -> u32 {
        let could_help = |o: &&Offer| !self.may_run_on(o) && self.accepts(o.is_cuda);
        named.iter().filter(could_help).count() as u32
    }

    /// Whether ranks may be on this worker.
    pub(super) fn suits(&self, offer: &Offer) -> bool {
        self.names(&offer.node) && self.may_run_on(offer)
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
        let is_open = |wish: &Self| wish.hosts.is_none() && !wish.is_command;
        let both = || offers.iter().any(|o| self.suits(o) && other.suits(o));
        (is_open(self) && is_open(other)) || both()
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
