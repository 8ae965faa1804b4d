use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use collectives::{Cost, Observer, Signature};
use common::spec::GradientCompression;

use super::*;
use crate::tests::ranks::{Attempt, with_ranks};
use crate::tests::spec;
use crate::zero::layout::{Extent, Rules};

const LEN: usize = 3000;

fn layout(world: usize) -> Layout {
    let rules = Rules { bucket_size: LEN, shards_above: None };
    Layout::plan(&[Extent { unit: 0, len: LEN, is_trained: true }], world, rules)
}

/// A gradient with parts of very different size.
fn gradient(rank: usize, len: usize) -> Vec<f32> {
    let wave = |i: usize| (i as f32 * 0.37 + rank as f32).sin();
    (0..len).map(|i| wave(i) * if i % 700 < 300 { 1e-3 } else { 2.0 }).collect()
}

fn whole(
    compressor: &mut Compressor,
    communicator: &mut Communicator,
    values: Vec<f32>,
) -> Vec<f32> {
    let input = (Storage::Host(Numbers::Fp32(values)), None);
    let flight = compressor.sum(communicator, 0, input).unwrap();
    let Storage::Host(Numbers::Fp32(sum)) = flight.input else { panic!() };
    sum
}

#[test]
fn what_rounding_takes_comes_with_the_next_sums() {
    const ROUNDS: usize = 50;
    for world in [2, 3] {
        let sums = with_ranks(world, |communicator| {
            let (rank, layout) = (communicator.rank() as usize, layout(world as usize));
            let mut compressor = Compressor::new(&layout, rank);
            let len = layout.buckets[0].len;
            let mut total = vec![0.0_f64; len];
            for _ in 0..ROUNDS {
                let sum = whole(&mut compressor, communicator, gradient(rank, len));
                total.iter_mut().zip(sum).for_each(|(total, value)| *total += f64::from(value));
            }
            total
        });
        let expected = |i: usize| -> f64 {
            (0..world as usize).map(|rank| f64::from(gradient(rank, i + 1)[i])).sum()
        };
        for i in (0..LEN).step_by(97) {
            let mean = sums[0][i] / ROUNDS as f64;
            // A step of the scale, which is below 0.05, is late once; not once in every round.
            let late = 0.1 / ROUNDS as f64;
            assert!((mean - expected(i)).abs() <= late, "{i}: {mean} is not {}", expected(i));
        }
        assert!(sums.iter().all(|other| *other == sums[0]), "all ranks hold the same bits");
    }
}

#[test]
fn a_share_is_the_ranks_part_of_the_whole_sum() {
    let parts = with_ranks(2, |communicator| {
        let (rank, layout) = (communicator.rank() as usize, layout(2));
        let len = layout.buckets[0].len;
        let output = Numbers::zeros(common::spec::PrecisionKind::Fp32, len / 2);
        let input = Storage::Host(Numbers::Fp32(gradient(rank, len)));
        let input = (input, Some(Storage::Host(output)));
        let flight = Compressor::new(&layout, rank).sum(communicator, 0, input).unwrap();
        let Some(Storage::Host(Numbers::Fp32(part))) = flight.output else { panic!() };
        part
    });
    let (first, second) = (gradient(0, LEN), gradient(1, LEN));
    for (i, found) in parts.concat().into_iter().take(LEN).enumerate() {
        // Half a step of each rank's scale.
        assert!((found - first[i] - second[i]).abs() < 0.02, "{i}: {found}");
    }
}

#[test]
fn what_is_not_finite_stays_so_and_leaves_nothing_behind() {
    let sums = with_ranks(2, |communicator| {
        let (rank, layout) = (communicator.rank() as usize, layout(2));
        let mut compressor = Compressor::new(&layout, rank);
        let mut bad = gradient(rank, layout.buckets[0].len);
        bad[5] = if rank == 1 { f32::INFINITY } else { bad[5] };
        let first = whole(&mut compressor, communicator, bad);
        let good = gradient(rank, layout.buckets[0].len);
        (first, whole(&mut compressor, communicator, good))
    });
    assert!(!sums[0].0[5].is_finite() && sums[0].0[LEN - 1].is_finite());
    assert!(sums[0].1.iter().all(|value| value.is_finite()));
}

/// Bytes that this rank sent.
#[derive(Debug, Default)]
struct Sent(AtomicU64);

impl Observer for Sent {
    fn completed(&self, _: &Signature, cost: Cost) {
        self.0.fetch_add(cost.sent, Ordering::Relaxed);
    }
}

#[test]
fn fewer_bytes_travel() {
    let bytes = with_ranks(2, |communicator| {
        let (rank, layout) = (communicator.rank() as usize, layout(2));
        let sent = Arc::new(Sent::default());
        communicator.observe(sent.clone());
        let len = layout.buckets[0].len;
        whole(&mut Compressor::new(&layout, rank), communicator, gradient(rank, len));
        (sent.0.load(Ordering::Relaxed), len)
    });
    for (sent, len) in bytes {
        // An all-reduce in fp32 between two ranks sends 2 * (1/2) * 4 bytes a number.
        let fp32 = 4 * len as u64;
        assert!(sent > 0 && 3 * sent < fp32, "{sent} bytes for {len} numbers, {fp32} in fp32");
    }
}

#[test]
fn a_small_job_learns_as_well_with_int8_as_without() {
    for world in [2, 3] {
        let plain = *trained((0, world), 6, GradientCompression::None).last().unwrap();
        for stage in [0, 1, 2, 3] {
            let squeezed = *trained((stage, world), 6, GradientCompression::Int8).last().unwrap();
            let what = format!("stage {stage}, world {world}: {squeezed} and {plain}");
            assert!((squeezed - plain).abs() < 0.03 * plain, "{what}");
            assert_ne!(squeezed, plain, "it was compressed");
        }
    }
}

/// Losses, then the best validation loss. At stage 3 every parameter is sharded.
fn trained((stage, world): (u8, u32), epochs: u32, compression: GradientCompression) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec::job().batch(18, 18).epochs(epochs).stage(stage).with(|spec| {
        spec.training.gradient_compression = compression;
        spec.zero.stage3.param_persistence_threshold = 0;
        // A bucket for each unit, as at stage 3.
        spec.zero.reduce_bucket_size = 1;
    });
    let (outcome, heard) = Attempt::new(spec.build(), world, dir.path()).run().unwrap();
    let mut losses = heard.losses.lock().unwrap().clone();
    losses.push(outcome.summary.unwrap().best_val_loss.unwrap());
    losses
}

/// A sum that each rank has its part of is rounded once; stage 0 rounds what it gathers once more.
#[test]
fn stages_that_shard_sums_give_the_same_bits_with_int8() {
    for world in [2, 3] {
        let [one, two, three] =
            [1, 2, 3].map(|stage| trained((stage, world), 1, GradientCompression::Int8));
        assert!(one.len() > 4 && one.iter().all(|loss| loss.is_finite()));
        assert_eq!((&one, &one), (&two, &three), "world {world}");
    }
}
