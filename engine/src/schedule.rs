//! Learning rates, with DeepSpeed's exact timing: its schedulers are built at t = -1 and stepped
//! once after each update, so update k = 0, 1, 2, ... runs at the value for t = k - 1.
//!
//! Promise: a pure function of the update's index, so a resumed run needs no scheduler state.
//! Refusal: which updates happen is the loop's business.

use common::spec::{self, WarmupShape};

/// A schedule with its run length known.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    base: f64,
    shape: spec::Schedule,
    total_steps: u64,
}

impl Schedule {
    /// `run_steps` is the number of updates that the job can make; a cosine schedule that names no
    /// length of its own ends with it.
    pub(crate) fn new(training: &spec::Training, run_steps: u64) -> Self {
        Self::of(training.optimizer.learning_rate, &training.schedule, run_steps)
    }

    fn of(base: f64, shape: &spec::Schedule, run_steps: u64) -> Self {
        let total_steps = match shape {
            spec::Schedule::WarmupCosineLr { total_steps: Some(total), .. } => *total,
            _ => run_steps,
        };
        Self { base, shape: shape.clone(), total_steps }
    }

    /// The learning rate of update `k`, counted from 0.
    pub(crate) fn rate(&self, k: u64) -> f64 {
        match self.shape {
            spec::Schedule::Constant => self.base,
            spec::Schedule::WarmupLr { min_lr, max_lr, warmup_steps, shape } => {
                let Some(t) = k.checked_sub(1) else { return min_lr };
                min_lr + (max_lr - min_lr) * warmup_progress(t, warmup_steps, shape).unwrap_or(1.0)
            }
            spec::Schedule::WarmupCosineLr {
                warmup_min_ratio,
                cos_min_ratio,
                warmup_steps,
                shape,
                ..
            } => {
                // DeepSpeed starts at 0, whatever the minimal ratio.
                let Some(t) = k.checked_sub(1) else { return 0.0 };
                let ratio = match warmup_progress(t, warmup_steps, shape) {
                    Some(progress) => warmup_min_ratio + (1.0 - warmup_min_ratio) * progress,
                    None => self.cosine_ratio(t, warmup_steps, cos_min_ratio),
                };
                self.base * ratio
            }
        }
    }

    fn cosine_ratio(&self, t: u64, warmup_steps: u64, floor: f64) -> f64 {
        let warmup = effective_warmup(warmup_steps);
        let length = self.total_steps.saturating_sub(warmup).max(1);
        let progress = ((t - warmup + 1) as f64 / length as f64).min(1.0);
        let wave = (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0;
        (floor + (1.0 - floor) * wave).max(0.0)
    }

    /// What a person should know before the run.
    pub(crate) fn warning(&self, run_steps: u64) -> Option<String> {
        let (name, warmup) = match self.shape {
            spec::Schedule::Constant => return None,
            spec::Schedule::WarmupLr { warmup_steps, .. } => ("WarmupLR", warmup_steps),
            spec::Schedule::WarmupCosineLr { warmup_steps, .. } => ("WarmupCosineLR", warmup_steps),
        };
        (effective_warmup(warmup) >= run_steps).then(|| {
            format!(
                "{name} warms up over {warmup} steps, but the run has only {run_steps}: the \
                 learning rate never reaches its peak; lower warmup_num_steps or train longer"
            )
        })
    }
}

/// DeepSpeed never warms up over fewer than two steps.
fn effective_warmup(steps: u64) -> u64 {
    steps.max(2)
}

/// 0..=1 while warming up, None after it.
fn warmup_progress(t: u64, warmup_steps: u64, shape: WarmupShape) -> Option<f64> {
    let warmup = effective_warmup(warmup_steps);
    (t < warmup).then(|| match shape {
        WarmupShape::Log => ((t + 1) as f64).ln() / (warmup as f64).ln(),
        WarmupShape::Linear => t as f64 / warmup as f64,
    })
}

#[cfg(test)]
mod tests;
