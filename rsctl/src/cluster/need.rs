//! Whether a job can go on with what is left of a private cluster. Pure.

use common::spec::Resources;

/// What a job needs to start at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    ranks: u32,
    /// Slots of each rank.
    threads: u32,
    /// Workers that it uses at most.
    workers: usize,
}

impl Need {
    pub(crate) fn of(resources: &Resources) -> Self {
        Self {
            ranks: resources.smallest_world(),
            threads: resources.threads_per_rank.max(1),
            workers: resources.workers.map_or(usize::MAX, |workers| workers as usize),
        }
    }

    /// Of workers with so many slots each: a rank is on one of them.
    pub(crate) fn is_met(self, slots: impl Iterator<Item = u32>) -> bool {
        let mut ranks: Vec<u32> = slots.map(|slots| slots / self.threads).collect();
        ranks.sort_unstable_by(|a, b| b.cmp(a));
        let room = ranks.iter().take(self.workers).fold(0_u32, |sum, of| sum.saturating_add(*of));
        room >= self.ranks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_needs_room_for_its_smallest_world_on_the_workers_that_it_uses() {
        let need = Need { ranks: 2, threads: 2, workers: usize::MAX };
        assert!(need.is_met([2, 2].into_iter()) && need.is_met([1, 4].into_iter()));
        assert!(!need.is_met([3].into_iter()), "no half rank");
        assert!(!need.is_met([3, 1, 1].into_iter()), "no rank on two workers");
        let on_one = Need { workers: 1, ..need };
        assert!(!on_one.is_met([2, 2].into_iter()) && on_one.is_met([2, 4].into_iter()));
        assert!(!need.is_met([].into_iter()));
    }
}
