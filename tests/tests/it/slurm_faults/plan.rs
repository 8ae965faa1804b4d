//! Which fault comes when.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How long what failed stays away, in milliseconds.
const ABSENCE: Range<u64> = 0..4000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// kill -9, while somebody submits a second job; it is started again.
    CoordinatorDies,
    /// kill -9; it is started again only when SLURM has its nodes back.
    CoordinatorStaysAway,
    /// `scancel` by somebody else, of a job that SLURM lets wait.
    CancelledInQueue,
    CancelledWhileItRuns,
    WorkerDies,
    TrainerDies,
    /// Without a word, and back when SLURM has noticed.
    NodeCrashes,
    /// As `scontrol` says it.
    NodeIsDown,
    /// slurmctld ends in order and is started again.
    ControllerStops,
    JobIsCancelled,
    /// `rsctl cancel --now`.
    JobIsStopped,
    /// It panics, aborts or exits.
    JobFails,
}

const ALL: [Fault; 12] = [
    Fault::CoordinatorDies,
    Fault::CoordinatorStaysAway,
    Fault::CancelledInQueue,
    Fault::CancelledWhileItRuns,
    Fault::WorkerDies,
    Fault::TrainerDies,
    Fault::NodeCrashes,
    Fault::NodeIsDown,
    Fault::ControllerStops,
    Fault::JobIsCancelled,
    Fault::JobIsStopped,
    Fault::JobFails,
];

impl Fault {
    /// More than some seconds.
    fn takes_long(self) -> bool {
        use Fault::{ControllerStops, CoordinatorStaysAway, NodeCrashes};
        matches!(self, ControllerStops | CoordinatorStaysAway | NodeCrashes)
    }

    /// `rsctl` asked for the end of the job.
    pub(super) fn is_of_rsctl(self) -> bool {
        matches!(self, Self::JobIsCancelled | Self::JobIsStopped)
    }
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: usize,
    pub(super) fault: Fault,
    /// As a part of the undisturbed job, after the submit.
    pub(super) after: f64,
    /// Which of several.
    pub(super) which: usize,
    /// How long what failed stays away.
    pub(super) lasts: Duration,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.2} of the job", self.fault, self.after)
    }
}

/// Endless. Every kind of fault comes once before one comes again; all else is chance.
pub(super) fn plan(seed: u64, with_long_ones: bool) -> impl Iterator<Item = Round> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut left: Vec<Fault> = Vec::new();
    (1..).map(move |number| {
        if left.is_empty() {
            left = ALL.into_iter().filter(|fault| with_long_ones || !fault.takes_long()).collect();
            left.shuffle(&mut chance);
        }
        Round {
            number,
            fault: left.pop().expect("it was filled"),
            after: chance.random_range(0.0..0.8),
            which: chance.random_range(0..6),
            lasts: Duration::from_millis(chance.random_range(ABSENCE)),
        }
    })
}
