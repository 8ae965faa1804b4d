//! Working memory that calls share. Its contents mean nothing between calls.

use bytemuck::Zeroable;

use crate::simd::LANES;

/// Memory that a call may use freely. Keep one per thread: calls of shapes that it has already
/// seen allocate nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    lines: Vec<Line>,
}

/// A cache line: a vector that starts on one is loaded without touching a second.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Hands out the scratch memory of one call, piece by piece, each on its own cache lines.
pub(crate) struct Pieces<'a> {
    rest: &'a mut [f32],
}

impl Scratch {
    /// That it has grown to.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
    }

    /// For pieces of these lengths.
    pub(crate) fn pieces(&mut self, lengths: &[usize]) -> Pieces<'_> {
        let lines: usize = lengths.iter().map(|length| length.div_ceil(LANES)).sum();
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::zeroed());
        }
        Pieces { rest: bytemuck::cast_slice_mut(&mut self.lines[..lines]) }
    }
}

impl<'a> Pieces<'a> {
    /// The next piece, with arbitrary contents.
    pub(crate) fn take(&mut self, length: usize) -> &'a mut [f32] {
        let (piece, rest) =
            std::mem::take(&mut self.rest).split_at_mut(length.next_multiple_of(LANES));
        self.rest = rest;
        &mut piece[..length]
    }

    /// The next piece, all zeros.
    pub(crate) fn take_zeroed(&mut self, length: usize) -> &'a mut [f32] {
        let piece = self.take(length);
        piece.fill(0.0);
        piece
    }
}
