//! Checkpoints on disk: shards, their manifest, and everything that reads or removes them.
//!
//! Promise: a checkpoint is visible only when whole (A9), what was committed is durable (A14), at
//! most one generation of a job can commit (A6), and any world reads what any other world wrote.
//! Refusal: knows no tensors of libtorch, no daemons and no wire; trusts no number that it reads
//! from a file.
//!
//! A save, as the ranks of one attempt make it:
//! 1. at the start of the attempt, rank 0: [`Root::create`], [`Root::check_history`],
//!    [`Root::raise_generation`], [`Root::sweep`]; then [`Root::continued`], [`Root::resolve`] and [`Resolution::select`]; after a resume,
//!    [`Root::set_aside_newer`], because what is newer belongs to another history;
//! 2. every rank: [`shard::write`] of the slices that it owns (or, where the root is not shared,
//!    [`shard::Encoded`] at the sender and [`shard::Incoming`] at rank 0);
//! 3. rank 0, with every rank's [`ShardEntry`]: [`Root::commit`]; where a rank failed instead,
//!    [`Root::discard`];
//! 4. rank 0: [`retention::plan`] over [`Root::list`], then [`Root::prune`].

mod commit;
mod disk;
mod error;
mod export;
mod fence;
mod header;
pub mod import;
mod manifest;
mod probe;
mod reader;
mod resolve;
pub mod retention;
mod root;
pub mod shard;
mod sweep;
mod tensor;
mod torch;
mod verify;

pub use error::{Defect, Error};
pub use export::{Exported, Format, Options as ExportOptions, export};
pub use fence::Fence;
pub use manifest::{MANIFEST_FILE, Manifest, SCHEMA_VERSION, ShardEntry};
pub use probe::ProbeToken;
pub use reader::{Reader, TensorRow};
pub use resolve::{Resolution, Selected, Skipped};
pub use root::{Found, Incomplete, Listing, Root, local_path, tag};
pub use tensor::{DataType, SliceMeta, SliceProblem, TensorKind};
pub use torch::TorchError;
pub use verify::{Finding, Report, verify};

#[cfg(test)]
mod tests;
