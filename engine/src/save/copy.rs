//! This rank's part of the state, copied at a step boundary, so that training can go on.

use checkpoint::{DataType, SliceMeta, TensorKind};

use crate::error::Error;
use crate::optimizer::StateName;
use crate::zero::{Snapshot, StateKind, Zero};

/// Slices with their bytes.
#[derive(Debug)]
pub(crate) struct StateCopy(Vec<(SliceMeta, Vec<u8>)>);

impl StateCopy {
    /// Every rank copies what it owns; all ranks together copy everything once. `best` are the
    /// weights of the best validation, where they are not the present ones.
    pub(super) fn of(zero: &Zero, best: Option<&Snapshot>) -> Result<Self, Error> {
        let mut slices = Vec::new();
        for slice in zero.owned() {
            let mut push = |kind: TensorKind, values: Vec<f32>| {
                let meta = SliceMeta {
                    name: zero.name(slice.parameter).to_owned(),
                    kind,
                    dtype: DataType::F32,
                    global_shape: zero.shape(slice.parameter).iter().map(|d| *d as u64).collect(),
                    offset: slice.offset as u64,
                    len: slice.len as u64,
                };
                slices.push((meta, bytemuck::cast_slice(&values).to_vec()));
            };
            for kind in zero.kinds().into_iter().filter(|kind| zero.has(*kind, slice.parameter)) {
                push(tensor_kind(kind), zero.read(kind, &slice));
            }
            if let Some(best) = best {
                push(TensorKind::Best, zero.read_from(best, &slice));
            }
        }
        // Every rank has the same buffers by now: one copy is all of them.
        if zero.is_first_rank() {
            push_buffers(zero, TensorKind::Buffer, zero.buffers().snapshot()?, &mut slices);
            if let Some(best) = best {
                push_buffers(zero, TensorKind::Best, best.buffers.clone(), &mut slices);
            }
        }
        Ok(Self(slices))
    }

    pub(super) fn as_bytes(&self) -> Vec<(SliceMeta, &[u8])> {
        self.0.iter().map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect()
    }
}

fn push_buffers(
    zero: &Zero,
    kind: TensorKind,
    values: Vec<Vec<u8>>,
    to: &mut Vec<(SliceMeta, Vec<u8>)>,
) {
    let buffers = zero.buffers();
    for (index, bytes) in values.into_iter().enumerate() {
        let (dtype, global_shape) = (buffers.dtype(index), buffers.shape(index));
        let len = global_shape.iter().product();
        let name = buffers.name(index).to_owned();
        to.push((SliceMeta { name, kind, dtype, global_shape, offset: 0, len }, bytes));
    }
}

pub(super) fn tensor_kind(kind: StateKind) -> TensorKind {
    match kind {
        StateKind::Parameter => TensorKind::Parameter,
        StateKind::State(name) => match name {
            StateName::ExpAvg => TensorKind::ExpAvg,
            StateName::ExpAvgSq => TensorKind::ExpAvgSq,
            StateName::MomentumBuffer => TensorKind::MomentumBuffer,
            StateName::Sum => TensorKind::Sum,
            StateName::SquareAvg => TensorKind::SquareAvg,
            StateName::GradAvg => TensorKind::GradAvg,
        },
    }
}
