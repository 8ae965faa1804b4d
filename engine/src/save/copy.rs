//! This rank's part of the state as it was at a step boundary, so that training can go on.
//!
//! Promise: after the first copy, or where room was made ahead, a copy is a memcpy into memory that
//! is mapped already: no allocation, no page fault. What the next forward and backward leave alone,
//! the optimizer's states in the host's memory, is only borrowed at the boundary and copied by who
//! saves ([`StateCopy::complete`]). The price is this rank's part of the state once more, for as long
//! as the run lasts.

use std::sync::Arc;
use std::time::Duration;

use checkpoint::{DataType, SliceMeta, TensorKind};

use crate::error::Error;
use crate::optimizer::StateName;
use crate::zero::layout::Slice;
use crate::zero::{Desk, Loan, Place, Snapshot, StateKind, Zero};

/// Slices with their bytes, kept from save to save.
#[derive(Debug, Default)]
pub(crate) struct StateCopy {
    /// The best weights come last: not every save has them.
    slices: Vec<(SliceMeta, Vec<u8>)>,
    /// How many of them are of the state that was copied last.
    used: usize,
    /// What is still to be copied.
    borrowed: Option<Borrowed>,
    /// Where the last loan came from.
    desk: Option<Arc<Desk>>,
}

#[derive(Debug)]
struct Borrowed {
    loan: Loan,
    /// The slices whose elements it has, and where.
    places: Vec<(usize, Place)>,
}

impl StateCopy {
    /// Of the state of `zero`, still without room.
    pub(crate) fn plan(zero: &Zero) -> Self {
        let slice = |(kind, slice)| (meta(zero, tensor_kind(kind), &slice), Vec::new());
        Self { slices: owned(zero).map(slice).collect(), ..Self::default() }
    }

    /// Allocates what was planned and writes to it, so that the first copy finds it mapped.
    pub(super) fn make_room(&mut self) {
        for (meta, room) in &mut self.slices {
            let len = usize::try_from(meta.bytes()).expect("a slice of what is in memory");
            *room = vec![0; len];
            std::hint::black_box(room).fill(0);
        }
    }

    /// Every rank copies what it owns; all ranks together copy everything once. `best` are the
    /// weights of the best validation, where they are not the present ones. A copy is always of the
    /// same `zero`. It is whole after [`StateCopy::complete`].
    pub(super) fn fill(&mut self, zero: &mut Zero, best: Option<&Snapshot>) -> Result<(), Error> {
        // What it still had of an earlier state is of no use any more.
        self.borrowed = None;
        let loan = zero.lend();
        let (zero, mut places) = (&*zero, Vec::new());
        self.used = 0;
        for (kind, slice) in owned(zero) {
            let meta = || meta(zero, tensor_kind(kind), &slice);
            match zero.lent(kind, &slice).filter(|_| loan.is_some()) {
                Some(place) => places.push((self.next(meta), place)),
                None => zero.read(kind, &slice, |values| self.put(values, meta))?,
            }
        }
        self.desk = loan.as_ref().map(Loan::desk);
        self.borrowed = loan.map(|loan| Borrowed { loan, places });
        // Every rank has the same buffers by now: one copy is all of them.
        if zero.is_first_rank() {
            self.put_buffers(zero, TensorKind::Buffer, &zero.buffers().snapshot()?);
        }
        let Some(best) = best else { return Ok(()) };
        for slice in zero.owned() {
            zero.read_from(best, &slice, |values| {
                self.put(values, || meta(zero, TensorKind::Best, &slice));
            })?;
        }
        if zero.is_first_rank() {
            self.put_buffers(zero, TensorKind::Best, &best.buffers);
        }
        Ok(())
    }

    /// Copies what was borrowed, and gives it back. On the thread that saves.
    pub(super) fn complete(&mut self) {
        let Some(Borrowed { loan, places }) = self.borrowed.take() else { return };
        for (index, place) in places {
            self.set(index, loan.read(&place));
        }
    }

    /// How long training waited for what was borrowed; final once the copy is complete.
    pub(super) fn waited(&self) -> Duration {
        self.desk.as_ref().map_or(Duration::ZERO, |desk| desk.waited())
    }

    /// The next slice. It is the same one in every copy, so what it is is written down once.
    fn next(&mut self, meta: impl FnOnce() -> SliceMeta) -> usize {
        if self.used == self.slices.len() {
            self.slices.push((meta(), Vec::new()));
        }
        self.used += 1;
        self.used - 1
    }

    fn put<T: bytemuck::NoUninit>(&mut self, values: &[T], meta: impl FnOnce() -> SliceMeta) {
        let index = self.next(meta);
        self.set(index, values);
    }

    fn set<T: bytemuck::NoUninit>(&mut self, index: usize, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let (_, room) = &mut self.slices[index];
        room.resize(bytes.len(), 0);
        room.copy_from_slice(bytes);
    }

    fn put_buffers(&mut self, zero: &Zero, kind: TensorKind, values: &[Vec<u8>]) {
        let buffers = zero.buffers();
        for (index, bytes) in values.iter().enumerate() {
            self.put(bytes, || {
                let (dtype, global_shape) = (buffers.dtype(index), buffers.shape(index));
                let len = global_shape.iter().product();
                let name = buffers.name(index).to_owned();
                SliceMeta { name, kind, dtype, global_shape, offset: 0, len }
            });
        }
    }

    /// Of a complete copy.
    pub(super) fn as_bytes(&self) -> Vec<(SliceMeta, &[u8])> {
        assert!(self.borrowed.is_none(), "a copy is completed before it is read");
        let used = self.slices[..self.used].iter();
        used.map(|(meta, bytes)| (meta.clone(), bytes.as_slice())).collect()
    }
}

/// What this rank owns of parameters and optimizer states, in one order.
fn owned(zero: &Zero) -> impl Iterator<Item = (StateKind, Slice)> {
    let kinds = zero.kinds();
    let of = move |slice: Slice| kinds.clone().into_iter().map(move |kind| (kind, slice));
    zero.owned().into_iter().flat_map(of).filter(|(kind, slice)| zero.has(*kind, slice.parameter))
}

fn meta(zero: &Zero, kind: TensorKind, slice: &Slice) -> SliceMeta {
    SliceMeta {
        name: zero.name(slice.parameter).to_owned(),
        kind,
        dtype: DataType::F32,
        global_shape: zero.shape(slice.parameter).iter().map(|d| *d as u64).collect(),
        offset: slice.offset as u64,
        len: slice.len as u64,
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

#[cfg(test)]
mod tests;
