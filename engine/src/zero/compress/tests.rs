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
    let input = (Numbers::Fp32(values), None);
    let flight = compressor.sum(communicator, 0, input).unwrap();
    let Numbers::Fp32(sum) = flight.input else { panic!() };
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
        let output = Some(Numbers::zeros(common::spec::PrecisionKind::Fp32, len / 2));
        let input = (Numbers::Fp32(gradient(rank, len)), output);
        let flight = Compressor::new(&layout, rank).sum(communicator, 0, input).unwrap();
        let Some(Numbers::Fp32(part)) = flight.output else { panic!() };
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
    let best = |stage, compression| {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec::job().batch(16, 8).epochs(6).stage(stage).with(|spec| {
            spec.training.gradient_compression = compression;
        });
        let (outcome, _) = Attempt::new(spec.build(), 2, dir.path()).run().unwrap();
        outcome.summary.unwrap().best_val_loss.unwrap()
    };
    let plain = best(0, GradientCompression::None);
    for stage in [0, 1, 2] {
        let squeezed = best(stage, GradientCompression::Int8);
        assert!((squeezed - plain).abs() < 0.03 * plain, "stage {stage}: {squeezed} and {plain}");
        assert_ne!(squeezed, plain, "it was compressed");
    }
}
