//! The model's buffers (running statistics of batch norm): whole on every rank, in fp32 or i64
//! whatever the model's precision.
//!
//! Each rank's change with its own batches. What counts are rank 0's, as under torch's DDP: the
//! ranks take them over before they evaluate or save. Training does not read them, so it is the
//! same as if they were shared before every forward.
//!
//! Promise: what is evaluated, saved and exported is the same on every rank, and a resumed run goes
//! on with the same bits.

use checkpoint::DataType;
use tch::{Kind, TchError, Tensor};

use crate::device::Device;
use crate::error::Error;
use crate::model::{Buffer, Model};
use crate::zero::link::Link;

#[derive(Debug)]
pub(crate) struct Buffers(Vec<Entry>);

/// The bytes of all buffers, by buffer.
pub(crate) type Snapshot = Vec<Vec<u8>>;

#[derive(Debug)]
struct Entry {
    /// A handle of the model's.
    buffer: Buffer,
    dtype: DataType,
}

impl Buffers {
    /// Moves them to where the model is.
    pub(crate) fn of(model: &Model, device: Device) -> Result<Self, Error> {
        let entry = |buffer: &Buffer| {
            relocate(&buffer.tensor, device).map_err(Error::torch("move a buffer"))?;
            let dtype = match buffer.tensor.kind() {
                Kind::Float => DataType::F32,
                Kind::Int64 => DataType::I64,
                kind => return Err(Error::BufferKind { name: buffer.name.clone(), kind }),
            };
            Ok(Entry { buffer: buffer.handle(), dtype })
        };
        model.buffers().iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        &self.0[index].buffer.name
    }

    pub(crate) fn dtype(&self, index: usize) -> DataType {
        self.0[index].dtype
    }

    pub(crate) fn shape(&self, index: usize) -> Vec<u64> {
        self.0[index].buffer.tensor.size().iter().map(|d| *d as u64).collect()
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        self.0.iter().map(Entry::bytes).collect::<Result<_, _>>().map_err(Error::torch(COPY))
    }

    /// Sets all buffers.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.0
            .iter_mut()
            .zip(snapshot)
            .try_for_each(|(entry, bytes)| entry.set(bytes))
            .map_err(Error::torch(COPY))
    }

    /// Every rank takes over rank 0's. Collective, where there are any.
    pub(crate) fn share(&mut self, link: &mut Link) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut snapshot = self.snapshot()?;
        let mut all = snapshot.concat();
        link.broadcast(&mut all).map_err(Error::communication("share the model's buffers", 0))?;
        let mut from = 0;
        for bytes in &mut snapshot {
            let end = from + bytes.len();
            bytes.copy_from_slice(&all[from..end]);
            from = end;
        }
        self.restore(&snapshot)
    }
}

fn relocate(tensor: &Tensor, device: Device) -> Result<(), TchError> {
    if tensor.device() == device.tensors() {
        return Ok(());
    }
    let there = tensor.f_to_device(device.tensors())?;
    // Another handle of the same tensor, so the model's own moves too.
    tensor.shallow_clone().f_set_data(&there)
}

const COPY: &str = "copy the model's buffers";

impl Entry {
    fn bytes(&self) -> Result<Vec<u8>, TchError> {
        let (tensor, len) = (&self.buffer.tensor, self.buffer.tensor.numel());
        let mut bytes = vec![0; len * self.dtype.size() as usize];
        tensor.f_copy_data_u8(&mut bytes, len)?;
        Ok(bytes)
    }

    fn set(&mut self, bytes: &[u8]) -> Result<(), TchError> {
        let tensor = &mut self.buffer.tensor;
        let new = Tensor::f_from_data_size(bytes, &tensor.size(), tensor.kind())?;
        tensor.f_copy_(&new)
    }
}
