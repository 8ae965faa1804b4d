//! Workers that broke attempts off: not used while there are others.
//!
//! Promise: a worker at whose fault two jobs broke off within a day is excluded, and an attempt that
//! one broke off does not go back there, as long as the cluster has room for all its ranks without it.
//! Refusal: a job that only such a worker can run is not kept waiting for ever, and the only worker
//! that has a job's checkpoint is used in any case.

use std::time::Duration;

use uuid::Uuid;

use common::status::UnixMillis;

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::live::Standing;
use crate::coordinator::placement::{Offer, Verdict, Wish, place};

/// Places without the worker that broke the last attempt off, else without excluded ones, else,
/// where those are all that could, with them. The one that has the checkpoint is never left out:
/// another loses all progress.
pub(super) fn place_with_care(wish: &Wish, offers: &[Offer]) -> Verdict {
    let is_all_trusted = offers.iter().all(|offer| offer.is_trusted);
    if is_all_trusted && wish.avoid.is_none() {
        return place(wish, offers);
    }
    let trusted: Vec<Offer> =
        offers.iter().filter(|o| o.is_trusted || wish.is_home(o)).cloned().collect();
    let all = place(wish, &trusted);
    if let Some(culprit) = wish.avoid {
        let is_other = |o: &&Offer| o.id.uuid != culprit || wish.is_home(o);
        let others: Vec<Offer> = trusted.iter().filter(is_other).cloned().collect();
        // A first fault is no reason to go on with fewer ranks.
        let verdict = place(wish, &others);
        if verdict.ranks() > 0 && (wish.is_repeated || verdict.ranks() >= all.ranks()) {
            return verdict;
        }
    }
    match all {
        Verdict::TooLarge(_) if !is_all_trusted => place(wish, offers),
        verdict => verdict,
    }
}

impl Machine {
    /// Whether nothing is placed on the worker while there are others, and until when.
    pub(super) fn excluded_until(&self, uuid: &Uuid, now: UnixMillis) -> Option<UnixMillis> {
        self.ledger.workers.get(uuid).and_then(|worker| worker.excluded_until(now))
    }

    /// When the first exclusion of a worker that is here ends.
    pub(super) fn next_trusted(&self, now: Now) -> Option<Duration> {
        let here = self.live.workers.values().filter(|w| w.standing == Standing::Ready);
        let until = here.filter_map(|w| self.excluded_until(&w.id.uuid, now.unix)).min()?;
        Some(now.uptime + Duration::from_millis(until.saturating_sub(now.unix)))
    }

    /// Jobs that waited for others may use a worker again.
    pub(super) fn tick_exclusions(&mut self, now: Now) {
        if self.live.trusted_at.is_some_and(|at| at <= now.uptime) {
            // The next decision looks for the one after it.
            self.live.trusted_at = None;
            self.out.is_schedule_due = true;
            self.out.workers_changed = true;
        }
    }
}
