//! Collective operations between the ranks of one attempt, over byte buffers.
//!
//! Promises: sums run in rank order 0..W-1 on every transport and for every size, so all ranks
//! hold the same bits; every wait for a peer ends at the operation's deadline, within 100 ms of an
//! abort, and quickly after a peer's death, with an error that names who and where; ranks that
//! disagree about what comes next are told so instead of exchanging garbage (A5, A7). The deadline
//! counts from the moment that the operation begins - a queued one begins when those before it have
//! ended - and bounds what is waited for, not the summing and copying of what has come.
//!
//! GPU memory goes through [`nccl`], behind [`DeviceCommunicator`]: the same operations, deadlines and
//! aborts, in NCCL's order of summing.
//!
//! Refuses: tensors (this room sees bytes), names and placement (the coordinator hands out the
//! rank table), and async runtimes: calls block, and [`AsyncCommunicator`] is a plain thread.

#![warn(missing_docs)]

mod asynchronous;
mod communicator;
mod datatype;
mod device;
mod error;
mod header;
mod link;
mod listener;
mod mesh;
pub mod nccl;
mod random;
mod reduce;
mod schedule;
mod traffic;
mod waited;
mod whereabouts;

#[cfg(test)]
mod tests;

pub use crate::{
    asynchronous::{AsyncCommunicator, Operation, Pending, PendingBuffer},
    communicator::{Communicator, Cost, Observer},
    datatype::{DataType, ReduceOp},
    device::{DeviceCommunicator, Issued, Probe, Queue},
    error::{ConnectError, Error, MissingPeer, OpKind, Signature},
    listener::{Listener, PeerAddress},
    mesh::{AbortHandle, Mesh, MeshConfig, PeerPath, Transport},
    traffic::Traffic,
    waited::waited,
    whereabouts::{At, Whereabouts},
};
