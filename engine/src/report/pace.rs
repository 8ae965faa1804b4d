//! How fast this rank is by itself, told once a second: who holds the others up computes longer than
//! they do and waits less.

use std::time::{Duration, Instant};

use common::metric;
use common::status::MetricPoint;

use crate::Reporter;
use crate::monitor::StepRecord;

/// What a rank tells is a mean over this time, and over longer ones where there are many ranks: what a
/// coordinator keeps of a job's metrics is bounded, and a loss curve is worth more.
const INTERVAL: Duration = Duration::from_secs(1);
const RANKS: u32 = 8;

/// Seconds of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Shares {
    /// Reading, forward, backward and the update, without what it waited inside of them.
    pub(crate) compute: f64,
    /// Inside collectives, or waiting for them.
    pub(crate) wait: f64,
}

/// The steps since the last word.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    since: Instant,
    steps: u32,
    sum: Shares,
}

impl Pace {
    pub(super) fn new(world: u32) -> Self {
        Self::over(INTERVAL * world.div_ceil(RANKS))
    }

    fn over(interval: Duration) -> Self {
        Self { interval, since: Instant::now(), steps: 0, sum: Shares::default() }
    }

    pub(super) fn add(&mut self, reporter: &dyn Reporter, of: &StepRecord, shares: Shares) {
        self.steps += 1;
        self.sum.compute += shares.compute;
        self.sum.wait += shares.wait;
        if self.since.elapsed() < self.interval {
            return;
        }
        let StepRecord { step, samples, time, .. } = *of;
        let steps = f64::from(self.steps);
        for (metric, sum) in
            [(metric::COMPUTE_SECONDS, self.sum.compute), (metric::WAIT_SECONDS, self.sum.wait)]
        {
            reporter.metric(metric.name, MetricPoint { step, samples, value: sum / steps, time });
        }
        *self = Self::over(self.interval);
    }
}
