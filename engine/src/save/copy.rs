//! This rank's part of the state, copied at a step boundary, so that training can go on.

use checkpoint::{DataType, SliceMeta, TensorKind};

use crate::optimizer::StateName;
use crate::zero::{Snapshot, StateKind, Zero};

/// Slices with their values.
#[derive(Debug)]
pub(crate) struct StateCopy(Vec<(SliceMeta, Vec<f32>)>);

impl StateCopy {
    /// Every rank copies what it owns; all ranks together copy everything once. `best` are the
    /// weights of the best validation, where they are not the present ones.
    pub(super) fn of(zero: &Zero, best: Option<&Snapshot>) -> Self {
        let mut slices = Vec::new();
        for slice in zero.owned() {
            let mut push = |kind: TensorKind, values: &[f32]| {
                let meta = SliceMeta {
                    name: zero.name(slice.parameter).to_owned(),
                    kind,
                    dtype: DataType::F32,
                    global_shape: zero.shape(slice.parameter).iter().map(|d| *d as u64).collect(),
                    offset: slice.offset as u64,
                    len: slice.len as u64,
                };
                slices.push((meta, values.to_vec()));
            };
            for kind in zero.kinds() {
                push(tensor_kind(kind), zero.read(kind, &slice));
            }
            if let Some(best) = best {
                push(TensorKind::Best, zero.read_from(best, &slice));
            }
        }
        Self(slices)
    }

    pub(super) fn as_bytes(&self) -> Vec<(SliceMeta, &[u8])> {
        let bytes = |values| bytemuck::cast_slice::<f32, u8>(values);
        self.0.iter().map(|(meta, values)| (meta.clone(), bytes(values))).collect()
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
