//! Where every parameter lies in the flat buckets, and which part of them each rank owns.
//!
//! Promise: a pure function of the parameters' sizes, the world and the bucket size, so every rank
//! computes the same one (A7). Refusal: holds no memory.

use std::ops::Range;

/// Parameters start at multiples of 64 bytes, which is what wide vector loads like.
const ALIGNMENT: usize = 16;

/// What the plan needs to know of one parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The layer or block that it belongs to; communicated together.
    pub(crate) unit: usize,
    pub(crate) len: usize,
}

/// All buckets of a model, in the parameters' order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) world: usize,
    pub(crate) buckets: Vec<Bucket>,
}

/// One flat buffer: whole units, each parameter aligned, padded so that the world divides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) len: usize,
    pub(crate) pieces: Vec<Piece>,
}

/// One parameter in its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) parameter: usize,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// The part of one parameter that lies in one rank's shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) bucket: usize,
    pub(crate) parameter: usize,
    /// First element, in the flattened parameter.
    pub(crate) offset: usize,
    /// First element, in the rank's shard of the bucket.
    pub(crate) shard_offset: usize,
    pub(crate) len: usize,
}

impl Layout {
    /// Merges units, in order, while a bucket has at most `bucket_size` elements. A unit is never
    /// split: one that is larger is a bucket of its own.
    pub(crate) fn plan(parameters: &[Extent], world: usize, bucket_size: usize) -> Self {
        let mut buckets = Vec::new();
        let mut open = Bucket { len: 0, pieces: Vec::new() };
        let mut first = 0;
        for unit in parameters.chunk_by(|a, b| a.unit == b.unit) {
            let unit_len: usize = unit.iter().map(|p| p.len.next_multiple_of(ALIGNMENT)).sum();
            if !open.pieces.is_empty() && open.len + unit_len > bucket_size {
                buckets.push(std::mem::replace(&mut open, Bucket { len: 0, pieces: Vec::new() }));
            }
            for (position, extent) in unit.iter().enumerate() {
                let parameter = first + position;
                open.pieces.push(Piece { parameter, offset: open.len, len: extent.len });
                open.len += extent.len.next_multiple_of(ALIGNMENT);
            }
            first += unit.len();
        }
        if !open.pieces.is_empty() {
            buckets.push(open);
        }
        for bucket in &mut buckets {
            bucket.len = bucket.len.next_multiple_of(ALIGNMENT * world);
        }
        Self { world, buckets }
    }

    /// The parts of parameters that `rank` owns, bucket by bucket.
    pub(crate) fn slices(&self, rank: usize) -> Vec<Slice> {
        let mut slices = Vec::new();
        for (index, bucket) in self.buckets.iter().enumerate() {
            let shard = bucket.shard(self.world, rank);
            for piece in &bucket.pieces {
                let start = piece.offset.max(shard.start);
                let end = (piece.offset + piece.len).min(shard.end);
                if start < end {
                    slices.push(Slice {
                        bucket: index,
                        parameter: piece.parameter,
                        offset: start - piece.offset,
                        shard_offset: start - shard.start,
                        len: end - start,
                    });
                }
            }
        }
        slices
    }

    /// Bucket and piece of each parameter, by its index.
    pub(crate) fn places(&self) -> Vec<(usize, Piece)> {
        let mut places: Vec<_> = self
            .buckets
            .iter()
            .enumerate()
            .flat_map(|(index, bucket)| bucket.pieces.iter().map(move |piece| (index, *piece)))
            .collect();
        places.sort_by_key(|(_, piece)| piece.parameter);
        places
    }
}

impl Bucket {
    pub(crate) fn shard(&self, world: usize, rank: usize) -> Range<usize> {
        let len = self.len / world;
        rank * len..(rank + 1) * len
    }
}

/// How large buckets become. Without overlap a collective costs its start, so few large ones win;
/// with overlap communication should begin early, and below 256 KiB a message costs its latency.
pub(crate) fn bucket_size(asked: u64, overlap: bool, model_len: usize) -> usize {
    const OVERLAPPED_ELEMENTS: usize = 64 * 1024;
    let asked = usize::try_from(asked).unwrap_or(usize::MAX).clamp(1, model_len.max(1));
    if overlap { asked.min(OVERLAPPED_ELEMENTS) } else { asked }
}

#[cfg(test)]
mod tests;
