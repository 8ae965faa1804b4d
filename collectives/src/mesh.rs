//! The links of one rank to all others, made once per attempt.

use std::time::Duration;

use crate::{Communicator, ConnectError, Error, Listener, PeerAddress};

/// How two ranks may reach each other. A pair uses TCP if either end says `Tcp`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory where the peer's abstract unix socket can be reached, else TCP.
    #[default]
    Auto,
    /// Shared memory or an error.
    SharedMemory,
    /// TCP, also inside a node.
    Tcp,
}

/// All that a rank must know to join.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// This rank.
    pub rank: u32,
    /// How many ranks there are.
    pub world: u32,
    /// The secret of this attempt; who cannot prove it is not let in.
    pub token: [u8; 16],
    /// Every rank's address; this rank's own row may be present and is ignored.
    pub peers: Vec<PeerAddress>,
    /// How to reach them.
    pub transport: Transport,
    /// The deadline of `connect`.
    pub connect_timeout: Duration,
    /// The deadline of every operation.
    pub collective_timeout: Duration,
    /// Independent communicators to prepare.
    pub channels: u32,
}

/// How one peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPath {
    /// The peer.
    pub rank: u32,
    /// Its worker.
    pub worker: String,
    /// `SharedMemory` or `Tcp`, never `Auto`.
    pub transport: Transport,
}

/// The connected ranks.
#[derive(Debug)]
pub struct Mesh {}

impl Mesh {
    /// Connects to every peer and returns when all are there.
    pub fn connect(_listener: Option<Listener>, _config: MeshConfig) -> Result<Self, ConnectError> {
        unimplemented!()
    }

    /// A world of one.
    #[must_use]
    pub fn solo(_channels: u32) -> Self {
        unimplemented!()
    }

    /// The communicator of a channel; each can be taken once.
    pub fn communicator(&self, _channel: u32) -> Result<Communicator, Error> {
        unimplemented!()
    }

    /// A handle that ends every operation from any thread.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        unimplemented!()
    }

    /// The path to each peer, in rank order.
    #[must_use]
    pub fn describe(&self) -> Vec<PeerPath> {
        unimplemented!()
    }
}

/// Ends the mesh from outside.
#[derive(Debug, Clone)]
pub struct AbortHandle {}

impl AbortHandle {
    /// Makes every operation in flight and every later one return `Aborted`, here and on all peers.
    pub fn abort(&self, _reason: &str) {
        unimplemented!()
    }
}
