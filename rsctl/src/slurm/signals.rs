//! What is told to `rsctl slurm run` by signals.

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use common::exit::ExitCode;
use service::exit::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// SIGUSR1: the nodes are about to be taken away.
    Notice,
    /// SIGTERM: as a notice, from somebody who sees himself to what comes next. SLURM sends it before
    /// it kills what is cancelled, out of time, or queued again for another job, and does not say
    /// which; it follows up with SIGKILL. It may come twice, from SLURM and from the batch script.
    End,
    /// Ctrl-C.
    Cancel,
    /// Ctrl-C again.
    CancelAtOnce,
}

#[derive(Debug)]
pub(crate) struct Signals {
    notice: Stream,
    terminate: Stream,
    interrupt: Stream,
    is_interrupted: bool,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(ExitCode::Failed, error));
        Ok(Self {
            notice: listen(SignalKind::user_defined1())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            is_interrupted: false,
        })
    }

    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.notice.recv() => Told::Notice,
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => {
                if std::mem::replace(&mut self.is_interrupted, true) {
                    Told::CancelAtOnce
                } else {
                    Told::Cancel
                }
            }
        }
    }
}
