//! Training on libtorch: one rank of a job, from its effective job to its summary.
//!
//! Promise: the same seed, world, stage, threads and build give the same bits (A12); whatever ends
//! a run is a typed [`Error`]; every rank of an attempt takes the same decisions at the same step,
//! because what they decide on was reduced first (A7). Tensors stay on the thread that calls
//! [`run`] (A8). Refusal: the engine knows no daemon, no wire and no process; it takes its
//! communicators as parameters and keeps nothing global, so the ranks of a test run as threads.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use collectives::{Communicator, DeviceCommunicator};
use common::ids::{AttemptId, Generation, JobId, Rank};
use common::spec::JobSpec;
use common::status::{CheckpointRow, Live, MetricPoint, Summary};

pub mod data;
mod device;
pub mod model;
pub mod monitor;
pub mod rng;

mod comms_log;
mod error;
mod evaluate;
mod fault;
#[cfg(test)]
mod fixture;
mod flops;
mod freeze;
mod loss;
mod memory;
mod native;
mod numbers;
mod optimizer;
mod output;
mod precision;
mod pulse;
mod report;
mod save;
mod schedule;
mod start;
mod storage;
mod summary;
#[cfg(test)]
mod tests;
mod train;
mod zero;

pub use device::{Device, DeviceError};
pub use error::Error;
pub use fault::{Error as FaultError, Fault, VARIABLE as FAULT_VARIABLE};
pub use native::libtorch;
pub use pulse::Pulse;

/// Everything that one rank needs for one attempt at a job.
pub struct RankContext {
    pub spec: JobSpec,
    pub job_id: JobId,
    pub attempt: AttemptId,
    pub generation: Generation,
    pub rank: Rank,
    pub world: u32,
    /// `<output-dir>/<job id>`: absolute, exists on rank 0's node. Rank 0 writes
    /// `effective.toml`, `summary.json`, `tensorboard/` and `metrics/` there.
    pub run_dir: PathBuf,
    /// The worker (node) of this rank, for messages and the catalogue.
    pub worker: String,
    /// Where the model computes.
    pub device: Device,
    /// Owned by the training thread (or its communication thread).
    pub communicator: Communicator,
    /// Sums what a GPU keeps, between the GPUs; without one that goes through the host's memory, by
    /// `communicator`.
    pub device_communicator: Option<Box<dyn DeviceCommunicator>>,
    /// Owned by the save thread: the votes on checkpoints never travel on the training one.
    pub save_communicator: Communicator,
    pub reporter: Arc<dyn Reporter>,
    /// Set from outside to ask for a graceful stop. The ranks agree on the step at which they
    /// stop, save a checkpoint and leave.
    pub stop: Arc<AtomicBool>,
    /// Where this rank is, for those who look from outside.
    pub pulse: Arc<Pulse>,
}

impl std::fmt::Debug for RankContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RankContext")
            .field("job_id", &self.job_id)
            .field("attempt", &self.attempt)
            .field("generation", &self.generation)
            .field("rank", &self.rank)
            .field("world", &self.world)
            .finish_non_exhaustive()
    }
}

/// Where a rank tells what happens. Called on the training and the save thread: an implementation
/// must return at once (a bounded queue that drops and counts), never wait for a peer.
pub trait Reporter: Send + Sync {
    /// After every optimizer step, on every rank (rank 0's is the one that people see; the others
    /// prove that they are alive).
    fn progress(&self, live: Live);
    /// `name` is one of `common::metric::ALL`; rank 0 reports the job's metrics, every rank its
    /// `system/` ones.
    fn metric(&self, name: &'static str, point: MetricPoint);
    /// A sentence that a person should see (rank 0): fallbacks, adaptations, warnings.
    fn note(&self, text: String);
    /// A checkpoint was committed (rank 0), and retention removed these tags.
    fn checkpoint(&self, row: CheckpointRow, removed: Vec<String>);
    /// All whole checkpoints of the job that an attempt finds at its start, oldest first (rank 0).
    fn found(&self, rows: Vec<CheckpointRow>);
}

/// How a run that did not fail ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// On rank 0.
    pub summary: Option<Summary>,
    /// A graceful stop was asked for and the run ended before its last step.
    pub stopped: bool,
}

/// Trains one rank of a job to its end. Blocks; call it on a thread of its own, the same number of
/// ranks in the same attempt. A peer that vanishes ends it with [`Error::Communication`].
pub fn run(context: RankContext) -> Result<Outcome, Error> {
    start::run(context)
}
