//! The training communicator as the engine uses it, either inline on the training thread or on a
//! communication thread beside it.
//!
//! Promise: operations reach the wire in the order in which they were asked for, on either path
//! (A7). Refusal: decides no order itself.
#![expect(unsafe_code, reason = "lends buffers to the communication thread")]

use collectives::{AsyncCommunicator, Communicator, DataType, Error, Operation, Pending, ReduceOp};
use common::spec::PrecisionKind;

use crate::numbers::Numbers;

#[derive(Debug)]
pub(crate) enum Link {
    /// Operations run on the calling thread.
    Inline(Communicator),
    /// Operations run on their own thread, so that backward goes on meanwhile.
    Overlapped(AsyncCommunicator),
}

/// A sum of gradients that the link owns until it has landed.
#[derive(Debug)]
pub(crate) struct Flight {
    // Dropped before the buffers: its drop waits until the thread is done with them.
    pending: Option<Pending>,
    pub(crate) bucket: usize,
    /// All ranks' sum for an all-reduce, untouched for a reduce-scatter.
    pub(crate) input: Numbers,
    /// This rank's part of the sum; None for an all-reduce.
    pub(crate) output: Option<Numbers>,
}

impl Flight {
    /// A sum that is there already.
    pub(crate) fn landed(bucket: usize, input: Numbers, output: Option<Numbers>) -> Self {
        Self { pending: None, bucket, input, output }
    }

    /// Returns once the sum is there.
    pub(crate) fn land(&mut self) -> Result<(), Error> {
        self.pending.take().map_or(Ok(()), Pending::wait)
    }
}

impl Link {
    pub(crate) fn new(communicator: Communicator, overlap: bool) -> Result<Self, Error> {
        // A world of one has nothing to overlap with.
        if overlap && communicator.world() > 1 {
            AsyncCommunicator::spawn(communicator).map(Self::Overlapped)
        } else {
            Ok(Self::Inline(communicator))
        }
    }

    /// The communicator, of a link that runs its operations on the calling thread.
    pub(crate) fn inline(&mut self) -> &mut Communicator {
        match self {
            Self::Inline(communicator) => communicator,
            Self::Overlapped(_) => unreachable!("asked of links that were made without overlap"),
        }
    }

    /// Whether operations run beside the calling thread.
    pub(crate) fn is_overlapped(&self) -> bool {
        matches!(self, Self::Overlapped(_))
    }

    /// Starts the sum of a bucket: a reduce-scatter where there is an output, which is of the same
    /// precision, else an all-reduce.
    pub(crate) fn start_sum(
        &mut self,
        bucket: usize,
        mut input: Numbers,
        mut output: Option<Numbers>,
    ) -> Result<Flight, Error> {
        let (kind, op) = (data_type(input.kind()), ReduceOp::Sum);
        assert!(output.as_ref().is_none_or(|output| output.kind() == input.kind()));
        let bytes = input.as_mut().bytes();
        let part = output.as_mut().map(|output| output.as_mut().bytes());
        let pending = match self {
            Self::Inline(communicator) => {
                match part {
                    Some(part) => communicator.reduce_scatter(bytes, part, kind, op)?,
                    None => communicator.all_reduce(bytes, kind, op)?,
                }
                None
            }
            Self::Overlapped(communicator) => {
                let operation = match part {
                    Some(part) => Operation::ReduceScatter {
                        input: bytes.as_ptr(),
                        input_len: bytes.len(),
                        output: part.as_mut_ptr(),
                        output_len: part.len(),
                        data_type: kind,
                        op,
                    },
                    None => Operation::AllReduce {
                        data: bytes.as_mut_ptr(),
                        len: bytes.len(),
                        data_type: kind,
                        op,
                    },
                };
                // SAFETY: the vectors move into the flight, their elements stay where they are.
                // Nobody reads them before `land`, and a flight that is dropped instead drops its
                // `Pending`, which waits, before its vectors.
                Some(unsafe { communicator.start(operation) }?)
            }
        };
        Ok(Flight { pending, bucket, input, output })
    }

    pub(crate) fn sum_f64(&mut self, values: &mut [f64]) -> Result<(), Error> {
        self.all_reduce(bytemuck::cast_slice_mut(values), DataType::F64, ReduceOp::Sum)
    }

    pub(crate) fn min_i64(&mut self, values: &mut [i64]) -> Result<(), Error> {
        self.all_reduce(bytemuck::cast_slice_mut(values), DataType::I64, ReduceOp::Min)
    }

    fn all_reduce(&mut self, data: &mut [u8], kind: DataType, op: ReduceOp) -> Result<(), Error> {
        match self {
            Self::Inline(communicator) => communicator.all_reduce(data, kind, op),
            Self::Overlapped(communicator) => {
                let operation = Operation::AllReduce {
                    data: data.as_mut_ptr(),
                    len: data.len(),
                    data_type: kind,
                    op,
                };
                // SAFETY: `data` is borrowed until `wait` returns, on the next line.
                unsafe { communicator.start(operation) }?.wait()
            }
        }
    }

    /// Fills `data`, a part for each rank, with what every rank has in its own part.
    pub(crate) fn all_gather(&mut self, data: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Inline(communicator) => communicator.all_gather_in_place(data),
            Self::Overlapped(communicator) => {
                let operation =
                    Operation::AllGatherInPlace { data: data.as_mut_ptr(), len: data.len() };
                // SAFETY: `data` is borrowed until `wait` returns, on the next line.
                unsafe { communicator.start(operation) }?.wait()
            }
        }
    }

    /// Starts to fill `len` bytes at `data`, a part for each rank, with what every rank has in its
    /// own part. None: it is done.
    ///
    /// # Safety
    /// The bytes stay, and nobody touches them, until the `Pending` has been waited for or dropped.
    pub(crate) unsafe fn start_all_gather(
        &mut self,
        data: *mut u8,
        len: usize,
    ) -> Result<Option<Pending>, Error> {
        match self {
            Self::Inline(communicator) => {
                // SAFETY: the caller lends them at least for this call.
                let data = unsafe { std::slice::from_raw_parts_mut(data, len) };
                communicator.all_gather_in_place(data).map(|()| None)
            }
            Self::Overlapped(communicator) => {
                // SAFETY: as the caller promises.
                unsafe { communicator.start(Operation::AllGatherInPlace { data, len }) }.map(Some)
            }
        }
    }

    /// Replaces `data` by that of rank 0.
    pub(crate) fn broadcast(&mut self, data: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Inline(communicator) => communicator.broadcast(data, 0),
            Self::Overlapped(communicator) => {
                let operation =
                    Operation::Broadcast { data: data.as_mut_ptr(), len: data.len(), root: 0 };
                // SAFETY: `data` is borrowed until `wait` returns, on the next line.
                unsafe { communicator.start(operation) }?.wait()
            }
        }
    }
}

/// The wire's name of a precision.
fn data_type(kind: PrecisionKind) -> DataType {
    match kind {
        PrecisionKind::Fp32 => DataType::F32,
        PrecisionKind::Bf16 => DataType::Bf16,
        PrecisionKind::Fp16 => DataType::F16,
    }
}
