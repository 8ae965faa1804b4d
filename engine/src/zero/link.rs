//! The training communicators as the engine uses them. Numbers on the host go inline on the training
//! thread or on a communication thread beside it; for those on a device see [`on_device`].
//!
//! Promise: operations reach the wire in the order in which they were asked for, on every path
//! (A7). Refusal: decides no order itself.
#![expect(unsafe_code, reason = "lends buffers to the communication thread")]

use collectives::{
    AsyncCommunicator, Communicator, DataType, DeviceCommunicator, Error, Operation, ReduceOp,
};
use common::spec::PrecisionKind;

use crate::device::Device;
use crate::numbers::NumbersMut;
use crate::storage::{PartMut, Storage};
use crate::zero::failure::Failure;
use crate::zero::link::on_device::DeviceLink;

mod on_device;
mod underway;

pub(crate) use underway::Underway;

/// What a rank has to speak to the others.
#[derive(Debug)]
pub(crate) struct Communicators {
    pub(crate) host: Communicator,
    /// Of what is on a device; without one that travels through the host's memory.
    pub(crate) device: Option<Box<dyn DeviceCommunicator>>,
}

/// The ways to the other ranks: of numbers on the host, and of numbers on a device.
#[derive(Debug)]
pub(crate) struct Link {
    host: HostLink,
    device: DeviceLink,
}

#[derive(Debug)]
enum HostLink {
    /// Operations run on the calling thread.
    Inline(Communicator),
    /// Operations run on their own thread, so that backward goes on meanwhile.
    Overlapped(AsyncCommunicator),
}

/// A sum of gradients that the link owns until it has landed.
#[derive(Debug)]
pub(crate) struct Flight {
    // Dropped before the buffers: its drop waits until nobody works on them.
    underway: Option<Underway>,
    pub(crate) bucket: usize,
    /// All ranks' sum for an all-reduce, untouched for a reduce-scatter.
    pub(crate) input: Storage,
    /// This rank's part of the sum; None for an all-reduce.
    pub(crate) output: Option<Storage>,
}

impl Flight {
    /// A sum that is there already.
    pub(crate) fn landed(bucket: usize, input: Storage, output: Option<Storage>) -> Self {
        Self { underway: None, bucket, input, output }
    }

    /// Afterwards whoever looks at the sum sees it.
    pub(crate) fn land(&mut self) -> Result<(), Failure> {
        self.underway.take().map_or(Ok(()), Underway::wait)
    }
}

impl Link {
    pub(crate) fn new(
        communicators: Communicators,
        on: Device,
        overlap: bool,
    ) -> Result<Self, Failure> {
        let Communicators { host, device } = communicators;
        let world = host.world();
        let device = DeviceLink::new(device, world, (on, overlap))?;
        // A world of one has nothing to overlap with, and what is on a device overlaps there.
        let host = if overlap && world > 1 && !on.is_resident() {
            HostLink::Overlapped(AsyncCommunicator::spawn(host)?)
        } else {
            HostLink::Inline(host)
        };
        Ok(Self { host, device })
    }

    /// The communicator, of a link that runs its operations on the calling thread.
    pub(crate) fn inline(&mut self) -> &mut Communicator {
        self.host.inline()
    }

    /// Whether operations run beside what the calling thread computes.
    pub(crate) fn is_overlapped(&self) -> bool {
        matches!(self.host, HostLink::Overlapped(_)) || self.device.is_beside()
    }

    /// How what is on a device is summed, for people.
    pub(crate) fn way(&self) -> &'static str {
        self.device.way()
    }

    /// Starts the sum of a bucket: a reduce-scatter where there is an output, which is of the same
    /// precision, else an all-reduce.
    pub(crate) fn start_sum(
        &mut self,
        bucket: usize,
        mut input: Storage,
        mut output: Option<Storage>,
    ) -> Result<Flight, Failure> {
        assert!(output.as_ref().is_none_or(|output| output.kind() == input.kind()));
        let kind = data_type(input.kind());
        let underway = match (&mut input, &mut output) {
            (Storage::Host(input), None) => {
                self.host.start_sum(input.as_mut().bytes(), None, kind)?
            }
            (Storage::Host(input), Some(Storage::Host(output))) => {
                let part = Some(output.as_mut().bytes());
                self.host.start_sum(input.as_mut().bytes(), part, kind)?
            }
            (Storage::Device(input), None) => {
                self.device.start_sum(&mut self.host, (&input.tensor(), None), kind)?
            }
            (Storage::Device(input), Some(Storage::Device(output))) => {
                let (input, output) = (input.tensor(), output.tensor());
                self.device.start_sum(&mut self.host, (&input, Some(&output)), kind)?
            }
            _ => unreachable!("a sum lands in the memory that it was made in"),
        };
        Ok(Flight { underway, bucket, input, output })
    }

    pub(crate) fn sum_f64(&mut self, values: &mut [f64]) -> Result<(), Error> {
        self.device.check()?;
        self.host.all_reduce(bytemuck::cast_slice_mut(values), DataType::F64, ReduceOp::Sum)
    }

    pub(crate) fn min_i64(&mut self, values: &mut [i64]) -> Result<(), Error> {
        self.device.check()?;
        self.host.all_reduce(bytemuck::cast_slice_mut(values), DataType::I64, ReduceOp::Min)
    }

    /// Fills `data`, a part for each rank, with what every rank has in its own part.
    pub(crate) fn all_gather(&mut self, data: PartMut<'_>) -> Result<(), Failure> {
        match data {
            PartMut::Host(numbers) => Ok(self.host.all_gather(numbers.bytes())?),
            PartMut::Device(tensor) => {
                let underway = self.device.start_all_gather(&mut self.host, &tensor)?;
                underway.map_or(Ok(()), Underway::wait)
            }
        }
    }

    /// Starts to fill `data`, a part for each rank, with what every rank has in its own part. None: it
    /// is done.
    ///
    /// # Safety
    /// The numbers stay, and nobody touches them, until it has been waited for or dropped.
    pub(crate) unsafe fn start_all_gather(
        &mut self,
        data: PartMut<'_>,
    ) -> Result<Option<Underway>, Failure> {
        match data {
            PartMut::Host(numbers) => {
                // SAFETY: as the caller promises.
                Ok(unsafe { self.host.start_all_gather(numbers) }?)
            }
            PartMut::Device(tensor) => self.device.start_all_gather(&mut self.host, &tensor),
        }
    }

    /// Replaces `data` by that of rank 0.
    pub(crate) fn broadcast(&mut self, data: &mut [u8]) -> Result<(), Error> {
        self.host.broadcast(data)
    }
}

impl HostLink {
    fn inline(&mut self) -> &mut Communicator {
        match self {
            Self::Inline(communicator) => communicator,
            Self::Overlapped(_) => unreachable!("asked of links that were made without overlap"),
        }
    }

    /// None: it is done.
    fn start_sum(
        &mut self,
        bytes: &mut [u8],
        part: Option<&mut [u8]>,
        kind: DataType,
    ) -> Result<Option<Underway>, Error> {
        let op = ReduceOp::Sum;
        let communicator = match self {
            Self::Inline(communicator) => {
                match part {
                    Some(part) => communicator.reduce_scatter(bytes, part, kind, op)?,
                    None => communicator.all_reduce(bytes, kind, op)?,
                }
                return Ok(None);
            }
            Self::Overlapped(communicator) => communicator,
        };
        let operation = match part {
            Some(part) => Operation::ReduceScatter {
                input: bytes.as_ptr(),
                input_len: bytes.len(),
                output: part.as_mut_ptr(),
                output_len: part.len(),
                data_type: kind,
                op,
            },
            None => {
                let (data, len) = (bytes.as_mut_ptr(), bytes.len());
                Operation::AllReduce { data, len, data_type: kind, op }
            }
        };
        // SAFETY: `Link::start_sum` moves the vectors into the flight, their elements stay where they
        // are. Nobody reads them before `land`, and a flight that is dropped instead drops its
        // `Pending`, which waits, before its vectors.
        unsafe { communicator.start(operation) }.map(|pending| Some(Underway::Beside(pending)))
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

    fn all_gather(&mut self, data: &mut [u8]) -> Result<(), Error> {
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

    /// # Safety
    /// As [`Link::start_all_gather`].
    unsafe fn start_all_gather(
        &mut self,
        numbers: NumbersMut<'_>,
    ) -> Result<Option<Underway>, Error> {
        let bytes = numbers.bytes();
        match self {
            Self::Inline(communicator) => communicator.all_gather_in_place(bytes).map(|()| None),
            Self::Overlapped(communicator) => {
                let (data, len) = (bytes.as_mut_ptr(), bytes.len());
                let operation = Operation::AllGatherInPlace { data, len };
                // SAFETY: as the caller promises.
                unsafe { communicator.start(operation) }.map(|it| Some(Underway::Beside(it)))
            }
        }
    }

    fn broadcast(&mut self, data: &mut [u8]) -> Result<(), Error> {
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
