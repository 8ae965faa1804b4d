//! Steps that were made again after a restart: what an older attempt told of them is void.

use std::collections::BTreeMap;

use proto::v1;

/// The first step that each attempt of a job told of. Attempts continue at a checkpoint, so it is
/// where their history leaves that of the ones before.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    /// By generation.
    first_steps: BTreeMap<u64, u64>,
}

impl Histories {
    pub(crate) fn see(&mut self, job: &v1::JobBulk) {
        let steps = job.metrics.iter().flat_map(|series| &series.points).map(|point| point.step);
        if let Some(first) = steps.min() {
            let known = self.first_steps.entry(job.generation).or_insert(first);
            *known = first.min(*known);
        }
    }

    /// Takes away the points of steps that a later attempt made again.
    pub(crate) fn cut(&self, job: &mut v1::JobBulk) {
        let later = self.first_steps.range(job.generation + 1..);
        let Some(end) = later.map(|(_, first)| *first).min() else { return };
        for series in &mut job.metrics {
            series.points.retain(|point| point.step < end);
        }
        job.metrics.retain(|series| !series.points.is_empty());
    }
}
