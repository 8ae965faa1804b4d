//! Where a rank is in its training: what it tells of itself at a steady pace, so that a hang can be
//! named. Numbers only; who hangs is decided in `control`.

use std::fmt;
use std::time::Duration;

/// What a rank tells, about once a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The step that is under way, from 1; 0 before the first.
    pub step: u64,
    pub phase: Phase,
    /// Grows with everything that the rank gets done. What a rank waits for grows nothing.
    pub beat: u64,
    /// The longest of its last steps; zero before the first of this attempt has ended.
    pub slow_step: Duration,
    /// The longest of its saves; zero before the first.
    pub slow_save: Duration,
    /// The newest operation of each communicator that has begun one.
    pub operations: Vec<Operation>,
}

/// What a rank is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reads data, builds the model, resumes: before the first step.
    #[default]
    Prepare,
    /// Samples become tensors.
    Data,
    Forward,
    /// With the sums over ranks that run inside of it.
    Backward,
    /// Waits for sums over ranks.
    Reduce,
    Optimizer,
    Validate,
    /// Waits for a checkpoint.
    Save,
    /// After the last step.
    Finish,
}

/// One communicator's newest operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// 0 is the training's, 1 the checkpoints'.
    pub channel: u32,
    pub sequence: u64,
    /// Kind and size, such as `all_reduce of 400 bytes`.
    pub name: String,
    /// It has begun and not ended.
    pub is_inside: bool,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::Prepare,
        Self::Data,
        Self::Forward,
        Self::Backward,
        Self::Reduce,
        Self::Optimizer,
        Self::Validate,
        Self::Save,
        Self::Finish,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Data => "data",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Reduce => "reduce",
            Self::Optimizer => "optimizer",
            Self::Validate => "validate",
            Self::Save => "save",
            Self::Finish => "finish",
        }
    }

    /// The phase of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }

    /// Part of every step; the others take as long as data and disks are large.
    pub fn is_of_a_step(self) -> bool {
        !matches!(self, Self::Prepare | Self::Save | Self::Finish)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `step 5 (forward)`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} ({})", self.step, self.phase)
    }
}
