//! The sums: elements of all ranks become one, in rank order 0..W-1, whatever the transport.
//!
//! Promises: the same operations in the same order for every element on every path, so results are
//! equal bit for bit (but for the payload where several NaNs meet); bf16 and f16 are combined in f32
//! and rounded once. Needs no alignment. Works block by block, so that intermediate values stay in
//! the first-level cache.

#![expect(unsafe_code, reason = "in-place results overlap one of the sources")]

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16, slice::HalfFloatSliceExt as _};

use crate::{DataType, ReduceOp, link::Span};

/// Elements combined at a time: 8 KiB of the widest type.
const BLOCK: usize = 1024;

/// Kept between operations for its allocation only.
pub(crate) type Scratch = Vec<Span>;

/// An element at any address.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Packed<T>(T);

/// What sums are made of.
trait Number: Pod + PartialOrd {
    fn add(self, other: Self) -> Self;
    fn divide(self, by: usize) -> Self;

    /// NaN, the only value that differs from itself, wins.
    fn greater(self, other: Self) -> Self {
        if self > other || self.partial_cmp(&self).is_none() { self } else { other }
    }

    fn lesser(self, other: Self) -> Self {
        if self < other || self.partial_cmp(&self).is_none() { self } else { other }
    }
}

/// An element type that is combined in another one.
trait Element: Pod {
    type Wide: Number;

    fn widen(from: &[Packed<Self>], to: &mut [Self::Wide]);
    fn narrow(from: &[Self::Wide], to: &mut [Packed<Self>]);
}

/// Writes the reduction of `sources`, which are in rank order, to `out`.
///
/// # Safety
/// All spans have one length, a whole number of elements. `out` is one of the sources or overlaps
/// none, and nobody else touches any of them during the call.
pub(crate) unsafe fn reduce(data_type: DataType, op: ReduceOp, sources: &[Span], out: Span) {
    // SAFETY: forwarded from the caller.
    unsafe {
        match data_type {
            DataType::F32 => direct::<f32>(op, sources, out),
            DataType::F64 => direct::<f64>(op, sources, out),
            DataType::I64 => direct::<i64>(op, sources, out),
            DataType::Bf16 => widened::<bf16>(op, sources, out),
            DataType::F16 => widened::<f16>(op, sources, out),
            DataType::U8 => widened::<u8>(op, sources, out),
        }
    }
}

/// Types that are combined as they are.
///
/// # Safety
/// As [`reduce`].
unsafe fn direct<T: Number>(op: ReduceOp, sources: &[Span], out: Span) {
    for (from, to) in blocks::<T>(out) {
        let target = out.range(from, to);
        // SAFETY: each slice is made of a source that the target's slice does not overlap, and both
        // are gone at the end of the call that they are made for.
        unsafe {
            let source = |rank: usize| elements::<T>(sources[rank].range(from, to));
            match sources {
                [first, _] if first.is_same(out) => fold(op, elements_mut(target), source(1)),
                [_, second] if second.is_same(out) => {
                    fold_onto(op, source(0), elements_mut(target))
                }
                [_, _] => combine(op, elements_mut(target), source(0), source(1)),
                _ => many::<T>(op, sources, (from, to), target),
            }
            if op == ReduceOp::Mean {
                divide(elements_mut::<T>(target), sources.len());
            }
        }
    }
}

/// Any number of sources, through a block that overlaps none.
///
/// # Safety
/// As [`reduce`], for the part `range` whose place in `out` is `target`.
unsafe fn many<T: Number>(op: ReduceOp, sources: &[Span], range: (usize, usize), target: Span) {
    let mut block = [Packed(T::zeroed()); BLOCK];
    let block = &mut block[..target.len() / size_of::<T>()];
    for (rank, source) in sources.iter().enumerate() {
        // SAFETY: nothing is written to any span while this slice lives.
        let source = unsafe { elements::<T>(source.range(range.0, range.1)) };
        match rank {
            0 => block.copy_from_slice(source),
            _ => fold(op, block, source),
        }
    }
    // SAFETY: the caller gives the target to us, and no slice of a source is left.
    unsafe { target.fill_from(bytemuck::cast_slice(block)) };
}

/// Types that are combined in a wider one.
///
/// # Safety
/// As [`reduce`].
unsafe fn widened<E: Element>(op: ReduceOp, sources: &[Span], out: Span) {
    let mut sum = [E::Wide::zeroed(); BLOCK];
    let mut next = [E::Wide::zeroed(); BLOCK];
    for (from, to) in blocks::<E>(out) {
        let count = (to - from) / size_of::<E>();
        let (sum, next) = (&mut sum[..count], &mut next[..count]);
        for (rank, source) in sources.iter().enumerate() {
            // SAFETY: nothing is written to any span while this slice lives.
            let source = unsafe { elements::<E>(source.range(from, to)) };
            if rank == 0 {
                E::widen(source, sum);
            } else {
                E::widen(source, next);
                fold::<E::Wide>(op, bytemuck::cast_slice_mut(sum), bytemuck::cast_slice(next));
            }
        }
        if op == ReduceOp::Mean {
            divide(bytemuck::cast_slice_mut::<_, Packed<E::Wide>>(sum), sources.len());
        }
        // SAFETY: no slice of a source is left.
        E::narrow(sum, unsafe { elements_mut::<E>(out.range(from, to)) });
    }
}

/// `sum = sum op next`.
fn fold<T: Number>(op: ReduceOp, sum: &mut [Packed<T>], next: &[Packed<T>]) {
    let pairs = sum.iter_mut().zip(next);
    match op {
        ReduceOp::Sum | ReduceOp::Mean => pairs.for_each(|(a, b)| a.0 = { a.0 }.add(b.0)),
        ReduceOp::Max => pairs.for_each(|(a, b)| a.0 = { a.0 }.greater(b.0)),
        ReduceOp::Min => pairs.for_each(|(a, b)| a.0 = { a.0 }.lesser(b.0)),
    }
}

/// `last = first op last`.
fn fold_onto<T: Number>(op: ReduceOp, first: &[Packed<T>], last: &mut [Packed<T>]) {
    let pairs = first.iter().zip(last);
    match op {
        ReduceOp::Sum | ReduceOp::Mean => pairs.for_each(|(a, b)| b.0 = { a.0 }.add(b.0)),
        ReduceOp::Max => pairs.for_each(|(a, b)| b.0 = { a.0 }.greater(b.0)),
        ReduceOp::Min => pairs.for_each(|(a, b)| b.0 = { a.0 }.lesser(b.0)),
    }
}

/// `out = first op second`.
fn combine<T: Number>(
    op: ReduceOp,
    out: &mut [Packed<T>],
    first: &[Packed<T>],
    second: &[Packed<T>],
) {
    let triples = out.iter_mut().zip(first.iter().zip(second));
    match op {
        ReduceOp::Sum | ReduceOp::Mean => triples.for_each(|(o, (a, b))| o.0 = { a.0 }.add(b.0)),
        ReduceOp::Max => triples.for_each(|(o, (a, b))| o.0 = { a.0 }.greater(b.0)),
        ReduceOp::Min => triples.for_each(|(o, (a, b))| o.0 = { a.0 }.lesser(b.0)),
    }
}

fn divide<T: Number>(values: &mut [Packed<T>], world: usize) {
    for value in values {
        value.0 = { value.0 }.divide(world);
    }
}

/// The byte ranges of the blocks of `out`.
fn blocks<T>(out: Span) -> impl Iterator<Item = (usize, usize)> {
    let (len, step) = (out.len(), BLOCK * size_of::<T>());
    (0..len).step_by(step).map(move |from| (from, len.min(from + step)))
}

/// # Safety
/// As [`Span::as_slice`].
unsafe fn elements<'a, T: Pod>(span: Span) -> &'a [Packed<T>] {
    // SAFETY: forwarded from the caller.
    bytemuck::cast_slice(unsafe { span.as_slice() })
}

/// # Safety
/// As [`Span::as_slice_mut`].
unsafe fn elements_mut<'a, T: Pod>(span: Span) -> &'a mut [Packed<T>] {
    // SAFETY: forwarded from the caller.
    bytemuck::cast_slice_mut(unsafe { span.as_slice_mut() })
}

impl Number for f32 {
    fn add(self, other: Self) -> Self {
        self + other
    }

    fn divide(self, by: usize) -> Self {
        self / by as f32
    }
}

impl Number for f64 {
    fn add(self, other: Self) -> Self {
        self + other
    }

    fn divide(self, by: usize) -> Self {
        self / by as f64
    }
}

impl Number for i64 {
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn divide(self, by: usize) -> Self {
        self / by as i64
    }
}

impl Number for u32 {
    fn add(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn divide(self, by: usize) -> Self {
        self / by as u32
    }
}

impl Element for bf16 {
    type Wide = f32;

    fn widen(from: &[Packed<Self>], to: &mut [f32]) {
        from.iter().zip(to).for_each(|(from, to)| *to = { from.0 }.to_f32());
    }

    fn narrow(from: &[f32], to: &mut [Packed<Self>]) {
        from.iter().zip(to).for_each(|(from, to)| to.0 = Self::from_f32(*from));
    }
}

impl Element for f16 {
    type Wide = f32;

    // Whole blocks at once: `half` asks for the processor's conversion once per slice, which wants
    // aligned elements.
    fn widen(from: &[Packed<Self>], to: &mut [f32]) {
        let mut aligned = [Self::ZERO; BLOCK];
        let aligned = &mut aligned[..from.len()];
        bytemuck::cast_slice_mut::<_, Packed<Self>>(aligned).copy_from_slice(from);
        aligned.convert_to_f32_slice(to);
    }

    fn narrow(from: &[f32], to: &mut [Packed<Self>]) {
        let mut aligned = [Self::ZERO; BLOCK];
        let aligned = &mut aligned[..from.len()];
        aligned.convert_from_f32_slice(from);
        to.copy_from_slice(bytemuck::cast_slice(aligned));
    }
}

impl Element for u8 {
    type Wide = u32;

    fn widen(from: &[Packed<Self>], to: &mut [u32]) {
        from.iter().zip(to).for_each(|(from, to)| *to = u32::from(from.0));
    }

    fn narrow(from: &[u32], to: &mut [Packed<Self>]) {
        // Sums wrap, as 8-bit sums do; means, largest and smallest fit.
        from.iter().zip(to).for_each(|(from, to)| to.0 = *from as u8);
    }
}
