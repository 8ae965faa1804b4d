//! Ctrl-C and SIGTERM, for commands that must put things in order before they end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use common::exit::ExitCode;
use service::exit::Failure;

#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(crate) fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::new(ExitCode::Failed, error);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// Cancel-safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

pub(crate) fn interrupted() -> Failure {
    Failure::new(ExitCode::Cancelled, anyhow::anyhow!("interrupted"))
}
