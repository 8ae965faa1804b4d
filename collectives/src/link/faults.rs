//! Why a wait ends without its bytes: a fault, a peer that left, the deadline, a dead stream.
//!
//! Only tells; `communicator` ends the mesh for everybody.

use std::{io, sync::Arc, time::Duration};

use super::{Current, Fabric, Link};
use crate::{Error, OpKind, mesh::shared::Fault};

/// How long the watcher thread may take to say why a peer's stream ended.
const REASON_GRACE: Duration = Duration::from_millis(50);

impl Fabric {
    /// Fails after an abort by this process: operations whose bytes keep coming never wait.
    pub(crate) fn check_abort(&self) -> Result<(), Error> {
        match self.shared.fault() {
            Some(fault @ Fault::Aborted { by: None, .. }) => Err(self.fault_error(fault)),
            _ => Ok(()),
        }
    }

    /// Called when a wait made no progress: a fault or the deadline ends it.
    pub(super) fn check(&mut self, waiting_for: &[usize]) -> Result<(), Error> {
        if let Some(fault) = self.shared.fault() {
            return Err(self.fault_error(fault));
        }
        if let Some(&rank) = waiting_for.iter().find(|&&rank| self.shared.has_departed(rank)) {
            return Err(self.fault_error(Fault::PeerLost { rank: rank as u32 }));
        }
        if self.current.started.elapsed() < self.shared.collective_timeout {
            return Ok(());
        }
        let Current { kind: op, sequence, .. } = self.current;
        let waiting_for = self.laggards(waiting_for);
        let after = self.shared.collective_timeout;
        Err(Error::Timeout { op, sequence, waiting_for, after })
    }

    /// At a timeout: the rank waited for, and every other peer that has sent nothing either.
    fn laggards(&mut self, waiting_for: &[usize]) -> Vec<u32> {
        let mut ranks: Vec<u32> = waiting_for.iter().map(|&rank| rank as u32).collect();
        for (rank, link) in self.links.iter_mut().enumerate() {
            let silent = match link {
                Some(Link::Memory(duplex)) => duplex.reader.available() == 0,
                Some(Link::Stream(stream)) => {
                    stream.available() == 0 && matches!(stream.fill(1), Ok(0))
                }
                None => false,
            };
            if silent && !waiting_for.contains(&rank) && self.current.kind != OpKind::Transfer {
                ranks.push(rank as u32);
            }
        }
        ranks.sort_unstable();
        ranks
    }

    /// A dead stream is a lost peer, unless the watcher knows better within a moment: the peer may
    /// have said why it left on its control connection.
    pub(super) fn stream_error(
        &mut self,
        rank: usize,
        what: &'static str,
        error: io::Error,
    ) -> Error {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof,
        };
        let gone = matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof
        );
        if !gone {
            let Current { kind: op, sequence, .. } = self.current;
            return Error::Link { what, rank: rank as u32, op, sequence, source: Arc::new(error) };
        }
        let fault = self
            .shared
            .fault_within(REASON_GRACE, rank)
            .unwrap_or(Fault::PeerLost { rank: rank as u32 });
        self.fault_error(fault)
    }

    pub(super) fn fault_error(&self, fault: Fault) -> Error {
        let Current { kind: op, sequence, .. } = self.current;
        match fault {
            Fault::PeerLost { rank } => {
                let worker = self.shared.worker(rank);
                Error::PeerLost { rank, worker, op, sequence }
            }
            Fault::Aborted { by, reason } => Error::Aborted { by, reason, op, sequence },
        }
    }
}
