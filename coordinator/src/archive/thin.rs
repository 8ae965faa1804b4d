//! Makes a journal of metrics smaller: every second point of each long series goes. What is long
//! depends on how many series share the file: at least a quarter of a file of longer series goes,
//! whether one rank made it or thousands did.

use std::collections::BTreeMap;
use std::io;

use proto::v1;

use crate::archive::journal::Journal;
use crate::archive::superseded::Histories;

/// Short series (validation losses) stay whole, unless they are what fills the file.
pub(super) const KEEP_ALL_BELOW: usize = 1000;

pub(super) fn thin(journal: &mut Journal) -> io::Result<()> {
    let mut entries = journal.entries()?;
    let mut histories = Histories::default();
    entries.iter().flat_map(|entry| &entry.jobs).for_each(|job| histories.see(job));
    entries.iter_mut().flat_map(|entry| &mut entry.jobs).for_each(|job| histories.cut(job));
    let mut lengths: BTreeMap<(String, u32), usize> = BTreeMap::new();
    for series in series_of(&mut entries) {
        *lengths.entry((series.name.clone(), series.rank)).or_default() += series.points.len();
    }
    // Series longer than half the mean hold at least half of all points.
    let half_mean = lengths.values().sum::<usize>() / (2 * lengths.len().max(1));
    let keep_all_below = KEEP_ALL_BELOW.min(half_mean);
    let mut seen: BTreeMap<(String, u32), usize> = BTreeMap::new();
    for series in series_of(&mut entries) {
        let key = (series.name.clone(), series.rank);
        let length = lengths.get(&key).copied().unwrap_or(0);
        let position = seen.entry(key).or_default();
        series.points.retain(|_| {
            let at = *position;
            *position += 1;
            length < keep_all_below || at.is_multiple_of(2) || at + 1 == length
        });
    }
    for job in entries.iter_mut().flat_map(|entry| &mut entry.jobs) {
        job.metrics.retain(|series| !series.points.is_empty());
    }
    entries.retain(|entry| entry.jobs.iter().any(|job| !job.metrics.is_empty()));
    journal.rewrite(&entries)
}

fn series_of(entries: &mut [v1::BulkBatch]) -> impl Iterator<Item = &mut v1::MetricSeries> {
    entries.iter_mut().flat_map(|entry| &mut entry.jobs).flat_map(|job| &mut job.metrics)
}
