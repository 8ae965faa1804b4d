//! A communicator on a thread of its own, so that communication runs beside computation.

#![expect(unsafe_code, reason = "buffers are borrowed across threads without a lifetime")]

use std::{
    panic,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Communicator, DataType, Error, OpKind, ReduceOp};

/// Operations that wait their turn; `start` blocks beyond, until one has ended by its deadline.
const QUEUE: usize = 64;

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
///
/// Its waits sleep at once instead of polling: the core belongs to the computation beside it.
/// Dropped, it ends what is queued (each by its deadline) before it returns.
#[derive(Debug)]
pub struct AsyncCommunicator {
    rank: u32,
    world: u32,
    /// None once `join` or drop has begun.
    queue: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<Communicator>>,
}

/// An operation under way. Dropped, it waits for the operation and forgets its result.
#[derive(Debug)]
#[must_use = "the buffers stay borrowed until `wait` returns"]
pub struct Pending {
    done: Option<Receiver<Result<(), Error>>>,
}

/// [`Pending`] for the calls that own their buffers.
#[derive(Debug)]
#[must_use = "the result is lost without `wait`"]
pub struct PendingBuffer {
    // Before the buffer: its drop waits until nobody uses the buffer.
    pending: Pending,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Order {
    operation: Operation,
    done: SyncSender<Result<(), Error>>,
}

// SAFETY: the pointers are used by the communication thread only, and `start`'s caller vouches for
// the buffers until it has answered.
unsafe impl Send for Order {}

impl AsyncCommunicator {
    /// Starts the thread, named after the communicator's channel.
    pub fn spawn(mut communicator: Communicator) -> Result<Self, Error> {
        communicator.set_spin(Duration::ZERO);
        let (rank, world) = (communicator.rank(), communicator.world());
        let (queue, orders) = sync_channel::<Order>(QUEUE);
        let name = format!("communicate-{}", communicator.channel());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                while let Ok(Order { operation, done }) = orders.recv() {
                    // SAFETY: `start`'s caller keeps the buffers until `done` has been received.
                    let result = unsafe { operation.run(&mut communicator) };
                    // Nobody listens if the `Pending` was forgotten; the result goes with it.
                    let _ = done.send(result);
                }
                communicator
            })
            .map_err(|source| Error::SpawnThread { source: source.into() })?;
        Ok(Self { rank, world, queue: Some(queue), thread: Some(thread) })
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// How many ranks there are.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.world
    }

    /// Queues an operation.
    ///
    /// # Safety
    /// The buffers must live, and nobody may touch them, until [`Pending::wait`] has returned or
    /// the `Pending` is dropped (its drop waits). It must not be forgotten before.
    pub unsafe fn start(&self, operation: Operation) -> Result<Pending, Error> {
        let (done, receiver) = sync_channel(1);
        let queue = self.queue.as_ref().ok_or(Error::ThreadEnded)?;
        queue.send(Order { operation, done }).map_err(|_| Error::ThreadEnded)?;
        Ok(Pending { done: Some(receiver) })
    }

    /// [`Communicator::all_reduce`] of a buffer that comes back from [`PendingBuffer::wait`].
    pub fn all_reduce(
        &self,
        mut buffer: Vec<u8>,
        data_type: DataType,
        op: ReduceOp,
    ) -> Result<PendingBuffer, Error> {
        let (data, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the `PendingBuffer` owns the buffer, gives it out after the wait only, and if it
        // is forgotten the buffer is leaked with it.
        let pending = unsafe { self.start(Operation::AllReduce { data, len, data_type, op })? };
        Ok(PendingBuffer { pending, buffer })
    }

    /// [`Communicator::barrier`], after all that was started before.
    pub fn barrier(&self) -> Result<Pending, Error> {
        // SAFETY: there is no buffer.
        unsafe { self.start(Operation::Barrier) }
    }

    /// Ends the thread after what is queued and gives the communicator back.
    pub fn join(mut self) -> Result<Communicator, Error> {
        self.queue = None;
        let thread = self.thread.take().ok_or(Error::ThreadEnded)?;
        thread.join().map_err(|payload| panic::resume_unwind(payload))
    }
}

impl Drop for AsyncCommunicator {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic was printed by its hook, and every `Pending` has seen `ThreadEnded`.
            let _ = thread.join();
        }
    }
}

impl Pending {
    /// Returns when the operation has; the buffers are the caller's again.
    pub fn wait(mut self) -> Result<(), Error> {
        let done = self.done.take().expect("only `wait`, which consumes it, and drop take it");
        let started = Instant::now();
        let result = done.recv().unwrap_or(Err(Error::ThreadEnded));
        crate::waited::add(started.elapsed());
        result
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // The result is given up, the wait is not: the buffers are in use until then.
            let _ = done.recv();
        }
    }
}

impl PendingBuffer {
    /// Returns the buffer when the operation has ended.
    pub fn wait(self) -> Result<Vec<u8>, Error> {
        let Self { pending, buffer } = self;
        pending.wait().map(|()| buffer)
    }
}

impl Operation {
    /// What it is called in messages.
    #[must_use]
    pub fn kind(&self) -> OpKind {
        match self {
            Self::AllReduce { .. } => OpKind::AllReduce,
            Self::ReduceScatter { .. } | Self::ReduceScatterInPlace { .. } => OpKind::ReduceScatter,
            Self::AllGather { .. } | Self::AllGatherInPlace { .. } => OpKind::AllGather,
            Self::Broadcast { .. } => OpKind::Broadcast,
            Self::Barrier => OpKind::Barrier,
        }
    }

    /// # Safety
    /// The pointers are valid for their lengths, and nobody else touches the buffers during the call.
    pub(crate) unsafe fn run(self, communicator: &mut Communicator) -> Result<(), Error> {
        // SAFETY: forwarded from the caller; null stands for no bytes only.
        let input = |at: *const u8, len| unsafe { slice(at, len) };
        // SAFETY: as above.
        let output = |at: *mut u8, len| unsafe { slice_mut(at, len) };
        match self {
            Self::AllReduce { data, len, data_type, op } => {
                communicator.all_reduce(output(data, len), data_type, op)
            }
            Self::ReduceScatter {
                input: from,
                input_len,
                output: to,
                output_len,
                data_type,
                op,
            } => {
                let to = output(to, output_len);
                communicator.reduce_scatter(input(from, input_len), to, data_type, op)
            }
            Self::AllGather { input: from, input_len, output: to, output_len } => {
                communicator.all_gather(input(from, input_len), output(to, output_len))
            }
            Self::ReduceScatterInPlace { data, len, data_type, op } => {
                communicator.reduce_scatter_in_place(output(data, len), data_type, op)
            }
            Self::AllGatherInPlace { data, len } => {
                communicator.all_gather_in_place(output(data, len))
            }
            Self::Broadcast { data, len, root } => communicator.broadcast(output(data, len), root),
            Self::Barrier => communicator.barrier(),
        }
    }
}

/// # Safety
/// As [`std::slice::from_raw_parts`], but null is good for no bytes: an empty tensor's address.
unsafe fn slice<'a>(at: *const u8, len: usize) -> &'a [u8] {
    // SAFETY: forwarded from the caller.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(at, len) } }
}

/// # Safety
/// As [`slice`], for a buffer that is written.
unsafe fn slice_mut<'a>(at: *mut u8, len: usize) -> &'a mut [u8] {
    // SAFETY: forwarded from the caller.
    if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(at, len) } }
}
