//! What the optimizer keeps of a bucket, beside the parameters that it updates.

use std::ops::Range;
use std::sync::Arc;

use tch::{Kind, TchError, Tensor};

use crate::device::Device;
use crate::numbers::NumbersRef;
use crate::optimizer::{Optimizer, StateName};
use crate::storage::{Part, PartMut};
use crate::zero::loan::HostStates;

/// In the order of [`Optimizer::states`]; equally long, in fp32.
#[derive(Debug)]
pub(crate) enum States {
    /// Another thread may read them while they are lent.
    Host(Arc<HostStates>),
    /// Flat.
    Device(Vec<Tensor>),
}

impl States {
    /// Before the first update.
    pub(crate) fn initial(
        optimizer: &Optimizer,
        len: usize,
        device: Device,
    ) -> Result<Self, TchError> {
        let names = optimizer.states().iter();
        if !device.is_resident() {
            let state = |name: &StateName| vec![optimizer.initial(*name); len];
            return Ok(Self::Host(Arc::new(names.map(state).collect())));
        }
        let options = (Kind::Float, device.tensors());
        let state = |name: &StateName| {
            Tensor::f_full([len as i64], f64::from(optimizer.initial(*name)), options)
        };
        names.map(state).collect::<Result<_, _>>().map(Self::Device)
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Host(states) => states.iter().map(|state| size_of_val(&**state)).sum(),
            Self::Device(states) => {
                states.iter().map(|state| size_of::<f32>() * state.numel()).sum()
            }
        }
    }

    /// Shows elements of one of them, in the host's memory.
    pub(crate) fn read<T>(
        &self,
        index: usize,
        range: Range<usize>,
        take: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, TchError> {
        match self {
            Self::Host(states) => Ok(take(&states[index][range])),
            Self::Device(states) => {
                Part::Device(states[index].shallow_clone()).range(range).show(take)
            }
        }
    }

    /// Sets elements of one of them.
    pub(crate) fn write(
        &mut self,
        index: usize,
        start: usize,
        values: &[f32],
    ) -> Result<(), TchError> {
        let range = start..start + values.len();
        match self {
            Self::Host(states) => {
                ours(states)[index][range].copy_from_slice(values);
                Ok(())
            }
            Self::Device(states) => {
                let target = PartMut::Device(states[index].shallow_clone()).range(range);
                target.copy_from(Part::Host(NumbersRef::Fp32(values)))
            }
        }
    }
}

/// To change them.
pub(super) fn ours(states: &mut Arc<HostStates>) -> &mut HostStates {
    Arc::get_mut(states).expect("`Zero::recall` comes before a change")
}
