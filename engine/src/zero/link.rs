//! The training communicator as the engine uses it: f32 and f64 slices, either inline on the
//! training thread or on a communication thread beside it.
//!
//! Promise: operations reach the wire in the order in which they were asked for, on either path
//! (A7). Refusal: decides no order itself.
#![expect(unsafe_code, reason = "lends buffers to the communication thread")]

use collectives::{AsyncCommunicator, Communicator, DataType, Error, Operation, Pending, ReduceOp};

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
    pub(crate) input: Vec<f32>,
    /// This rank's part of the sum; None for an all-reduce.
    pub(crate) output: Option<Vec<f32>>,
}

impl Flight {
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

    /// Starts the sum of a bucket: a reduce-scatter where there is an output, else an all-reduce.
    pub(crate) fn start_sum(
        &mut self,
        bucket: usize,
        mut input: Vec<f32>,
        mut output: Option<Vec<f32>>,
    ) -> Result<Flight, Error> {
        let (kind, op) = (DataType::F32, ReduceOp::Sum);
        let pending = match self {
            Self::Inline(communicator) => {
                let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut input);
                match &mut output {
                    Some(output) => communicator.reduce_scatter(
                        bytes,
                        bytemuck::cast_slice_mut(output),
                        kind,
                        op,
                    )?,
                    None => communicator.all_reduce(bytes, kind, op)?,
                }
                None
            }
            Self::Overlapped(communicator) => {
                let operation = match &mut output {
                    Some(output) => Operation::ReduceScatter {
                        input: input.as_ptr().cast(),
                        input_len: size_of_val(&*input),
                        output: output.as_mut_ptr().cast(),
                        output_len: size_of_val(&**output),
                        data_type: kind,
                        op,
                    },
                    None => Operation::AllReduce {
                        data: input.as_mut_ptr().cast(),
                        len: size_of_val(&*input),
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

    /// Fills `output` with every rank's `input`, in rank order.
    pub(crate) fn all_gather(&mut self, input: &[f32], output: &mut [f32]) -> Result<(), Error> {
        match self {
            Self::Inline(communicator) => communicator
                .all_gather(bytemuck::cast_slice(input), bytemuck::cast_slice_mut(output)),
            Self::Overlapped(communicator) => {
                let operation = Operation::AllGather {
                    input: input.as_ptr().cast(),
                    input_len: size_of_val(input),
                    output: output.as_mut_ptr().cast(),
                    output_len: size_of_val(output),
                };
                // SAFETY: both slices are borrowed until `wait` returns, on the next line.
                unsafe { communicator.start(operation) }?.wait()
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
