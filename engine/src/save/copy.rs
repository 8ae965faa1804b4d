//! This rank's part of the state, copied at a step boundary, so that training can go on.

use crate::zero::{StateKind, Zero};

/// Names of the best weights in a checkpoint start with it; what follows is the parameter's name.
pub(crate) const BEST_PREFIX: &str = "best/";

/// What one piece of a copy belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    State(StateKind),
    /// Weights of the best validation.
    Best,
}

/// Consecutive elements of one flattened tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    /// The parameter's.
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    pub(super) offset: u64,
    pub(super) values: Vec<f32>,
}

#[derive(Debug)]
pub(crate) struct StateCopy {
    pub(super) pieces: Vec<Piece>,
}

impl StateCopy {
    /// Every rank copies what it owns; all ranks together copy everything once.
    pub(super) fn of(zero: &Zero, best: Option<&[Vec<f32>]>) -> Self {
        let mut pieces = Vec::new();
        for slice in zero.owned() {
            let mut push = |kind: Kind, values: &[f32]| {
                pieces.push(Piece {
                    kind,
                    name: zero.name(slice.parameter).to_owned(),
                    shape: zero.shape(slice.parameter).iter().map(|d| *d as u64).collect(),
                    offset: slice.offset as u64,
                    values: values.to_vec(),
                });
            };
            for kind in StateKind::ALL {
                push(Kind::State(kind), zero.read(kind, &slice));
            }
            if let Some(best) = best {
                push(Kind::Best, zero.read_from(best, &slice));
            }
        }
        Self { pieces }
    }
}
