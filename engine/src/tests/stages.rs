//! A12: what must not change a bit, and what may change the last ones.

use super::ranks::Attempt;
use super::spec;

/// Losses of a run, and its validation losses, to the bit.
fn bits(builder: spec::Builder, world: u32) -> Vec<u64> {
    let dir = tempfile::tempdir().unwrap();
    let (outcome, heard) = Attempt::new(builder.build(), world, dir.path()).run().unwrap();
    let losses = heard.losses.lock().unwrap().clone();
    let summary = outcome.summary.unwrap();
    let last = [summary.best_val_loss.unwrap(), summary.gradient_norms.max];
    losses.into_iter().chain(last).map(f64::to_bits).collect()
}

#[test]
fn stages_and_overlap_give_the_same_bits_at_one_world() {
    for world in [1, 2, 3] {
        // One micro-step a step: then every sum over ranks has one order.
        let run = |stage, overlap, bucket| {
            let builder = spec::job().batch(18, 18).stage(stage).with(|spec| {
                spec::recurrent(spec).num_layers = 2;
                spec::recurrent(spec).dropout = 0.2;
                spec.zero.overlap_comm = overlap;
                spec.zero.reduce_bucket_size = bucket;
            });
            bits(builder, world)
        };
        // Buckets decide how the norm's sum is grouped, which may show in its last bit.
        for bucket in [500_000_000, 1] {
            let expected = run(0, false, bucket);
            assert!(expected.len() > 8);
            for (stage, overlap) in [(0, true), (1, false), (1, true), (2, false), (2, true)] {
                let found = run(stage, overlap, bucket);
                let what = format!("world {world}, stage {stage}, overlap {overlap}");
                assert_eq!(found, expected, "{what}, buckets of {bucket}");
            }
        }
    }
}

#[test]
fn accumulation_at_stages_0_and_1_gives_the_same_bits_and_2_nearly() {
    let run = |stage| bits(spec::job().batch(24, 4).stage(stage), 2);
    let (zero, one, two) = (run(0), run(1), run(2));
    assert_eq!(zero, one);
    for (whole, sharded) in zero.iter().zip(&two) {
        let (whole, sharded) = (f64::from_bits(*whole), f64::from_bits(*sharded));
        assert!((whole - sharded).abs() <= 1e-5 * whole.abs(), "{whole} is not {sharded}");
    }
}

/// 16 samples over 3 ranks in micro-steps of 5 or 6, some ranks with one sample more, against one
/// rank that has them in one run: the mean over the global batch is the same. So are the 40
/// validation samples in batches of uneven runs.
#[test]
fn uneven_runs_train_as_one_rank_does() {
    let losses = |world, micro| {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec::job().batch(16, micro).drop_last(false).build();
        let (outcome, heard) = Attempt::new(spec, world, dir.path()).run().unwrap();
        let losses = heard.losses.lock().unwrap().clone();
        (losses, outcome.summary.unwrap().best_val_loss.unwrap())
    };
    let (expected, expected_val) = losses(1, 16);
    for (world, micro) in [(3, 2), (3, 1), (4, 1), (2, 5)] {
        let (found, val) = losses(world, micro);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in
            found.iter().chain([&val]).zip(expected.iter().chain([&expected_val]))
        {
            let error = (found - expected).abs() / expected;
            assert!(error < 1e-5, "world {world}, micro {micro}: {found} is not {expected}");
        }
    }
}

/// A batch that leaves some ranks without a sample: 96 = 5 * 19 + 1.
#[test]
fn a_rank_without_samples_takes_part() {
    let losses = |world| {
        let dir = tempfile::tempdir().unwrap();
        let builder = spec::job().batch(19, 19).epochs(1).drop_last(false).stage(3);
        let spec = builder.with(|spec| spec.zero.stage3.param_persistence_threshold = 0).build();
        let (_, heard) = Attempt::new(spec, world, dir.path()).run().unwrap();
        heard.losses.lock().unwrap().clone()
    };
    let (alone, together) = (losses(1), losses(3));
    assert_eq!((alone.len(), together.len()), (6, 6));
    for (alone, together) in alone.iter().zip(&together) {
        assert!((alone - together).abs() < 1e-5 * alone, "{together} is not {alone}");
    }
}
