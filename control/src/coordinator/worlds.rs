//! How many ranks a job's attempt may have: the number that it names, any number, or, of an elastic
//! job, what its bounds and its batch allow. Pure.

use common::batch;
use common::spec::{BatchMismatch, JobSpec};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worlds {
    least: u32,
    /// No world is larger; the batch must be cut for it.
    most: u32,
    /// Where a batch must be cut evenly: the worlds between the bounds that do, ascending.
    even: Option<Vec<u32>>,
    /// Where ranks are got for it: the most that it names, else the fewest that it can have.
    asked: u32,
}

impl Worlds {
    pub(super) fn of(spec: &JobSpec) -> Self {
        let (resources, batch) = (&spec.resources, &spec.training.batch);
        if let Some(world) = resources.world_size {
            return Self { least: world, most: world, even: None, asked: world };
        }
        let least = resources.smallest_world();
        let total = batch.batch_size.as_ref().map(|t| u32::try_from(t.value).unwrap_or(u32::MAX));
        let most = resources.max_ranks.unwrap_or(u32::MAX).min(total.unwrap_or(u32::MAX));
        let is_strict = resources.is_elastic() && batch.mismatch == BatchMismatch::Error;
        let even = is_strict.then(|| batch::worlds(batch, least, resources.max_ranks).collect());
        let asked = resources.max_ranks.unwrap_or(least);
        Self { least, most: most.max(least), even, asked }
    }

    /// Ranks that are worth asking SLURM for.
    pub(super) fn asked(&self) -> u32 {
        self.asked.max(self.smallest())
    }

    /// Whether the job names one number.
    pub(super) fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    pub(super) fn smallest(&self) -> u32 {
        self.even.as_ref().and_then(|even| even.first()).copied().unwrap_or(self.least)
    }

    /// The largest for which there is room; None: not even the smallest has.
    pub(super) fn largest(&self, room: u32) -> Option<u32> {
        match &self.even {
            Some(even) => even.iter().copied().rfind(|world| *world <= room),
            None => (room >= self.least).then(|| room.min(self.most)),
        }
    }

    /// The largest of all, where there is a bound.
    pub(super) fn goal(&self) -> Option<u32> {
        self.largest(u32::MAX).filter(|most| *most < u32::MAX)
    }
}
