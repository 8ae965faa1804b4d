use super::{Extent, Layout, Rules, bucket_size};

fn model() -> Vec<Extent> {
    [(0, 7), (0, 256), (1, 33), (2, 1000), (2, 1), (3, 5)]
        .map(|(unit, len)| Extent { unit, len, is_trained: true })
        .to_vec()
}

fn replicated(bucket_size: usize) -> Rules {
    Rules { bucket_size, shards_above: None }
}

/// Every element of every parameter has exactly one owner, whatever the world and the buckets.
#[test]
fn shards_partition_the_parameters() {
    for world in 1..=5 {
        for (size, shards_above, frozen) in [
            (1, None, 9),
            (300, None, 1),
            (1200, Some(6), 3),
            (usize::MAX, Some(0), 9),
            (usize::MAX, Some(5000), 4),
        ] {
            let mut model = model();
            model.iter_mut().skip(frozen).for_each(|extent| extent.is_trained = false);
            let rules = Rules { bucket_size: size, shards_above };
            let layout = Layout::plan(&model, world, rules);
            let mut owners: Vec<Vec<u32>> = model.iter().map(|p| vec![0; p.len]).collect();
            for rank in 0..world {
                for slice in layout.slices(rank) {
                    let shard = layout.buckets[slice.bucket].shard(world, rank);
                    assert!(slice.shard_offset + slice.len <= shard.len());
                    for owner in &mut owners[slice.parameter][slice.offset..][..slice.len] {
                        *owner += 1;
                    }
                }
            }
            assert!(owners.iter().flatten().all(|n| *n == 1), "world {world}, {rules:?}");
        }
    }
}

#[test]
fn units_stay_whole_and_in_order() {
    let layout = Layout::plan(&model(), 2, replicated(320));
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

/// Large parameters have a bucket for each unit, small ones share; frozen ones come last; buckets
/// are complete, in backward, in the opposite of their order.
#[test]
fn sharded_units_keep_apart_and_frozen_parameters_come_last() {
    let mut model = model();
    model[2].is_trained = false;
    let rules = Rules { bucket_size: usize::MAX, shards_above: Some(7) };
    let layout = Layout::plan(&model, 2, rules);
    let found: Vec<(Vec<usize>, usize, bool)> = layout
        .buckets
        .iter()
        .map(|bucket| {
            let parameters = bucket.pieces.iter().map(|piece| piece.parameter).collect();
            (parameters, bucket.first_unit, bucket.is_sharded)
        })
        .collect();
    assert_eq!(
        found,
        [(vec![0, 4, 5], 0, false), (vec![1], 0, true), (vec![3], 2, true), (vec![2], 1, true),]
    );
    assert_eq!(layout.trained().len(), 3);
    assert!(!layout.is_trained(3));
}

#[test]
fn buckets_are_capped_to_the_model_and_smaller_under_overlap() {
    assert_eq!(bucket_size(500_000_000, false, 50_000), 50_000);
    assert_eq!(bucket_size(500_000_000, true, 10_000_000), 65_536);
    assert_eq!(bucket_size(1000, true, 10_000_000), 1000);
}
