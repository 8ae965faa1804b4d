//! A loss scale that finds the largest power of two at which gradients still fit into fp16.

use common::spec::DynamicLossScale;
use serde::{Deserialize, Serialize};

const FACTOR: f64 = 2.0;

/// There is no smaller scale to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AtTheFloor;

/// Where the scale is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Dynamic {
    scale: f64,
    /// Overflows that are left until the scale falls.
    hysteresis: u32,
    /// Steps made or skipped.
    steps: u64,
    /// The newest skipped step, counted from 0.
    last_overflow: Option<u64>,
}

impl Dynamic {
    pub(super) fn new(settings: &DynamicLossScale) -> Self {
        Self {
            scale: FACTOR.powi(i32::try_from(settings.initial_scale_power).unwrap_or(i32::MAX)),
            hysteresis: settings.hysteresis,
            steps: 0,
            last_overflow: None,
        }
    }

    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    pub(super) fn on_overflow(&mut self, settings: &DynamicLossScale) -> Result<(), AtTheFloor> {
        if settings.hysteresis == 1 || self.hysteresis <= 1 {
            if self.scale == settings.min {
                return Err(AtTheFloor);
            }
            self.scale = (self.scale / FACTOR).max(settings.min);
        } else {
            self.hysteresis -= 1;
        }
        self.last_overflow = Some(self.steps);
        self.steps += 1;
        Ok(())
    }

    pub(super) fn on_update(&mut self, settings: &DynamicLossScale) {
        if settings.consecutive_hysteresis {
            self.hysteresis = settings.hysteresis;
        }
        // The step after an overflow is 0; without one the first step is.
        let since = match self.last_overflow {
            Some(overflow) => self.steps.saturating_sub(overflow + 1),
            None => self.steps,
        };
        if since > 0 && since.is_multiple_of(settings.window) {
            self.hysteresis = settings.hysteresis;
            self.scale *= FACTOR;
        }
        self.steps += 1;
    }
}
