//! How long a run will be, where that is known before it starts: samples, steps of an epoch,
//! steps of a job. Arithmetic only.

use crate::batch;
use crate::spec::{Data, DataSource, JobSpec, Schedule};

/// Samples to train on, where the job alone tells (a file must be read first).
pub(crate) fn training_samples(data: &Data) -> Option<u64> {
    match &data.source {
        DataSource::Sine { samples, .. } => Some(u64::from(*samples)),
        DataSource::SyntheticTimeseries { samples, split, .. } => {
            let [train, _, _] = split_rows(u64::from(*samples), *split);
            Some(windows(train, data.window?, data.horizon?))
        }
        DataSource::Csv { .. } | DataSource::Digits { .. } => None,
    }
}

/// Rows of the training, validation and test part. Boundaries are rounded shares of the whole, so
/// that no row is lost; a part of 0 stays empty.
pub(crate) fn split_rows(rows: u64, split: [f64; 3]) -> [u64; 3] {
    let boundary = |share: f64| ((rows as f64) * share).round() as u64;
    let [train, validation, test] = split;
    let first = if validation + test > 0.0 { boundary(train).min(rows) } else { rows };
    let second = match (validation > 0.0, test > 0.0) {
        (_, false) => rows,
        (false, true) => first,
        (true, true) => boundary(train + validation).min(rows),
    };
    [first, second - first, rows - second]
}

/// Samples of a part: each takes `window` rows and the `horizon` rows after them.
pub(crate) fn windows(rows: u64, window: u32, horizon: u32) -> u64 {
    (rows + 1).saturating_sub(u64::from(window) + u64::from(horizon))
}

/// Optimizer steps of one pass over `samples`.
pub(crate) fn steps_per_epoch(samples: u64, batch_size: u64, drop_last: bool) -> u64 {
    if drop_last { samples / batch_size } else { samples.div_ceil(batch_size) }
}

/// Optimizer steps of a job that trains on `samples`, early stopping aside.
pub(crate) fn total_steps(spec: &JobSpec, samples: u64, batch_size: u64) -> u64 {
    let per_epoch = steps_per_epoch(samples, batch_size, spec.data.drop_last);
    let by_epochs = per_epoch.saturating_mul(u64::from(spec.training.epochs));
    spec.training.max_steps.map_or(by_epochs, |max| max.min(by_epochs))
}

/// What is doubtful about a schedule in a run of `total` steps.
pub(crate) fn schedule_warning(schedule: &Schedule, total: u64) -> Option<String> {
    let (_, warmup) = schedule.warmup()?;
    let asked_total = schedule.total_steps();
    let end = asked_total.map_or(total, |asked| asked.min(total));
    (warmup > end).then(|| {
        format!(
            "the warm-up of {warmup} steps is longer than the run of {end}: \
             the learning rate never reaches its peak; lower warmup_num_steps"
        )
    })
}

/// Whether whoever reads the job file is told already, so that the run need not say it again.
pub fn is_told_before_start(spec: &JobSpec) -> bool {
    !warnings(spec, spec.resources.world_size).is_empty()
}

pub(crate) fn warnings(spec: &JobSpec, world: Option<u32>) -> Vec<String> {
    let Some(samples) = training_samples(&spec.data) else { return Vec::new() };
    // T is the same for every world where it is given, which is the usual case.
    let Ok(plan) = batch::plan(&spec.training.batch, world.unwrap_or(1)) else {
        return Vec::new();
    };
    let batch_size = plan.batch_size.value;
    if world.is_none() && spec.training.batch.batch_size.is_none() {
        return Vec::new();
    }
    if samples < batch_size && spec.data.drop_last {
        return vec![format!(
            "{samples} samples are fewer than one batch of {batch_size}: \
             with data.drop-last nothing is trained"
        )];
    }
    let total = total_steps(spec, samples, batch_size);
    schedule_warning(&spec.training.schedule, total).into_iter().collect()
}

#[cfg(test)]
mod tests;
