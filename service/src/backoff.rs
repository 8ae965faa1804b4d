//! How long to wait before the next try: doubling, bounded, jittered. Pure: chance is passed in.

use std::time::Duration;

/// A growing wait between tries of one operation.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, tries: 0 }
    }

    /// Tries since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The operation succeeded: the next failure waits the minimum again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// The next wait: `min * 2^tries`, at most `max`, scaled by `0.5 + chance / 2` with `chance` in
    /// 0..1, so that a cluster that lost its coordinator does not come back in one instant.
    pub fn next_wait(&mut self, chance: f64) -> Duration {
        // 2^20 minimums are more than any maximum in use; the bound keeps the shift in range.
        let doubled = self.min.saturating_mul(1 << self.tries.min(20));
        self.tries = self.tries.saturating_add(1);
        doubled.min(self.max).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// [`Self::next_wait`] with the process's own random numbers.
    pub fn next_wait_jittered(&mut self) -> Duration {
        self.next_wait(rand::random::<f64>())
    }
}
