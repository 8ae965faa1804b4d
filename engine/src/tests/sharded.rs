//! Stage 3, frozen parameters and activation checkpointing: whole runs.

use common::status::{RankMemory, Summary};

use super::ranks::Attempt;
use super::spec;

/// Losses and the best validation loss, to the bit, and the summary.
fn run(builder: spec::Builder, world: u32) -> (Vec<u64>, Summary) {
    let dir = tempfile::tempdir().unwrap();
    let (outcome, heard) = Attempt::new(builder.build(), world, dir.path()).run().unwrap();
    let summary = outcome.summary.unwrap();
    let mut losses = heard.losses.lock().unwrap().clone();
    losses.push(summary.best_val_loss.unwrap());
    (losses.into_iter().map(f64::to_bits).collect(), summary)
}

/// Two layers with dropout, one micro-step a step: then every sum over ranks has one order.
fn job(stage: u8, threshold: u64) -> spec::Builder {
    spec::job().batch(18, 18).epochs(1).stage(stage).with(|spec| {
        spec::recurrent(spec).num_layers = 2;
        spec::recurrent(spec).dropout = 0.2;
        spec::recurrent(spec).bidirectional = true;
        spec.zero.stage3.param_persistence_threshold = threshold;
    })
}

#[test]
fn stage_three_gives_the_bits_of_stage_zero_at_every_world() {
    for world in [1, 2, 3, 4] {
        let (expected, _) = run(job(0, 0), world);
        assert!(expected.len() > 4);
        // Nothing stays whole; biases do; everything does.
        for (threshold, overlap) in [(0, false), (0, true), (40, true), (100_000, true)] {
            let builder = job(3, threshold).with(|spec| spec.zero.overlap_comm = overlap);
            let (found, _) = run(builder, world);
            assert_eq!(found, expected, "world {world}, above {threshold}, overlap {overlap}");
        }
    }
}

#[test]
fn the_bounds_of_stage_three_change_no_bit() {
    let bounded = |prefetch, live, reuse| {
        run(
            job(3, 0).with(|spec| {
                spec.zero.overlap_comm = true;
                spec.zero.stage3.prefetch_bucket_size = prefetch;
                spec.zero.stage3.max_live_parameters = live;
                spec.zero.stage3.max_reuse_distance = reuse;
            }),
            2,
        )
        .0
    };
    let expected = bounded(0, u64::MAX, 0);
    for (prefetch, live, reuse) in [(1, 0, 0), (1, u64::MAX, 1), (u64::MAX, u64::MAX, u64::MAX)] {
        assert_eq!(bounded(prefetch, live, reuse), expected, "{prefetch} {live} {reuse}");
    }
}

#[test]
fn activations_that_are_made_again_change_no_bit_at_any_stage() {
    let (expected, _) = run(job(0, 0), 2);
    for stage in [0, 1, 2, 3] {
        let builder = job(stage, 0).with(|spec| spec.training.activation_checkpointing = true);
        assert_eq!(run(builder, 2).0, expected, "stage {stage}");
    }
}

#[test]
fn accumulation_at_stage_three_agrees_with_stage_zero() {
    let accumulated = |stage, threshold| run(job(stage, threshold).batch(24, 4), 2).0;
    for (whole, sharded) in accumulated(0, 0).iter().zip(&accumulated(3, 0)) {
        let (whole, sharded) = (f64::from_bits(*whole), f64::from_bits(*sharded));
        assert!((whole - sharded).abs() <= 1e-5 * whole.abs(), "{whole} is not {sharded}");
    }
}

/// Weights of a run's last checkpoint, by name.
fn weights(builder: spec::Builder, world: u32) -> Vec<(String, Vec<f32>)> {
    let dir = tempfile::tempdir().unwrap();
    Attempt::new(builder.build(), world, dir.path()).run().unwrap();
    let newest = checkpoint::Root::at(&dir.path().join("checkpoints")).list().unwrap().whole;
    let reader = checkpoint::Reader::open(&newest[0].path).unwrap();
    let kind = checkpoint::TensorKind::Parameter;
    let rows = reader.tensors();
    assert!(rows.iter().any(|row| row.name == "fc.weight" && row.kind != kind), "it was updated");
    let moments = rows.iter().filter(|row| row.name.starts_with("lstm.") && row.kind != kind);
    assert_eq!(moments.count(), 0, "nothing is kept for what is frozen");
    let parameters = rows.iter().filter(|row| row.kind == kind);
    parameters
        .map(|row| {
            let mut values = vec![0.0_f32; row.shape.iter().product::<u64>() as usize];
            let bytes = bytemuck::cast_slice_mut(&mut values);
            reader.read_into(kind, &row.name, 0..values_len(row), bytes).unwrap();
            (row.name.clone(), values)
        })
        .collect()
}

fn values_len(row: &checkpoint::TensorRow) -> u64 {
    row.shape.iter().product()
}

#[test]
fn frozen_parameters_stay_and_the_rest_trains_alike_at_every_stage() {
    let frozen = |stage, steps| {
        let builder = job(stage, 0).max_steps(steps);
        builder.with(|spec| spec.training.freeze = vec!["lstm.*".to_owned()])
    };
    let expected = weights(frozen(0, 4), 2);
    let first = weights(frozen(0, 1), 2);
    assert!(expected.iter().any(|(name, _)| name == "lstm.weight_hh_l1_reverse"));
    for ((name, after), (_, before)) in expected.iter().zip(&first) {
        assert_eq!(after == before, name.starts_with("lstm."), "{name}");
    }
    for stage in [2, 3] {
        assert_eq!(weights(frozen(stage, 4), 2), expected, "stage {stage}");
    }
    // In the middle of a unit, too: its backward still needs what is frozen.
    let some = |stage, recomputes| {
        run(
            job(stage, 0).with(|spec| {
                spec.training.freeze = vec!["*.weight_hh*".to_owned(), "fc.weight".to_owned()];
                spec.training.activation_checkpointing = recomputes;
            }),
            2,
        )
        .0
    };
    let expected = some(0, false);
    assert_eq!(some(3, false), expected);
    assert_eq!(some(3, true), expected);
}

#[test]
fn a_run_with_frozen_parameters_resumes_at_another_stage() {
    let dir = tempfile::tempdir().unwrap();
    let frozen =
        |stage| job(stage, 0).with(|spec| spec.training.freeze = vec!["*_l0*".to_owned()]).build();
    let mut attempt = Attempt::new(frozen(3), 3, dir.path());
    attempt.stop_after = Some(2);
    let (_, first) = attempt.run().unwrap();
    let (_, second) = Attempt::new(frozen(0), 3, dir.path()).generation(2).run().unwrap();
    let mut seen = first.losses.lock().unwrap().clone();
    seen.extend(second.losses.lock().unwrap().iter());
    let whole = tempfile::tempdir().unwrap();
    let (_, heard) = Attempt::new(frozen(1), 3, whole.path()).run().unwrap();
    assert_eq!(seen, *heard.losses.lock().unwrap());
}

/// An LSTM of hidden size 8 has units of 352 and 32 elements, parameters aligned to 16.
#[test]
fn what_a_rank_holds_is_what_zero_says() {
    const UNITS: [u64; 2] = [352, 32];
    for world in [2, 4] {
        let padded = |len: u64| len.next_multiple_of(16 * u64::from(world));
        let len = UNITS.map(padded).iter().sum::<u64>();
        for stage in [0, 1, 2, 3] {
            let shard = len / u64::from(world);
            let expected = RankMemory {
                parameters: 4 * if stage == 3 { shard } else { len },
                // At stage 1 the sums lie beside what was summed.
                gradients: 4 * [len, len + shard, shard, shard][usize::from(stage)],
                optimizer: 8 * if stage == 0 { len } else { shard },
                buffers: 0,
                activations: 0,
            };
            let builder = spec::job().epochs(1).stage(stage).with(|spec| {
                spec.zero.reduce_bucket_size = 1;
                spec.zero.stage3.param_persistence_threshold = 0;
            });
            let (_, summary) = run(builder, world);
            assert_eq!(summary.memory.len(), world as usize);
            for found in summary.memory {
                let found = RankMemory { buffers: 0, activations: 0, ..found };
                assert_eq!(found, expected, "world {world}, stage {stage}");
            }
        }
    }
}
