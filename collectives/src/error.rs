//! What can go wrong, as values that name the operation, its sequence number and the rank.
//!
//! Two families: [`ConnectError`] while the mesh is made, [`Error`] once operations run.

use std::{fmt, io, net::SocketAddr, time::Duration};

use crate::{DataType, ReduceOp, Transport};

/// Why an operation did not complete. After any of these but `BadLength`, `NoSuchRank`,
/// `NoSuchChannel` and `ChannelTaken` the mesh is of no more use: peers are told and every later
/// operation fails too.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The peer's end of the mesh closed: its process died or left.
    #[error("{op} {sequence}: lost rank {rank} (worker `{worker}`)")]
    PeerLost {
        /// The rank that went away.
        rank: u32,
        /// The worker it ran on.
        worker: String,
        /// The operation that was in flight here.
        op: OpKind,
        /// Its sequence number on its communicator.
        sequence: u64,
    },
    /// The collective timeout passed.
    #[error("{op} {sequence}: timed out after {after:?} waiting for {}", Ranks(waiting_for))]
    Timeout {
        /// The operation that was in flight here.
        op: OpKind,
        /// Its sequence number on its communicator.
        sequence: u64,
        /// Ranks whose part had not arrived.
        waiting_for: Vec<u32>,
        /// The deadline that passed.
        after: Duration,
    },
    /// Somebody ended the mesh on purpose, or a peer met an error of its own.
    #[error("{op} {sequence}: aborted{}: {reason}", By(*by))]
    Aborted {
        /// The rank that aborted; none means this process.
        by: Option<u32>,
        /// What it said.
        reason: String,
        /// The operation that was in flight here.
        op: OpKind,
        /// Its sequence number on its communicator.
        sequence: u64,
    },
    /// Two ranks do not issue the same operations in the same order (A7).
    #[error(
        "operation {sequence} here is {ours}, but rank {rank} is at operation {their_sequence}, {theirs}"
    )]
    Mismatch {
        /// The rank that disagrees.
        rank: u32,
        /// This rank's sequence number.
        sequence: u64,
        /// The peer's sequence number.
        their_sequence: u64,
        /// What this rank does.
        ours: Signature,
        /// What the peer does.
        theirs: Signature,
    },
    /// The bytes from a peer are not an operation's header.
    #[error("{op} {sequence}: rank {rank} sent bytes that are no operation header")]
    Corrupt {
        /// The peer.
        rank: u32,
        /// The operation that was in flight here.
        op: OpKind,
        /// Its sequence number on its communicator.
        sequence: u64,
    },
    /// A buffer's length does not suit the operation; nothing was sent.
    #[error("{op}: {what} is {actual} bytes, expected {expected}")]
    BadLength {
        /// The operation.
        op: OpKind,
        /// Which buffer.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// What it should be.
        expected: String,
    },
    /// A rank outside the world, or this rank itself where a peer is needed; nothing was sent.
    #[error("{op}: rank {rank} is not a peer of rank {own} in a world of {world}")]
    NoSuchRank {
        /// The operation.
        op: OpKind,
        /// The rank asked for.
        rank: u32,
        /// This rank.
        own: u32,
        /// The world size.
        world: u32,
    },
    /// The mesh was made with fewer channels.
    #[error("channel {channel} does not exist: the mesh has {channels}")]
    NoSuchChannel {
        /// The channel asked for.
        channel: u32,
        /// How many there are.
        channels: u32,
    },
    /// Each channel is handed out once.
    #[error("channel {channel} is already in use")]
    ChannelTaken {
        /// The channel asked for.
        channel: u32,
    },
    /// The operating system refused a call on an open link.
    #[error("{op} {sequence}: {what} rank {rank}")]
    Link {
        /// What was tried, with its preposition: "read from", "write to".
        what: &'static str,
        /// The peer.
        rank: u32,
        /// The operation that was in flight here.
        op: OpKind,
        /// Its sequence number on its communicator.
        sequence: u64,
        /// The system's answer; shared, so that errors can be cloned.
        #[source]
        source: std::sync::Arc<io::Error>,
    },
    /// NCCL, or the device itself, failed.
    #[error("{op} {sequence}: on the device: {reason}")]
    Device {
        /// The operation that was in flight here.
        op: OpKind,
        /// Its sequence number on its communicator.
        sequence: u64,
        /// What the library or the device said.
        reason: String,
    },
    /// The communication thread could not be started.
    #[error("start the communication thread")]
    SpawnThread {
        /// The system's answer; shared, so that errors can be cloned.
        #[source]
        source: std::sync::Arc<io::Error>,
    },
    /// The communication thread ended before it took the operation.
    #[error("the communication thread has ended")]
    ThreadEnded,
}

impl Error {
    /// A peer left or somebody ended the mesh on purpose: who was asked to leave expects it. A
    /// timeout or a disagreement is something else, whoever was asked to leave.
    #[must_use]
    pub fn is_departure(&self) -> bool {
        matches!(self, Self::PeerLost { .. } | Self::Aborted { .. })
    }

    /// The rank that the error points at, for the failure report.
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        match self {
            Self::PeerLost { rank, .. }
            | Self::Mismatch { rank, .. }
            | Self::Corrupt { rank, .. }
            | Self::Link { rank, .. } => Some(*rank),
            Self::Timeout { waiting_for, .. } => waiting_for.first().copied(),
            Self::Aborted { by, .. } => *by,
            _ => None,
        }
    }
}

/// Why the mesh could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The listening address is not usable.
    #[error("listen for peers on `{address}`")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The local socket for shared memory could not be made.
    #[error("listen for local peers on abstract socket `{name}`")]
    BindLocal {
        /// The name.
        name: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The configuration contradicts itself.
    #[error("{key} = {value}: {expected}")]
    Config {
        /// The field.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// Not everybody was there in time.
    #[error("connect to peers: missing after {after:?}: {}", MissingList(missing))]
    Missing {
        /// Who, and what was last seen of them.
        missing: Vec<MissingPeer>,
        /// The deadline that passed.
        after: Duration,
    },
    /// Shared memory was demanded, but this peer cannot be reached over it.
    #[error(
        "rank {rank} (worker `{worker}`) does not share memory with rank {own}, and transport = {transport:?}"
    )]
    NoSharedMemory {
        /// The peer.
        rank: u32,
        /// Its worker.
        worker: String,
        /// This rank.
        own: u32,
        /// This rank's setting.
        transport: Transport,
    },
    /// A peer with the right token has another idea of the mesh.
    #[error("rank {rank} disagrees about {what}: here {ours}, there {theirs}")]
    Disagreement {
        /// The peer.
        rank: u32,
        /// About what.
        what: &'static str,
        /// This rank's value.
        ours: u64,
        /// The peer's value.
        theirs: u64,
    },
    /// The operating system refused something on the way.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A peer that was not connected at the deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPeer {
    /// Its rank.
    pub rank: u32,
    /// The worker it should run on.
    pub worker: String,
    /// Where it should listen.
    pub address: SocketAddr,
    /// What was last seen of it, or "did not connect".
    pub reason: String,
}

/// The operations by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Every rank ends with the reduction of all.
    AllReduce,
    /// Every rank ends with its part of the reduction.
    ReduceScatter,
    /// Every rank ends with every rank's part.
    AllGather,
    /// Every rank ends with the root's bytes.
    Broadcast,
    /// Nobody leaves before everybody came.
    Barrier,
    /// One rank's bytes to one other; the same name on both ends.
    Transfer,
}

impl OpKind {
    pub(crate) const ALL: [Self; 6] = [
        Self::AllReduce,
        Self::ReduceScatter,
        Self::AllGather,
        Self::Broadcast,
        Self::Barrier,
        Self::Transfer,
    ];

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::Broadcast => "broadcast",
            Self::Barrier => "barrier",
            Self::Transfer => "send/recv",
        })
    }
}

/// All that two ranks must agree on before bytes are exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The operation.
    pub kind: OpKind,
    /// Bytes per rank as the caller gave them.
    pub bytes: u64,
    /// Element type and reduction, where the operation has them.
    pub reduction: Option<(DataType, ReduceOp)>,
    /// The broadcasting rank, where the operation has one.
    pub root: Option<u32>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some((data_type, op)) = self.reduction {
            write!(f, " {op} {data_type}")?;
        }
        if let Some(root) = self.root {
            write!(f, " from rank {root}")?;
        }
        write!(f, " of {} bytes", self.bytes)
    }
}

struct Ranks<'a>(&'a [u32]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "rank " } else { "ranks " })?;
        for (position, rank) in self.0.iter().enumerate() {
            write!(f, "{}{rank}", if position == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

struct By(Option<u32>);

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rank) => write!(f, " by rank {rank}"),
            None => Ok(()),
        }
    }
}

struct MissingList<'a>(&'a [MissingPeer]);

impl fmt::Display for MissingList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, peer) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            let MissingPeer { rank, worker, address, reason } = peer;
            write!(f, "{separator}rank {rank} (worker `{worker}`, {address}): {reason}")?;
        }
        Ok(())
    }
}
