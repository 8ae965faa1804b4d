//! Why queued jobs wait, as of the last decision. One value for all of them, whose readers work
//! out the reason of the job that they ask about: a decision among 100,000 jobs writes nothing per
//! job.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::ids::JobId;
use common::spec::NodeNames;
use common::status::{SlotShortage, UnixMillis, WaitReason, Waiting};

use crate::coordinator::floor::Scene;
use crate::coordinator::hosts::place_on_hosts;
use crate::coordinator::line::Turn;
use crate::coordinator::placement::{Offer, Verdict, Wish};
use crate::coordinator::pools::PoolNote;

/// A job that waits for its start, as its readers need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub turn: Turn,
    pub(super) wish: Arc<Wish>,
    /// Of one that is not in line: why, and until when at least.
    pub(super) apart: Option<(WaitReason, Option<UnixMillis>)>,
}

/// A job for which slots are kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blocker {
    pub(super) turn: Turn,
    pub(super) job_id: JobId,
    pub(super) wish: Arc<Wish>,
    /// None: the running jobs that it waits for have not said when they end.
    pub(super) start: Option<UnixMillis>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Board {
    /// In the order of service.
    blockers: Vec<Blocker>,
    offers: Vec<Offer>,
    /// Workers that were taken out of service.
    drained: Vec<Drained>,
    /// Jobs that run, by group.
    groups: BTreeMap<String, u32>,
    pools: Vec<PoolNote>,
}

/// A worker that was taken out of service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drained {
    pub(super) is_cuda: bool,
    pub(super) node: Arc<NodeNames>,
}

impl Board {
    pub(super) fn new(blockers: Vec<Blocker>, scene: Scene, pools: Vec<PoolNote>) -> Self {
        let Scene { offers, drained, groups } = scene;
        Self { blockers, offers, drained, groups, pools }
    }

    pub(super) fn has_blockers(&self) -> bool {
        !self.blockers.is_empty()
    }

    /// Why the job waits and how long at least.
    pub fn explain(&self, queued: &Queued) -> Waiting {
        let mut waiting = self.explain_without_pools(queued);
        let is_for_slots = matches!(
            waiting.reason,
            WaitReason::Slots(_) | WaitReason::TooLarge(_) | WaitReason::Behind { .. }
        );
        for pool in self.pools.iter().filter(|_| is_for_slots) {
            waiting.estimate.push_str("; ");
            waiting.estimate.push_str(&pool.tell(&queued.wish));
        }
        waiting
    }

    fn explain_without_pools(&self, queued: &Queued) -> Waiting {
        if let Some((reason, until)) = &queued.apart {
            return told(reason.clone(), *until, why_apart(reason));
        }
        if let Some(reason) = self.limited(&queued.wish) {
            return told(reason, None, "a job of its group must end first");
        }
        let own = self.blockers.iter().find(|blocker| blocker.turn == queued.turn);
        let competes = |wish: &Wish| {
            wish.competes(&queued.wish) && wish.shares_hosts(&queued.wish, &self.offers)
        };
        let is_ahead = |b: &&Blocker| b.turn < queued.turn && competes(&b.wish);
        let first = self.blockers.iter().find(is_ahead);
        match (place_on_hosts(&queued.wish, &self.offers), own, first) {
            (Verdict::TooLarge(shortage), ..) => {
                let shortage = self.with_drained(shortage, &queued.wish);
                let estimate = match shortage.drained {
                    0 => "not before workers join: the cluster is too small",
                    _ => "not before workers join or are back in service: the cluster is too small",
                };
                told(WaitReason::TooLarge(shortage), None, estimate)
            }
            (Verdict::Busy(shortage), Some(own), _) => {
                let shortage = self.with_drained(shortage, &queued.wish);
                told(WaitReason::Slots(shortage), own.start, own.estimate())
            }
            (_, _, Some(first)) => {
                let start = own.map_or(first.start, |own| own.start);
                let estimate = match first.start {
                    Some(_) => "not before that job, if running jobs end as they say",
                    None => "when that job starts is not known",
                };
                told(WaitReason::Behind { job_id: first.job_id.clone() }, start, estimate)
            }
            // Nothing was idle that could have been kept for it.
            (Verdict::Busy(shortage), None, None) => {
                let shortage = self.with_drained(shortage, &queued.wish);
                told(WaitReason::Slots(shortage), None, "no slots are kept for it yet")
            }
            (Verdict::Place(_), _, None) => {
                told(WaitReason::Undecided, None, "the next decision says")
            }
        }
    }

    fn with_drained(&self, shortage: SlotShortage, wish: &Wish) -> SlotShortage {
        let could_help = |d: &&Drained| wish.accepts(d.is_cuda) && wish.names(&d.node);
        let drained = self.drained.iter().filter(could_help).count() as u32;
        SlotShortage { drained, ..shortage }
    }

    fn limited(&self, wish: &Wish) -> Option<WaitReason> {
        let (group, max) = wish.limit.as_ref()?;
        let running = self.groups.get(group).copied().unwrap_or(0);
        let (group, max) = (group.clone(), *max);
        (running >= max).then_some(WaitReason::GroupLimit { group, running, max })
    }
}

impl Blocker {
    fn estimate(&self) -> &'static str {
        match self.start {
            Some(_) => "if running jobs end as they say",
            None => "running jobs that it waits for have not said when they end",
        }
    }
}

/// When one that is not in line gets there.
fn why_apart(reason: &WaitReason) -> &'static str {
    match reason {
        WaitReason::After { .. } => "the jobs before it have not ended",
        WaitReason::Backoff => "if there is room then",
        WaitReason::GroupLimit { .. } => "a job of its group must end first",
        WaitReason::Allocation { .. } => "SLURM decides when",
        _ => "when that worker has confirmed it, or is lost",
    }
}

fn told(reason: WaitReason, earliest_start: Option<UnixMillis>, estimate: &str) -> Waiting {
    Waiting { reason, ahead: 0, earliest_start, estimate: estimate.to_owned() }
}
