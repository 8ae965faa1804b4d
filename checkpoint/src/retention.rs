//! Which checkpoints stay. The plan is pure; carrying it out survives a crash at any point.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::Serialize;

use common::status::CheckpointRow;

use crate::disk;
use crate::error::{Defect, Error};
use crate::fence::{Fence, Locked};
use crate::manifest::MANIFEST_FILE;
use crate::root::{Found, Root, step_of};
use crate::sweep;

/// How many stay for which reason. One checkpoint may be both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub last: u32,
    pub best: u32,
}

/// Why a checkpoint stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The newest of all, which no setting removes.
    Newest,
    Last,
    Best,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub tag: String,
    pub reasons: BTreeSet<Reason>,
}

/// Newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub keep: Vec<Kept>,
    pub remove: Vec<String>,
}

impl Plan {
    /// Retention keeps it as one of the last or the best.
    pub fn is_pinned(&self, tag: &str) -> bool {
        self.keep.iter().any(|kept| kept.tag == tag)
    }
}

/// What retention looks at.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    tag: &'a str,
    step: u64,
    loss: Option<f64>,
    val_loss: Option<f64>,
}

impl<'a> From<&'a Found> for Candidate<'a> {
    fn from(found: &'a Found) -> Self {
        let Found { tag, step, loss, val_loss, .. } = found;
        Self { tag, step: *step, loss: *loss, val_loss: *val_loss }
    }
}

impl<'a> From<&'a CheckpointRow> for Candidate<'a> {
    fn from(row: &'a CheckpointRow) -> Self {
        let CheckpointRow { tag, step, loss, val_loss, .. } = row;
        Self { tag, step: *step, loss: *loss, val_loss: *val_loss }
    }
}

impl Candidate<'_> {
    /// Better first: by validation loss, where none was taken by training loss, then the newer.
    /// One with a validation loss beats one without: their losses are not alike.
    fn by_quality(&self, other: &Self) -> Ordering {
        let rank = |one: &Self| match (one.val_loss, one.loss) {
            (Some(loss), _) if loss.is_finite() => (0, loss),
            (_, Some(loss)) if loss.is_finite() => (1, loss),
            _ => (2, 0.0),
        };
        let ((class_a, loss_a), (class_b, loss_b)) = (rank(self), rank(other));
        class_a.cmp(&class_b).then(loss_a.total_cmp(&loss_b)).then(other.step.cmp(&self.step))
    }
}

pub(crate) fn by_quality(a: &Found, b: &Found) -> Ordering {
    Candidate::from(a).by_quality(&b.into())
}

/// Decides over whole checkpoints only; the newest always stays.
pub fn plan<'a, C: 'a>(found: &'a [C], keep: Keep) -> Plan
where
    Candidate<'a>: From<&'a C>,
{
    let mut newest: Vec<Candidate<'a>> = found.iter().map(Candidate::from).collect();
    newest.sort_by_key(|found| std::cmp::Reverse(found.step));
    let mut best = newest.clone();
    best.sort_by(Candidate::by_quality);
    let first = |list: &[Candidate<'_>], count: u32| -> BTreeSet<u64> {
        list.iter().take(count as usize).map(|found| found.step).collect()
    };
    let (last, best) = (first(&newest, keep.last), first(&best, keep.best));
    let mut plan = Plan { keep: Vec::new(), remove: Vec::new() };
    for (position, found) in newest.iter().enumerate() {
        let mut reasons = BTreeSet::new();
        if position == 0 {
            reasons.insert(Reason::Newest);
        }
        if last.contains(&found.step) {
            reasons.insert(Reason::Last);
        }
        if best.contains(&found.step) {
            reasons.insert(Reason::Best);
        }
        let tag = found.tag.to_owned();
        if reasons.is_empty() {
            plan.remove.push(tag);
        } else {
            plan.keep.push(Kept { tag, reasons });
        }
    }
    plan
}

impl Root {
    /// Removes the checkpoints that a plan names, oldest first; returns their tags. A training
    /// attempt gives its fence and removes nothing once superseded; a person gives none.
    ///
    /// Each loses its manifest first, durably, and so is no checkpoint any more before its shards
    /// go; what a crash leaves then, the next attempt sweeps.
    pub fn prune(&self, plan: &Plan, fence: Option<&Fence>) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for tag in plan.remove.iter().rev() {
            if self.remove(tag, fence)? {
                removed.push(tag.clone());
            }
        }
        if !removed.is_empty() {
            disk::sync_folder(self.path())?;
        }
        Ok(removed)
    }

    fn remove(&self, tag: &str, fence: Option<&Fence>) -> Result<bool, Error> {
        let Some(step) = step_of(tag) else { return Ok(false) };
        let folder = self.folder(step);
        let locked = Locked::take(self.path())?;
        if let Some(fence) = fence {
            locked.check(fence)?;
        }
        let is_link = folder.symlink_metadata().is_ok_and(|found| found.is_symlink());
        if is_link {
            return Err(Error::Defective { path: folder, defect: Defect::Link });
        }
        if !disk::remove_file(&folder.join(MANIFEST_FILE))? {
            return Ok(false);
        }
        disk::sync_folder(&folder)?;
        drop(locked);
        sweep::clear_uncommitted(&folder, |_| true)?;
        Ok(true)
    }
}
