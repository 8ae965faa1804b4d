//! The order of samples in an epoch: from seed and epoch alone, the same on every rank.

use crate::rng::Stream;

/// The order in which one epoch visits `len` samples: a permutation that (seed, epoch) alone
/// determine, so that every world sees the same global batches. Without `shuffle`, as they come.
pub fn order(seed: u64, epoch: u64, len: usize, shuffle: bool) -> Vec<u32> {
    let len = u32::try_from(len).expect("loading refuses more than 2^32 rows");
    let mut order: Vec<u32> = (0..len).collect();
    if shuffle {
        let mut stream = Stream::new("order", &[seed, epoch]);
        for last in (1..len).rev() {
            order.swap(last as usize, stream.below(last + 1) as usize);
        }
    }
    order
}
