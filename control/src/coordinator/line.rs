//! The jobs that wait for slots, in the order in which they are served, and grouped by what they
//! want: of equal wishes only the first is looked at, so that a decision costs as much as there
//! are different wishes and not as much as there are jobs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use common::ids::JobId;

use crate::coordinator::ledger::Job;
use crate::coordinator::placement::Wish;

/// A job's place in the order of service: by priority, then by submission; one that yielded is
/// behind those that were there by then. No two are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    priority: Reverse<i32>,
    place: u64,
    number: u64,
}

impl Turn {
    pub(super) fn of(job: &Job) -> Self {
        let priority = Reverse(job.submission.spec.job.priority);
        Self { priority, place: job.behind.unwrap_or(job.number), number: job.number }
    }
}

#[derive(Debug, Default)]
pub(super) struct Line {
    jobs: BTreeMap<Turn, JobId>,
    entries: BTreeMap<JobId, (Turn, Arc<Wish>)>,
    by_wish: BTreeMap<Arc<Wish>, BTreeSet<Turn>>,
    /// The first of every wish.
    heads: BTreeMap<Turn, Arc<Wish>>,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn get(&self, job_id: &JobId) -> Option<&(Turn, Arc<Wish>)> {
        self.entries.get(job_id)
    }

    pub(super) fn insert(&mut self, job_id: JobId, turn: Turn, wish: Wish) {
        self.remove(&job_id);
        let wish = match self.by_wish.get_key_value(&wish) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(wish),
        };
        let turns = self.by_wish.entry(Arc::clone(&wish)).or_default();
        let head = turns.first().copied();
        turns.insert(turn);
        if head.is_none_or(|head| turn < head) {
            if let Some(head) = head {
                self.heads.remove(&head);
            }
            self.heads.insert(turn, Arc::clone(&wish));
        }
        self.jobs.insert(turn, job_id.clone());
        self.entries.insert(job_id, (turn, wish));
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, job_id: &JobId) -> bool {
        let Some((turn, wish)) = self.entries.remove(job_id) else { return false };
        self.jobs.remove(&turn);
        self.heads.remove(&turn);
        if let Some(turns) = self.by_wish.get_mut(&wish) {
            turns.remove(&turn);
            match turns.first() {
                Some(next) => {
                    self.heads.insert(*next, wish);
                }
                None => {
                    self.by_wish.remove(&wish);
                }
            }
        }
        true
    }

    /// What all jobs want, in their order.
    pub(super) fn wishes(&self) -> impl Iterator<Item = &Arc<Wish>> {
        self.jobs.values().filter_map(|job_id| Some(&self.entries.get(job_id)?.1))
    }

    /// The next job, after this turn, that is the first of its wish.
    pub(super) fn head_after(&self, turn: Option<Turn>) -> Option<(Turn, &JobId, &Arc<Wish>)> {
        let from = turn.map_or(Bound::Unbounded, Bound::Excluded);
        let (turn, wish) = self.heads.range((from, Bound::Unbounded)).next()?;
        Some((*turn, &self.jobs[turn], wish))
    }
}
