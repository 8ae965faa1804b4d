//! How every binary ends. Scripts rely on these numbers; only add.

/// A process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Done = 0,
    /// The job or the operation failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    CoordinatorUnreachable = 3,
    Cancelled = 4,
    /// A bug of ours.
    Bug = 70,
    /// The job saved and left because its nodes are taken away: the same command goes on with it.
    /// The number is that of `sysexits.h` for what is worth trying again.
    Preempted = 75,
    BadConfiguration = 78,
    /// Ctrl-C while only looking (`watch`): the job goes on. What shells say of SIGINT, so that
    /// `rsctl watch JOB && next` does not take it for success.
    Detached = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
