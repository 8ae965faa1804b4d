//! Workers that broke attempts off: not used while there are others.
//!
//! Promise: a worker that was at fault twice within a day is excluded, and an attempt that one
//! broke off does not go back there, as long as the cluster has room without it. Refusal: a job
//! that only such a worker can run is not kept waiting for ever.

use uuid::Uuid;

use common::status::UnixMillis;

use crate::coordinator::Machine;
use crate::coordinator::placement::{Offer, Verdict, Wish, place};

/// Places without the worker that broke the last attempt off, else without excluded ones, else,
/// where those are all that could, with them.
pub(super) fn place_with_care(wish: &Wish, offers: &[Offer]) -> Verdict {
    let is_all_trusted = offers.iter().all(|offer| offer.is_trusted);
    if is_all_trusted && wish.avoid.is_none() {
        return place(wish, offers);
    }
    let trusted: Vec<Offer> = offers.iter().filter(|offer| offer.is_trusted).cloned().collect();
    if let Some(culprit) = wish.avoid {
        let others: Vec<Offer> =
            trusted.iter().filter(|offer| offer.id.uuid != culprit).cloned().collect();
        if let verdict @ Verdict::Place(_) = place(wish, &others) {
            return verdict;
        }
    }
    match place(wish, &trusted) {
        Verdict::TooLarge(_) if !is_all_trusted => place(wish, offers),
        verdict => verdict,
    }
}

impl Machine {
    /// Whether nothing is placed on the worker while there are others, and until when.
    pub(super) fn excluded_until(&self, uuid: &Uuid, now: UnixMillis) -> Option<UnixMillis> {
        self.ledger.workers.get(uuid).and_then(|worker| worker.excluded_until(now))
    }
}
