//! Learning rates, with DeepSpeed's exact timing: its schedulers are built at t = -1 and stepped
//! once after each update, so update k = 0, 1, 2, ... runs at the value for t = k - 1. torch's
//! own schedulers set the first value when they are built: update k runs at the value for k.
//!
//! Promise: a pure function of the update's index, so a resumed run needs no scheduler state.
//! Refusal: which updates happen is the loop's business.

use std::f64::consts::PI;

use common::spec::{self, CycledMomentum, WarmupShape};

/// A schedule with its run length known.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    base: f64,
    shape: spec::Schedule,
    total_steps: u64,
}

/// DeepSpeed's second beta while OneCycle moves the first.
const CYCLED_BETA2: f64 = 0.99;

impl Schedule {
    /// `run_steps` is the number of updates that the job can make; a schedule that ends and names
    /// no length of its own ends with it.
    pub(crate) fn new(training: &spec::Training, run_steps: u64) -> Self {
        Self::of(training.optimizer.learning_rate, &training.schedule, run_steps)
    }

    fn of(base: f64, shape: &spec::Schedule, run_steps: u64) -> Self {
        let total_steps = shape.total_steps().unwrap_or(run_steps);
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
            spec::Schedule::WarmupDecayLr { min_lr, max_lr, warmup_steps, shape, .. } => {
                let Some(t) = k.checked_sub(1) else { return min_lr };
                let gamma = warmup_progress(t, warmup_steps, shape)
                    .unwrap_or_else(|| self.left_after_warmup(t, warmup_steps));
                min_lr + (max_lr - min_lr) * gamma
            }
            spec::Schedule::WarmupCosineLr { .. } => self.warmup_cosine(k),
            spec::Schedule::OneCycle { min_lr, max_lr, decay_rate, decay_steps, .. } => {
                let Some(t) = k.checked_sub(1) else { return min_lr };
                match self.cycle_height(t) {
                    Phase::Cycle(height) => min_lr + (max_lr - min_lr) * height,
                    Phase::Decay(steps) => min_lr / decay(decay_rate, decay_steps, steps),
                }
            }
            spec::Schedule::LrRangeTest { min_lr, step_size, step_rate, staircase } => {
                let interval = k as f64 / step_size as f64;
                let interval = if staircase { interval.floor() } else { interval };
                min_lr * (1.0 + step_rate * interval)
            }
            spec::Schedule::Step { step_size, gamma } => {
                self.base * gamma.powf((k / step_size) as f64)
            }
            spec::Schedule::CosineRestarts { first_period, period_factor, min_lr } => {
                let (at, period) = place_in_period(k, first_period, period_factor);
                let wave = (1.0 + (PI * at as f64 / period as f64).cos()) / 2.0;
                min_lr + (self.base - min_lr) * wave
            }
        }
    }

    /// What OneCycle makes of the betas for update `k`; None where they stay as they are.
    pub(crate) fn betas(&self, k: u64) -> Option<[f64; 2]> {
        let spec::Schedule::OneCycle { momentum: Some(momentum), decay_steps, .. } = self.shape
        else {
            return None;
        };
        let CycledMomentum { min, max, decay_rate } = momentum;
        // DeepSpeed starts at the minimum, although the rate is low.
        let beta1 = match k.checked_sub(1).map(|t| self.cycle_height(t)) {
            None => min,
            Some(Phase::Cycle(height)) => max - (max - min) * height,
            Some(Phase::Decay(steps)) => max * decay(decay_rate, decay_steps, steps),
        };
        Some([beta1, CYCLED_BETA2])
    }

    fn warmup_cosine(&self, k: u64) -> f64 {
        let spec::Schedule::WarmupCosineLr {
            warmup_min_ratio,
            cos_min_ratio,
            warmup_steps,
            shape,
            ..
        } = self.shape
        else {
            unreachable!("called for this shape")
        };
        // DeepSpeed starts at 0, whatever the minimal ratio.
        let Some(t) = k.checked_sub(1) else { return 0.0 };
        let ratio = match warmup_progress(t, warmup_steps, shape) {
            Some(progress) => warmup_min_ratio + (1.0 - warmup_min_ratio) * progress,
            None => self.cosine_ratio(t, warmup_steps, cos_min_ratio),
        };
        self.base * ratio
    }

    fn cosine_ratio(&self, t: u64, warmup_steps: u64, floor: f64) -> f64 {
        let warmup = effective_warmup(warmup_steps);
        let length = self.total_steps.saturating_sub(warmup).max(1);
        let progress = ((t - warmup + 1) as f64 / length as f64).min(1.0);
        let wave = (1.0 + (PI * progress).cos()) / 2.0;
        (floor + (1.0 - floor) * wave).max(0.0)
    }

    /// 1 at the end of the warm-up, 0 at the end of the run and after it.
    fn left_after_warmup(&self, t: u64, warmup_steps: u64) -> f64 {
        let length = self.total_steps.saturating_sub(effective_warmup(warmup_steps)).max(1);
        self.total_steps.saturating_sub(t) as f64 / length as f64
    }

    fn cycle_height(&self, t: u64) -> Phase {
        let spec::Schedule::OneCycle {
            first_steps, second_steps, first_stairs, second_stairs, ..
        } = self.shape
        else {
            unreachable!("called for this shape")
        };
        let total = first_steps + second_steps;
        if t >= total {
            return Phase::Decay(t - total + 1);
        }
        let at = (t + 1) % total;
        let (steps, of, stairs) = if at <= first_steps {
            (at, first_steps, first_stairs)
        } else {
            (total - at, second_steps, second_stairs)
        };
        Phase::Cycle(match stairs {
            0 => steps as f64 / of as f64,
            // From whole numbers, so that no rounding loses a stair.
            stairs => (steps as f64 * stairs as f64 / of as f64).floor() / stairs as f64,
        })
    }

    /// What a person should know before the run.
    pub(crate) fn warning(&self, run_steps: u64) -> Option<String> {
        if let Some((name, warmup)) = self.shape.warmup() {
            return (effective_warmup(warmup) >= run_steps).then(|| {
                format!(
                    "{name} warms up over {warmup} steps, but the run has only {run_steps}: the \
                     learning rate never reaches its peak; lower warmup_num_steps or train longer"
                )
            });
        }
        // Where momentum decays it grows, in DeepSpeed too, and nothing there stops it at 1.
        let [beta1, _] = self.betas(run_steps.saturating_sub(1))?;
        (beta1 >= 1.0).then(|| {
            format!(
                "OneCycle: decay_mom_rate raises beta1 to {beta1} by the end of the run, and an \
                 average with 1 or more forgets nothing; lower decay_mom_rate"
            )
        })
    }
}

/// Where OneCycle is.
enum Phase {
    /// 0..=1, how far up.
    Cycle(f64),
    /// So many steps after the cycle, from 1.
    Decay(u64),
}

fn decay(rate: f64, every: u64, steps: u64) -> f64 {
    if every == 0 { 1.0 } else { 1.0 + rate * (steps as f64 / every as f64) }
}

/// The step within its period, and that period's length.
fn place_in_period(k: u64, first_period: u64, factor: u64) -> (u64, u64) {
    if factor <= 1 {
        return (k % first_period, first_period);
    }
    // Periods at least double, so this ends within 64 rounds.
    let (mut at, mut period) = (k, first_period);
    while at >= period {
        at -= period;
        period = period.saturating_mul(factor);
    }
    (at, period)
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
