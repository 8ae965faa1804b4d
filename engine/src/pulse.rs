//! Where the training thread is, to be read while it trains or hangs: a few atomic stores per
//! phase, no locks. In builds for tests a fault can be put at a place of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::position::Phase;

use crate::fault::Fault;

/// Steps that a p99 is told from; below a hundred that is the longest.
const STEPS: usize = 100;

/// Written by the training thread, read by any.
#[derive(Debug)]
pub struct Pulse {
    step: AtomicU64,
    phase: AtomicU64,
    beat: AtomicU64,
    /// Microseconds of the last steps, zero where there were not so many.
    steps: [AtomicU64; STEPS],
    ended: AtomicU64,
    slow_save: AtomicU64,
    fault: Option<Fault>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Pulse {
    pub fn new(fault: Option<Fault>) -> Self {
        Self {
            step: AtomicU64::new(0),
            phase: AtomicU64::new(Phase::default() as u64),
            beat: AtomicU64::new(0),
            steps: std::array::from_fn(|_| AtomicU64::new(0)),
            ended: AtomicU64::new(0),
            slow_save: AtomicU64::new(0),
            fault,
        }
    }

    /// The step that is under way, from 1.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    pub fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::Relaxed) as usize;
        Phase::ALL.get(phase).copied().unwrap_or_default()
    }

    /// Grows with everything that gets done.
    pub fn beat(&self) -> u64 {
        self.beat.load(Ordering::Relaxed)
    }

    /// The longest of the last hundred steps: their p99. Zero before the first has ended.
    pub fn slow_step(&self) -> Duration {
        let longest = self.steps.iter().map(|step| step.load(Ordering::Relaxed)).max();
        Duration::from_micros(longest.unwrap_or(0))
    }

    /// The longest save. Zero before the first has ended.
    pub fn slow_save(&self) -> Duration {
        Duration::from_micros(self.slow_save.load(Ordering::Relaxed))
    }

    pub(crate) fn end_save(&self, took: Duration) {
        if !took.is_zero() {
            self.slow_save.fetch_max(micros(took), Ordering::Relaxed);
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u64, Ordering::Relaxed);
        self.beat.fetch_add(1, Ordering::Relaxed);
        if let Some(fault) = &self.fault {
            fault.strike_in(self.step(), phase);
        }
    }

    pub(crate) fn begin_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    pub(crate) fn end_step(&self, took: Duration) {
        let place = self.ended.fetch_add(1, Ordering::Relaxed) as usize % STEPS;
        self.steps[place].store(micros(took), Ordering::Relaxed);
    }

    /// Whether this rank is to issue a collective that the others do not.
    pub(crate) fn strays(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.strays_at(self.step()))
    }
}

/// At least one: zero stands for what has not been.
fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_steps_are_told_and_everything_beats() {
        let pulse = Pulse::default();
        assert_eq!(
            (pulse.step(), pulse.phase(), pulse.slow_step()),
            (0, Phase::Prepare, Duration::ZERO)
        );
        for phase in Phase::ALL {
            let before = pulse.beat();
            pulse.enter(phase);
            assert_eq!(pulse.phase(), phase);
            assert!(pulse.beat() > before);
        }
        pulse.begin_step(7);
        assert_eq!(pulse.step(), 7);
    }

    #[test]
    fn a_long_step_counts_for_a_hundred_steps() {
        let pulse = Pulse::default();
        pulse.end_step(Duration::from_secs(3));
        for _ in 1..STEPS {
            pulse.end_step(Duration::from_millis(1));
        }
        assert_eq!(pulse.slow_step(), Duration::from_secs(3));
        pulse.end_step(Duration::from_millis(1));
        assert_eq!(pulse.slow_step(), Duration::from_millis(1));
    }
}
