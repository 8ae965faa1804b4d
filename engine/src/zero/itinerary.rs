//! The order in which a pass visits units at stage 3, and with it every gather and every free.
//!
//! Promise: pure, and planned once from sizes that all ranks know, so all ranks gather the same
//! buckets in the same order, also those that have no sample in a pass (A7). Refusal: moves
//! nothing.

/// What bounds the weights that are here, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Another gather starts ahead of its visit while fewer than these are on their way or wait.
    pub(crate) prefetch: usize,
    /// No gather starts ahead of its visit where it would make more than these live.
    pub(crate) max_live: usize,
    /// Weights stay between two visits that have fewer than these between them.
    pub(crate) max_reuse: usize,
}

/// What the plan needs to know of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'a> {
    /// The sharded buckets that each unit needs.
    pub(crate) needs: &'a [Vec<usize>],
    /// Elements, by bucket.
    pub(crate) lens: &'a [usize],
    /// Backward ends with this unit: those before it have nothing to train.
    pub(crate) first_trained: usize,
    pub(crate) bounds: Bounds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// One unit's forward or backward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) unit: usize,
    pub(crate) direction: Direction,
    /// Buckets whose gathers start as it begins, in this order: its own that are not here, then
    /// those of visits ahead.
    pub(crate) fetch: Vec<usize>,
    /// Buckets that must be here before it computes.
    pub(crate) needs: Vec<usize>,
    /// Buckets that go as it ends.
    pub(crate) frees: Vec<usize>,
}

impl Route<'_> {
    pub(crate) fn evaluation(&self) -> Vec<Visit> {
        let forward = (0..self.needs.len()).map(|unit| (unit, Direction::Forward));
        self.plan(&forward.collect::<Vec<_>>())
    }

    pub(crate) fn training(&self) -> Vec<Visit> {
        let forward = (0..self.needs.len()).map(|unit| (unit, Direction::Forward));
        let trained = self.first_trained..self.needs.len();
        let backward = trained.rev().map(|unit| (unit, Direction::Backward));
        self.plan(&forward.chain(backward).collect::<Vec<_>>())
    }

    fn plan(&self, order: &[(usize, Direction)]) -> Vec<Visit> {
        let mut here = vec![false; self.lens.len()];
        let mut visits = Vec::with_capacity(order.len());
        for (at, &(unit, direction)) in order.iter().enumerate() {
            let needs = self.needs[unit].clone();
            let mut fetch: Vec<usize> =
                needs.iter().copied().filter(|&bucket| !here[bucket]).collect();
            fetch.iter().for_each(|&bucket| here[bucket] = true);
            let frees: Vec<usize> =
                needs.iter().copied().filter(|&bucket| !self.stays(bucket, &order[at..])).collect();
            self.fetch_ahead(&order[at..], &frees, &mut here, &mut fetch);
            frees.iter().for_each(|&bucket| here[bucket] = false);
            visits.push(Visit { unit, direction, fetch, needs, frees });
        }
        visits
    }

    /// Whether a bucket of the first visit of `rest` stays here until its next one.
    fn stays(&self, bucket: usize, rest: &[(usize, Direction)]) -> bool {
        let mut between = 0;
        for (unit, _) in &rest[1..] {
            if self.needs[*unit].contains(&bucket) {
                return between < self.bounds.max_reuse;
            }
            between += self.needs[*unit].iter().map(|&bucket| self.lens[bucket]).sum::<usize>();
        }
        false
    }

    /// Gathers ahead of their visits, in the order of the visits.
    fn fetch_ahead(
        &self,
        rest: &[(usize, Direction)],
        frees: &[usize],
        here: &mut [bool],
        fetch: &mut Vec<usize>,
    ) {
        let elements = |here: &[bool], is_counted: &dyn Fn(usize) -> bool| -> usize {
            let counted = (0..here.len()).filter(|&bucket| here[bucket] && is_counted(bucket));
            counted.map(|bucket| self.lens[bucket]).sum()
        };
        let own = &self.needs[rest[0].0];
        for (unit, _) in &rest[1..] {
            for &bucket in &self.needs[*unit] {
                if frees.contains(&bucket) {
                    // It must go before it can come again.
                    return;
                }
                if here[bucket] {
                    continue;
                }
                let ahead = elements(here, &|bucket| !own.contains(&bucket));
                let live = elements(here, &|_| true) + self.lens[bucket];
                if ahead >= self.bounds.prefetch || live > self.bounds.max_live {
                    return;
                }
                here[bucket] = true;
                fetch.push(bucket);
            }
        }
    }
}

#[cfg(test)]
mod tests;
