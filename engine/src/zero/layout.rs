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
    /// Has gradients and is updated; else it is frozen.
    pub(crate) is_trained: bool,
}

/// How parameters become buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Elements up to which units share a bucket whose parameters every rank has.
    pub(crate) bucket_size: usize,
    /// At stage 3: of parameters with more elements than these, each rank keeps its shard alone,
    /// and each unit has a bucket of its own.
    pub(crate) shards_above: Option<usize>,
}

/// All buckets of a model: those that are trained in the order of their first units, then the
/// frozen ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) world: usize,
    pub(crate) buckets: Vec<Bucket>,
    /// How many of them are trained.
    pub(crate) num_trained: usize,
}

/// One flat buffer: whole units, each parameter aligned, padded so that the world divides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) len: usize,
    pub(crate) pieces: Vec<Piece>,
    /// The first of the units that its parameters belong to.
    pub(crate) first_unit: usize,
    /// Its parameters are whole only while a unit uses them.
    pub(crate) is_sharded: bool,
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
    /// Groups parameters that are trained and kept alike. Within a group units merge, in order,
    /// while a bucket has at most `bucket_size` elements; a unit is never split, so one that is
    /// larger is a bucket of its own.
    pub(crate) fn plan(parameters: &[Extent], world: usize, rules: Rules) -> Self {
        let is_sharded = |extent: &Extent| rules.shards_above.is_some_and(|n| extent.len > n);
        let group = |is_trained: bool| {
            let of = |sharded: bool| -> Vec<(usize, Extent)> {
                let all = parameters.iter().copied().enumerate();
                all.filter(|(_, p)| p.is_trained == is_trained && is_sharded(p) == sharded)
                    .collect()
            };
            let mut buckets = merged(&of(false), rules.bucket_size);
            // Nothing fits beside anything else: a bucket for each unit.
            let own = merged(&of(true), 0);
            buckets.extend(own.into_iter().map(|bucket| Bucket { is_sharded: true, ..bucket }));
            buckets.sort_by_key(|bucket| bucket.first_unit);
            buckets
        };
        let mut buckets = group(true);
        let num_trained = buckets.len();
        buckets.extend(group(false));
        for bucket in &mut buckets {
            bucket.len = bucket.len.next_multiple_of(ALIGNMENT * world);
        }
        Self { world, buckets, num_trained }
    }

    pub(crate) fn trained(&self) -> &[Bucket] {
        &self.buckets[..self.num_trained]
    }

    pub(crate) fn is_trained(&self, bucket: usize) -> bool {
        bucket < self.num_trained
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

    /// All parameters, whoever owns them: one rank's shards in a world of one.
    pub(crate) fn whole(&self) -> Vec<Slice> {
        Self { world: 1, ..self.clone() }.slices(0)
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

/// Buckets of parameters in order, each given with its index.
fn merged(parameters: &[(usize, Extent)], bucket_size: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for unit in parameters.chunk_by(|(_, a), (_, b)| a.unit == b.unit) {
        let unit_len: usize = unit.iter().map(|(_, p)| p.len.next_multiple_of(ALIGNMENT)).sum();
        if buckets.last().is_none_or(|open| open.len + unit_len > bucket_size) {
            let first_unit = unit[0].1.unit;
            buckets.push(Bucket { len: 0, pieces: Vec::new(), first_unit, is_sharded: false });
        }
        let open = buckets.last_mut().expect("one was just pushed where there was none");
        for (parameter, extent) in unit {
            open.pieces.push(Piece { parameter: *parameter, offset: open.len, len: extent.len });
            open.len += extent.len.next_multiple_of(ALIGNMENT);
        }
    }
    buckets
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
