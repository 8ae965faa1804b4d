//! How a rank fails: one enum over the engine's operations, and what of it crosses the process
//! boundary.

use std::path::PathBuf;

use common::status::{FailureKind, TrainerFailure};
use tch::TchError;

use crate::zero::Failure;

/// Why a run ended before its time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What no worker does, and what must not train on the CPU instead.
    #[error("resources.device = \"cuda\", and this rank was given no GPU")]
    NoGpu,
    #[error("{what} works on the host's memory, and this job trains on a GPU; {instead}")]
    NotOnGpu { what: &'static str, instead: &'static str },
    #[error(transparent)]
    Freeze(#[from] crate::freeze::Error),
    #[error(transparent)]
    Plan(#[from] crate::train::PlanError),
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    #[error(
        "the ranks' data differ: from {least} to {most} {what}; every node must read the same files"
    )]
    DifferentData { what: &'static str, least: u64, most: u64 },
    #[error(
        "the ranks' data have the same size and other values; every node must read the same files"
    )]
    DifferentValues,
    #[error(transparent)]
    Model(#[from] crate::model::Error),
    #[error("{operation}")]
    Torch { operation: &'static str, source: TchError },
    #[error("buffer `{name}` is {kind:?}; the engine keeps buffers of Float and Int64")]
    BufferKind { name: String, kind: tch::Kind },
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    #[error(transparent)]
    Native(#[from] crate::native::Error),
    #[error("{operation}")]
    Communication { operation: &'static str, step: u64, source: collectives::Error },
    /// Loss or gradients are not finite; all ranks agree, and the step has changed nothing.
    #[error(transparent)]
    Precision(#[from] crate::precision::Error),
    /// Of an evaluation, which has no step to skip.
    #[error(
        "{what} is not finite (loss {loss}); lower the learning rate, clip \
         gradients or check the data"
    )]
    NotFinite { step: u64, what: String, loss: f64 },
    #[error(
        "out of memory: this rank needs about {needs}{}",
        if advice.is_empty() { String::new() } else { format!("; nearest settings that need less: {advice}") }
    )]
    OutOfMemory { needs: common::memory::Estimate, advice: String, source: Box<Self> },
    #[error("write `{}`", path.display())]
    Output { path: PathBuf, source: std::io::Error },
    #[error("write `{}`", path.display())]
    EffectiveJob { path: PathBuf, source: toml::ser::Error },
    #[error(transparent)]
    Monitor(#[from] crate::monitor::Error),
    #[error("start the {name} thread")]
    Thread { name: &'static str, source: std::io::Error },
    #[error("the {name} thread has ended before its time")]
    ThreadEnded { name: &'static str },
    #[error("{operation}")]
    Checkpoint { operation: &'static str, source: Box<checkpoint::Error> },
    #[error(
        "checkpoint.layout = \"shared\", but the root `{}` is not shared by all ranks: {ranks}; \
         give a root that every node mounts, or set checkpoint.layout = \"auto\"",
        root.display()
    )]
    RootNotShared { root: PathBuf, ranks: String },
    #[error(
        "checkpoint `{}` is of another model: it has {found} where the job needs {expected} for \
         {tensor}",
        path.display()
    )]
    OtherModel { path: PathBuf, tensor: String, found: String, expected: String },
    #[error(
        "checkpoint `{}` is of another optimizer: its states are {found}, this job's optimizer \
         keeps {expected}; keep the optimizer, or start from its weights alone with \
         model.init-from",
        path.display()
    )]
    OtherOptimizer { path: PathBuf, found: String, expected: String },
    #[error("read the training state of checkpoint `{}`", path.display())]
    TrainState { path: PathBuf, source: serde_json::Error },
    #[error("checkpoint `{}` changed or went away while it was being loaded", path.display())]
    CheckpointChanged { path: PathBuf },
    #[error("agree with the other ranks on the checkpoints")]
    Wire(#[from] crate::save::wire::Error),
    // The step is told beside the message.
    #[error("save its checkpoint")]
    Save { step: u64, source: crate::save::SaveError },
    #[error("a checkpoint is being written for {after:?}: the file system hangs")]
    SaveHangs { after: std::time::Duration },
}

impl Error {
    pub(crate) fn torch(operation: &'static str) -> impl FnOnce(TchError) -> Self {
        move |source| Self::Torch { operation, source }
    }

    pub(crate) fn checkpoint(operation: &'static str) -> impl FnOnce(checkpoint::Error) -> Self {
        move |source| Self::Checkpoint { operation, source: Box::new(source) }
    }

    pub(crate) fn communication(
        operation: &'static str,
        step: u64,
    ) -> impl FnOnce(collectives::Error) -> Self {
        move |source| Self::Communication { operation, step, source }
    }

    pub(crate) fn zero(operation: &'static str, step: u64) -> impl FnOnce(Failure) -> Self {
        move |failure| match failure {
            Failure::Communication(source) => Self::Communication { operation, step, source },
            Failure::Torch(source) => Self::Torch { operation, source },
            Failure::Native(source) => Self::Native(source),
        }
    }

    /// Whether a collective returned because a peer left or the mesh was ended on purpose.
    pub fn is_departure(&self) -> bool {
        use crate::save::{SaveError, wire};
        let cause = match self {
            Self::Communication { source, .. } => Some(source),
            Self::Wire(wire::Error::Communication(source)) => Some(source),
            Self::Save { source: SaveError::Stream(source), .. } => Some(source),
            Self::Save { source: SaveError::Vote(wire::Error::Communication(source)), .. } => {
                Some(source)
            }
            _ => None,
        };
        cause.is_some_and(collectives::Error::is_departure)
    }

    /// What crosses the process boundary: kind, step and the chain of messages.
    pub fn failure(&self) -> TrainerFailure {
        TrainerFailure { kind: self.kind(), step: self.step(), message: chain(self) }
    }

    fn kind(&self) -> FailureKind {
        match self {
            Self::Freeze(_) | Self::NotOnGpu { .. } => FailureKind::Configuration,
            Self::NoGpu | Self::Device(_) => FailureKind::Start,
            Self::Model(error) if error.is_configuration() => FailureKind::Configuration,
            Self::Communication { .. } => FailureKind::Communication,
            Self::Precision(_) | Self::NotFinite { .. } => FailureKind::NotFinite,
            Self::Plan(_) => FailureKind::Configuration,
            Self::Data(_) | Self::DifferentData { .. } | Self::DifferentValues => FailureKind::Data,
            Self::Wire(_) => FailureKind::Communication,
            Self::RootNotShared { .. } | Self::OtherModel { .. } | Self::OtherOptimizer { .. } => {
                FailureKind::Configuration
            }
            Self::Save { source, .. } if source.is_communication() => FailureKind::Communication,
            Self::Checkpoint { .. }
            | Self::TrainState { .. }
            | Self::CheckpointChanged { .. }
            | Self::Save { .. }
            | Self::SaveHangs { .. } => FailureKind::Checkpoint,
            Self::Output { .. }
            | Self::EffectiveJob { .. }
            | Self::Monitor(_)
            | Self::Thread { .. }
            | Self::ThreadEnded { .. }
            | Self::BufferKind { .. } => FailureKind::Engine,
            Self::OutOfMemory { .. } => FailureKind::OutOfMemory,
            Self::Model(_) | Self::Torch { .. } | Self::Native(_) => match is_out_of_memory(self) {
                true => FailureKind::OutOfMemory,
                false => FailureKind::Engine,
            },
        }
    }

    fn step(&self) -> Option<u64> {
        match self {
            Self::Communication { step, .. }
            | Self::NotFinite { step, .. }
            | Self::Save { step, .. } => Some(*step),
            Self::Precision(error) => Some(error.step()),
            _ => None,
        }
    }
}

/// libtorch tells a refusal of memory only in words: its allocators', the driver's, or those of a library that
/// asks the driver itself.
pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    const WORDS: [&str; 5] = [
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA out of memory",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
    ];
    let text = chain(error);
    WORDS.iter().any(|words| text.contains(words))
}

/// The error and its sources, joined by `: `; of libtorch's messages without the C++ stack.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = first_paragraph(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&first_paragraph(&cause.to_string()));
        source = cause.source();
    }
    text
}

fn first_paragraph(text: &str) -> String {
    let end = text.find("\nException raised from").unwrap_or(text.len());
    text[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests;
