use super::{Extent, Layout, bucket_size};

fn model() -> Vec<Extent> {
    [(0, 7), (0, 256), (1, 33), (2, 1000), (2, 1), (3, 5)]
        .map(|(unit, len)| Extent { unit, len })
        .to_vec()
}

/// Every element of every parameter has exactly one owner, whatever the world and the buckets.
#[test]
fn shards_partition_the_parameters() {
    for world in 1..=5 {
        for size in [1, 300, 1200, usize::MAX] {
            let layout = Layout::plan(&model(), world, size);
            let mut owners: Vec<Vec<u32>> = model().iter().map(|p| vec![0; p.len]).collect();
            for rank in 0..world {
                for slice in layout.slices(rank) {
                    let shard = layout.buckets[slice.bucket].shard(world, rank);
                    assert!(slice.shard_offset + slice.len <= shard.len());
                    for owner in &mut owners[slice.parameter][slice.offset..][..slice.len] {
                        *owner += 1;
                    }
                }
            }
            assert!(owners.iter().flatten().all(|n| *n == 1), "world {world}, size {size}");
        }
    }
}

#[test]
fn units_stay_whole_and_in_order() {
    let layout = Layout::plan(&model(), 2, 320);
    let parameters: Vec<Vec<usize>> = layout
        .buckets
        .iter()
        .map(|bucket| bucket.pieces.iter().map(|piece| piece.parameter).collect())
        .collect();
    assert_eq!(parameters, [vec![0, 1, 2], vec![3, 4], vec![5]]);
    assert!(layout.buckets.iter().all(|bucket| bucket.len % 32 == 0));
    let places = layout.places();
    assert_eq!(places.len(), 6);
    assert!(places.iter().enumerate().all(|(index, (_, piece))| piece.parameter == index));
}

#[test]
fn buckets_are_capped_to_the_model_and_smaller_under_overlap() {
    assert_eq!(bucket_size(500_000_000, false, 50_000), 50_000);
    assert_eq!(bucket_size(500_000_000, true, 10_000_000), 65_536);
    assert_eq!(bucket_size(1000, true, 10_000_000), 1000);
}
