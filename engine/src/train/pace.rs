//! How fast a run is: throughput of the last steps and the time that is left.
//!
//! Promise: takes times from its caller's steps only; tells nothing before the first step.

use std::time::Instant;

/// Weight of the newest step: about the last 30 count.
const SMOOTHING: f64 = 0.06;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// From the end of one step to the end of the next, pauses included: what an end is guessed by.
    interval: Option<f64>,
    samples_per_second: Option<f64>,
    last_end: Option<Instant>,
    grad_norm: Option<f64>,
    pub(crate) trained_samples: u64,
    pub(crate) trained_seconds: f64,
}

impl Pace {
    /// One step of `seconds` (without what lay between it and the one before) ended `now`.
    pub(crate) fn on_step(&mut self, now: Instant, samples: u64, seconds: f64, grad_norm: f64) {
        self.trained_samples += samples;
        self.trained_seconds += seconds;
        self.grad_norm = Some(grad_norm).filter(|norm| norm.is_finite());
        self.samples_per_second = Some(smooth(self.samples_per_second, samples as f64 / seconds));
        let interval = self.last_end.map_or(seconds, |end| (now - end).as_secs_f64());
        self.interval = Some(smooth(self.interval, interval));
        self.last_end = Some(now);
    }

    pub(crate) fn grad_norm(&self) -> Option<f64> {
        self.grad_norm
    }

    pub(crate) fn samples_per_second(&self) -> Option<f64> {
        self.samples_per_second
    }

    pub(crate) fn eta_seconds(&self, steps: u64) -> Option<f64> {
        self.interval.map(|interval| interval * steps as f64)
    }
}

fn smooth(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + SMOOTHING * (new - old))
}
