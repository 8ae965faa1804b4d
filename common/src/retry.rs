//! When to try again, and when to give up. Data and arithmetic: the caller sleeps, tries, and
//! brings the chance.

use std::time::Duration;

/// Exponential backoff between two bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Wait after the first failure.
    pub min: Duration,
    /// No wait is longer, jitter included.
    pub max: Duration,
    /// 0 to 1: the part of a wait that chance may take off, so that a thousand workers do not
    /// come back in the same millisecond.
    pub jitter: f64,
    pub budget: Budget,
}

/// How long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// This many tries, the first included.
    Tries(u32),
    /// No new wait may end later than this after the first try.
    Within(Duration),
    /// Until the caller is stopped; for a daemon that waits for its master.
    Unbounded,
}

impl Policy {
    /// How long to wait after `failed` failed tries, the first of which began `elapsed` ago; None
    /// when the budget is spent. `chance` is a uniform number in 0..1.
    pub fn wait_after(&self, failed: u32, elapsed: Duration, chance: f64) -> Option<Duration> {
        let doublings = failed.saturating_sub(1).min(31);
        let full = self.min.saturating_mul(1 << doublings).min(self.max);
        let kept = 1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0);
        let wait = full.mul_f64(kept);
        let allowed = match self.budget {
            Budget::Tries(tries) => failed < tries,
            Budget::Within(limit) => elapsed.saturating_add(wait) <= limit,
            Budget::Unbounded => true,
        };
        allowed.then_some(wait)
    }
}

#[cfg(test)]
mod tests;
