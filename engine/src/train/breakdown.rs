//! Where the seconds of a step go. Knows nothing of what the phases do.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use common::metric::{self, Metric};
use common::position;

use crate::pulse::Pulse;
use crate::report::pace::Shares;

/// What a step is made of, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Samples become tensors.
    Fetch,
    Forward,
    /// With the sums over ranks that run inside of it.
    Backward,
    /// What is waited for when backward has ended: sums over ranks, and the ranks' agreement.
    Reduce,
    /// Clipping, the update, and the gathering of what was updated.
    Optimizer,
    /// Waited for a checkpoint since the step before.
    Save,
}

const METRICS: [(Phase, Metric); 6] = [
    (Phase::Fetch, metric::FETCH_SECONDS),
    (Phase::Forward, metric::FORWARD_SECONDS),
    (Phase::Backward, metric::BACKWARD_SECONDS),
    (Phase::Reduce, metric::REDUCE_SECONDS),
    (Phase::Optimizer, metric::OPTIMIZER_SECONDS),
    (Phase::Save, metric::SAVE_SECONDS),
];

impl From<Phase> for position::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Fetch => Self::Data,
            Phase::Forward => Self::Forward,
            Phase::Backward => Self::Backward,
            Phase::Reduce => Self::Reduce,
            Phase::Optimizer => Self::Optimizer,
            Phase::Save => Self::Save,
        }
    }
}

/// A stopwatch for each phase; all of them run from one record to the next.
#[derive(Debug, Default)]
pub(crate) struct Breakdown {
    seconds: [Cell<f64>; METRICS.len()],
    /// Inside or for collectives, in whatever phase.
    waited: Cell<f64>,
    /// Is told of every phase.
    pulse: Arc<Pulse>,
}

impl Breakdown {
    pub(crate) fn new(pulse: Arc<Pulse>) -> Self {
        Self { pulse, ..Self::default() }
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Does `work` and counts its time.
    pub(crate) fn time<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        self.pulse.enter(phase.into());
        let (started, waited) = (Instant::now(), collectives::waited());
        let result = work();
        self.add(phase, started.elapsed().as_secs_f64());
        let waited = (collectives::waited() - waited).as_secs_f64();
        self.waited.set(self.waited.get() + waited);
        result
    }

    pub(crate) fn add(&self, phase: Phase, seconds: f64) {
        let sum = &self.seconds[phase as usize];
        sum.set(sum.get() + seconds);
    }

    pub(crate) fn of(&self, phase: Phase) -> f64 {
        self.seconds[phase as usize].get()
    }

    /// What this rank did itself and what it waited for others. Saves are no part of a step.
    pub(crate) fn shares(&self) -> Shares {
        let phases =
            [Phase::Fetch, Phase::Forward, Phase::Backward, Phase::Reduce, Phase::Optimizer];
        let whole: f64 = phases.into_iter().map(|phase| self.of(phase)).sum();
        let wait = self.waited.get();
        Shares { compute: (whole - wait).max(0.0), wait }
    }

    /// Each phase's metric and seconds, and backward with its wait, as DeepSpeed adds them up.
    pub(crate) fn values(&self) -> Vec<(Metric, f64)> {
        let whole = self.of(Phase::Backward) + self.of(Phase::Reduce);
        let phases = METRICS.iter().map(|(phase, metric)| (*metric, self.of(*phase)));
        phases.chain([(metric::BACKWARD_AND_REDUCE_SECONDS, whole)]).collect()
    }

    /// All stopwatches back to zero, for the next step.
    pub(crate) fn reset(&self) {
        self.seconds.iter().for_each(|sum| sum.set(0.0));
        self.waited.set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_own_seconds_until_the_next_step() {
        let breakdown = Breakdown::default();
        breakdown.add(Phase::Forward, 0.5);
        breakdown.add(Phase::Forward, 0.25);
        breakdown.add(Phase::Backward, 2.0);
        breakdown.add(Phase::Reduce, 1.0);
        assert_eq!(breakdown.time(Phase::Save, || 7), 7);
        let of = |name: &str| {
            let values = breakdown.values();
            values.iter().find(|(metric, _)| metric.name == name).unwrap().1
        };
        assert_eq!(of("train/forward-seconds"), 0.75);
        assert_eq!(of("train/backward-seconds"), 2.0);
        assert_eq!(of("train/backward-and-reduce-seconds"), 3.0);
        assert_eq!(of("train/fetch-seconds"), 0.0);
        breakdown.reset();
        assert!(breakdown.values().iter().all(|(_, seconds)| *seconds == 0.0));
    }

    #[test]
    fn every_metric_stands_at_its_phases_place() {
        assert!(METRICS.iter().enumerate().all(|(place, (phase, _))| *phase as usize == place));
    }
}
