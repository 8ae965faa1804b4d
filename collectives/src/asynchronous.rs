//! A communicator on a thread of its own, so that communication runs beside computation.

use crate::{Communicator, DataType, Error, ReduceOp};

/// One operation on raw buffers; see [`AsyncCommunicator::start`] for what the caller owes.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    /// [`Communicator::all_reduce`].
    AllReduce {
        /// The buffer.
        data: *mut u8,
        /// Its length in bytes.
        len: usize,
        /// The element type.
        data_type: DataType,
        /// The reduction.
        op: ReduceOp,
    },
    /// [`Communicator::reduce_scatter`].
    ReduceScatter {
        /// `world` times `output_len` bytes.
        input: *const u8,
        /// Its length in bytes.
        input_len: usize,
        /// This rank's part; must not overlap `input`.
        output: *mut u8,
        /// Its length in bytes.
        output_len: usize,
        /// The element type.
        data_type: DataType,
        /// The reduction.
        op: ReduceOp,
    },
    /// [`Communicator::all_gather`].
    AllGather {
        /// This rank's part.
        input: *const u8,
        /// Its length in bytes.
        input_len: usize,
        /// All parts.
        output: *mut u8,
        /// Its length in bytes.
        output_len: usize,
    },
    /// [`Communicator::reduce_scatter_in_place`].
    ReduceScatterInPlace {
        /// The buffer of `world` parts.
        data: *mut u8,
        /// Its length in bytes.
        len: usize,
        /// The element type.
        data_type: DataType,
        /// The reduction.
        op: ReduceOp,
    },
    /// [`Communicator::all_gather_in_place`].
    AllGatherInPlace {
        /// The buffer of `world` parts.
        data: *mut u8,
        /// Its length in bytes.
        len: usize,
    },
    /// [`Communicator::broadcast`].
    Broadcast {
        /// The buffer.
        data: *mut u8,
        /// Its length in bytes.
        len: usize,
        /// The rank whose bytes all get.
        root: u32,
    },
    /// [`Communicator::barrier`].
    Barrier,
}

/// Owns a communicator on a named thread and runs operations in the order they were started.
#[derive(Debug)]
pub struct AsyncCommunicator {}

/// An operation under way.
#[derive(Debug)]
#[must_use = "the buffers stay borrowed until `wait` returns"]
pub struct Pending {}

impl AsyncCommunicator {
    /// Starts the thread.
    pub fn spawn(_communicator: Communicator) -> Result<Self, Error> {
        unimplemented!()
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        unimplemented!()
    }

    /// How many ranks there are.
    #[must_use]
    pub fn world(&self) -> u32 {
        unimplemented!()
    }

    /// Queues an operation.
    ///
    /// # Safety
    /// The buffers must live, and nobody may touch them, until [`Pending::wait`] has returned or
    /// the `Pending` is dropped (its drop waits).
    #[expect(unsafe_code, reason = "the buffers are borrowed across threads without a lifetime")]
    pub unsafe fn start(&self, _operation: Operation) -> Result<Pending, Error> {
        unimplemented!()
    }

    /// Ends the thread after what is queued and gives the communicator back.
    pub fn join(self) -> Result<Communicator, Error> {
        unimplemented!()
    }
}

impl Pending {
    /// Returns when the operation has; the buffers are the caller's again.
    pub fn wait(self) -> Result<(), Error> {
        unimplemented!()
    }
}
