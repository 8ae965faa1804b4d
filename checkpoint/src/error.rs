//! What can go wrong. A [`Defect`] is a fact about files that somebody else may have written or
//! damaged; an [`Error`] is an operation of ours that did not happen.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use common::ids::JobId;
use common::units::display_bytes;

use crate::fence::Fence;
use crate::tensor::{DataType, SliceProblem, TensorKind};

/// Why something on disk is not a whole checkpoint. Each names its file and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    #[error("has no manifest.json: its save was never finished")]
    NoManifest,
    #[error("`{file}` is not a plain file (a link, a folder, a pipe or a device)")]
    NotPlain { file: String },
    #[error("`{file}` is missing")]
    Missing { file: String },
    #[error("`{file}` cannot be read")]
    Unreadable {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("`{file}` is larger than {limit} bytes, more than any such file needs")]
    TooLarge { file: String, limit: u64 },
    #[error("`{file}` is not the JSON it must be")]
    Syntax {
        file: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{file}` has schema_version {found}; this build reads 1 to {supported}")]
    Schema { file: String, found: u64, supported: u64 },
    #[error("`{file}`: {field} is {found}, must be {expected}")]
    Field { file: String, field: &'static str, found: String, expected: String },
    #[error("shard `{file}` has {found} bytes, the manifest says {expected}")]
    Size { file: String, expected: u64, found: u64 },
    #[error("shard `{file}` is corrupt: blake3 {found}, the manifest says {expected}")]
    Hash { file: String, expected: String, found: String },
    #[error("shard `{file}` is no safetensors file: {problem}")]
    Header { file: String, problem: String },
    #[error("shard `{file}` holds an impossible slice")]
    Slice {
        file: String,
        #[source]
        problem: SliceProblem,
    },
    #[error("{kind} `{name}` lacks elements {from} to {to}")]
    Gap { kind: TensorKind, name: String, from: u64, to: u64 },
    #[error("{kind} `{name}`: element {at} is in two slices, the second in `{file}`")]
    Overlap { kind: TensorKind, name: String, at: u64, file: String },
    #[error("{kind} `{name}` has another type or shape in `{file}` than in the shards before")]
    Disagreement { kind: TensorKind, name: String, file: String },
    #[error("is a symbolic link; checkpoints under a root are folders")]
    Link,
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "checkpoint root `{url}`: `{scheme}://` is not supported yet; give a path or a file:// URL"
    )]
    UnsupportedScheme { url: String, scheme: String },
    #[error("checkpoint root `{url}`: {problem}")]
    InvalidUrl { url: String, problem: &'static str },
    #[error("{action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "write `{}`: {} needed{}", path.display(), display_bytes(*needed),
        available.map(|free| format!(", {} free", display_bytes(free))).unwrap_or_default()
    )]
    DiskFull {
        path: PathBuf,
        /// Bytes of the whole file.
        needed: u64,
        available: Option<u64>,
        #[source]
        source: io::Error,
    },
    #[error("checkpoint `{}`", path.display())]
    Defective {
        path: PathBuf,
        #[source]
        defect: Defect,
    },
    #[error("checkpoint root `{}`: {mine} is superseded by {current}", path.display())]
    Superseded { path: PathBuf, mine: Fence, current: Fence },
    #[error("checkpoint root `{}`: its generation was never raised to {mine}", path.display())]
    NotRaised { path: PathBuf, mine: Fence },
    #[error("`{}` is already a whole checkpoint; checkpoints are never replaced", path.display())]
    AlreadyCommitted { path: PathBuf },
    #[error("another process holds `{}` for more than {waited:?}", path.display())]
    Busy { path: PathBuf, waited: Duration },
    #[error("encode shard `{file}`")]
    InvalidSlice {
        file: String,
        #[source]
        problem: SliceProblem,
    },
    #[error(
        "shard `{file}` arrived with {found_bytes} bytes and blake3 {found}, sent were \
         {expected_bytes} and {expected}"
    )]
    Transfer {
        file: String,
        expected_bytes: u64,
        expected: String,
        found_bytes: u64,
        found: String,
    },
    #[error("checkpoint `{}` has no {kind} `{name}`", path.display())]
    UnknownTensor { path: PathBuf, kind: TensorKind, name: String },
    #[error("elements {from} to {to} of {kind} `{name}` asked for; it has {elements}")]
    Range { kind: TensorKind, name: String, from: u64, to: u64, elements: u64 },
    #[error("{kind} `{name}` read as {expected} bytes into a buffer of {found}")]
    BufferLength { kind: TensorKind, name: String, expected: u64, found: u64 },
    #[error("`{name}` is a parameter and a buffer; one safetensors file cannot hold both")]
    NameTwice { name: String },
    #[error("`{name}` is {from} and cannot be exported as {to}; only f32, bf16 and f16 can")]
    NoConversion { name: String, from: DataType, to: DataType },
    #[error("no checkpoint `{asked}` under `{}`; there are: {have}", root.display())]
    NoSuchCheckpoint { asked: String, root: PathBuf, have: String },
    #[error(
        "checkpoint root `{}` holds newer checkpoints of job {job} ({tags}), which starting {from} \
         would set aside: give this job a checkpoint.dir of its own (checkpoint.resume may name a \
         path under another root), or continue from the newest with resume = \"latest\"",
        root.display()
    )]
    OtherHistory { root: PathBuf, job: JobId, tags: String, from: String },
    #[error("folder `{}` does not exist", path.display())]
    NoFolder { path: PathBuf },
    #[error("checkpoint root `{}` has more than {limit} entries", path.display())]
    TooManyEntries { path: PathBuf, limit: usize },
}

impl Error {
    /// What lies on disk is damaged or foreign: an older checkpoint may do.
    pub fn is_defect(&self) -> bool {
        matches!(self, Self::Defective { .. })
    }

    /// A newer generation owns the root: this attempt must end and change nothing more.
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded { .. })
    }

    /// The error and its sources in one line, for a note or a report.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl Defect {
    /// The defect and its sources in one line, for a note or a report.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
