//! Sums and gathers of numbers that are on a device.
//!
//! Three ways: by a communicator of the device's own memory (NCCL), in line with what is computed or
//! beside it; through the host's memory; and, alone, not at all.
//!
//! Promise: what is computed afterwards sees what an operation has done, as far as the device's own
//! order goes; the host waits for nothing but copies through its memory. An operation that failed on
//! the device is known at the next [`DeviceLink::check`].
#![expect(unsafe_code, reason = "hands memory of tensors to a communicator")]

use collectives::{DataType, DeviceCommunicator, Error, Operation, ReduceOp};
use tch::Tensor;

use crate::device::Device;
use crate::native::lane::Lane;
use crate::numbers::Numbers;
use crate::storage::{Part, download, precision_kind, upload};
use crate::zero::failure::Failure;
use crate::zero::link::HostLink;
use crate::zero::link::underway::{Marked, Underway};

#[derive(Debug)]
pub(super) enum DeviceLink {
    /// A world of one, which needs no communicator.
    Alone,
    /// Through the host's memory.
    Staged,
    Direct {
        communicator: Box<dyn DeviceCommunicator>,
        lane: Lane,
    },
}

impl DeviceLink {
    pub(super) fn new(
        communicator: Option<Box<dyn DeviceCommunicator>>,
        world: u32,
        (device, overlaps): (Device, bool),
    ) -> Result<Self, Failure> {
        Ok(match communicator {
            Some(communicator) => {
                Self::Direct { communicator, lane: Lane::open(device.tensors(), overlaps)? }
            }
            None if world == 1 => Self::Alone,
            None => Self::Staged,
        })
    }

    /// Whether operations run beside what is computed.
    pub(super) fn is_beside(&self) -> bool {
        matches!(self, Self::Direct { lane, .. } if lane.is_beside())
    }

    pub(super) fn way(&self) -> &'static str {
        match self {
            Self::Alone => "a rank alone has nothing to sum",
            Self::Staged => "sums over ranks go through the hosts' memory",
            Self::Direct { .. } => "sums over ranks are NCCL's",
        }
    }

    /// Why nothing on the device can be believed any more, if so: asked before what was computed
    /// there is used or told.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Direct { communicator, .. } => communicator.fault().map_or(Ok(()), Err),
            Self::Alone | Self::Staged => Ok(()),
        }
    }

    /// A reduce-scatter where there is an output, else an all-reduce. None: it is in the order of
    /// what is computed.
    pub(super) fn start_sum(
        &mut self,
        host: &mut HostLink,
        (input, output): (&Tensor, Option<&Tensor>),
        data_type: DataType,
    ) -> Result<Option<Underway>, Failure> {
        let op = ReduceOp::Sum;
        match (self, output) {
            (Self::Alone, output) => {
                let copied = output.map(|output| output.shallow_clone().f_copy_(input));
                copied.unwrap_or(Ok(()))?;
                Ok(None)
            }
            (Self::Staged, None) => {
                let mut numbers = Part::Device(input.shallow_clone()).to_numbers()?;
                host.inline().all_reduce(numbers.as_mut().bytes(), data_type, op)?;
                upload(input, numbers.as_ref())?;
                Ok(None)
            }
            (Self::Staged, Some(output)) => {
                let mut numbers = Part::Device(input.shallow_clone()).to_numbers()?;
                let mut part = Numbers::zeros(numbers.kind(), output.numel());
                let bytes = (numbers.as_mut().bytes(), part.as_mut().bytes());
                host.inline().reduce_scatter(bytes.0, bytes.1, data_type, op)?;
                upload(output, part.as_ref())?;
                Ok(None)
            }
            (Self::Direct { communicator, lane }, None) => {
                let (data, len) = memory(input);
                run(communicator, lane, Operation::AllReduce { data, len, data_type, op })
            }
            (Self::Direct { communicator, lane }, Some(output)) => {
                let ((input, input_len), (output, output_len)) = (memory(input), memory(output));
                let operation = Operation::ReduceScatter {
                    input,
                    input_len,
                    output,
                    output_len,
                    data_type,
                    op,
                };
                run(communicator, lane, operation)
            }
        }
    }

    /// Fills `whole`, a part for each rank, with what every rank has in its own part. None: it is in
    /// the order of what is computed.
    pub(super) fn start_all_gather(
        &mut self,
        host: &mut HostLink,
        whole: &Tensor,
    ) -> Result<Option<Underway>, Failure> {
        match self {
            Self::Alone => Ok(None),
            Self::Staged => {
                let communicator = host.inline();
                let (rank, len) = (communicator.rank() as usize, whole.numel());
                let part = len / communicator.world() as usize;
                let own = rank * part..(rank + 1) * part;
                let mut numbers = Numbers::zeros(precision_kind(whole), len);
                let there = whole.narrow(0, own.start as i64, part as i64);
                download(&there, numbers.as_mut().range(own))?;
                communicator.all_gather_in_place(numbers.as_mut().bytes())?;
                upload(whole, numbers.as_ref())?;
                Ok(None)
            }
            Self::Direct { communicator, lane } => {
                let (data, len) = memory(whole);
                run(communicator, lane, Operation::AllGatherInPlace { data, len })
            }
        }
    }
}

/// The numbers stay until what comes back has been waited for or dropped; in line with what is
/// computed, memory that is given back is not used anew before the operation has passed.
fn run(
    communicator: &mut Box<dyn DeviceCommunicator>,
    lane: &Lane,
    operation: Operation,
) -> Result<Option<Underway>, Failure> {
    let queue = lane.enter()?;
    // SAFETY: the pointers are of live tensors on the lane's device, flat and dense, whose owners keep
    // them as said above. What touches them next is ordered behind the mark.
    let issued = unsafe { communicator.enqueue(operation, queue) }?;
    let mark = lane.mark()?;
    communicator.watch(issued, Box::new(mark.probe()));
    Ok(lane.is_beside().then(|| Underway::Marked(Marked(mark))))
}

fn memory(tensor: &Tensor) -> (*mut u8, usize) {
    let len = tensor.numel() * tensor.kind().elt_size_in_bytes();
    (tensor.data_ptr().cast(), len)
}
