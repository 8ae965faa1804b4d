//! Collectives over the memory of a device: what computes on it must not wait for the host.
//!
//! Promise: operations run in the order in which they were enqueued, each where its queue says; one
//! that does not end by its deadline ends the communicator, also while the host waits for the device
//! and can do nothing itself. Refusal: knows no events: whoever enqueues marks the queue himself and
//! hands over how to see that the mark was passed.

#![expect(unsafe_code, reason = "operations are on raw memory of a device")]

use std::{ffi::c_void, fmt};

use crate::{Communicator, Error, OpKind, Operation};

/// Where a device takes its orders from: a CUDA stream. Null for memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue(pub *mut c_void);

impl Queue {
    /// Memory of the host has none: operations are over when they return.
    pub const HOST: Self = Self(std::ptr::null_mut());
}

/// Whether the device has passed the mark behind an operation, or why nobody can tell. Is asked on
/// a thread of its own and must not block.
pub type Probe = Box<dyn Fn() -> Result<bool, String> + Send>;

/// An operation that is on its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "unwatched, it has no deadline"]
pub struct Issued {
    /// The operation.
    pub op: OpKind,
    /// Its number on its communicator.
    pub sequence: u64,
    /// Bytes per rank, as [`crate::At`] tells them.
    pub bytes: u64,
}

/// The operations of one rank over memory of a device. As everywhere, every rank must issue the same
/// ones in the same order (A7).
pub trait DeviceCommunicator: fmt::Debug + Send {
    /// This rank.
    fn rank(&self) -> u32;

    /// How many ranks there are.
    fn world(&self) -> u32;

    /// Puts an operation on `queue`. It runs after what is on the queue already.
    ///
    /// # Safety
    /// The operation's pointers are valid for their lengths on the device of `queue`, and nobody
    /// touches the buffers until the queue has passed the operation.
    unsafe fn enqueue(&mut self, operation: Operation, queue: Queue) -> Result<Issued, Error>;

    /// From now on the operation must be over, as `is_done` sees it, within the deadline.
    fn watch(&mut self, issued: Issued, is_done: Probe);

    /// Why nothing goes any more, if so.
    fn fault(&self) -> Option<Error>;
}

/// Memory of the host is the simplest device: an operation is over when it returns.
impl DeviceCommunicator for Communicator {
    fn rank(&self) -> u32 {
        Self::rank(self)
    }

    fn world(&self) -> u32 {
        Self::world(self)
    }

    unsafe fn enqueue(&mut self, operation: Operation, _: Queue) -> Result<Issued, Error> {
        let (op, sequence) = (operation.kind(), self.sequence());
        // SAFETY: forwarded from the caller, whose buffers are the host's.
        unsafe { operation.run(self) }?;
        let bytes = self.whereabouts().now().map_or(0, |at| at.bytes);
        Ok(Issued { op, sequence, bytes })
    }

    fn watch(&mut self, _: Issued, _: Probe) {}

    fn fault(&self) -> Option<Error> {
        None
    }
}
