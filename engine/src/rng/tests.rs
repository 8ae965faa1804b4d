use super::*;

#[test]
fn a_stream_is_determined_by_purpose_and_keys() {
    let draw = |purpose: &str, keys: &[u64]| {
        let mut stream = Stream::new(purpose, keys);
        (0..8).map(|_| stream.source.next_u64()).collect::<Vec<_>>()
    };
    assert_eq!(draw("order", &[1, 2]), draw("order", &[1, 2]));
    assert_ne!(draw("order", &[1, 2]), draw("order", &[2, 1]));
    assert_ne!(draw("order", &[1]), draw("noise", &[1]));
}

/// Pinned: a change here changes every job's initial weights, data order and dropout masks, and
/// makes resumed runs differ from uninterrupted ones.
#[test]
fn the_numbers_are_pinned_across_versions() {
    let mut stream = Stream::new("pinned", &[42]);
    let uniform = stream.uniform();
    let normal = stream.normal();
    let below: Vec<u32> = (0..4).map(|_| stream.below(1000)).collect();
    assert_eq!(
        (uniform, normal, below, masks(42, 1, [7, 0, 3])),
        (PIN_UNIFORM, PIN_NORMAL, PIN_BELOW.to_vec(), PIN_DROPOUT)
    );
}

const PIN_UNIFORM: f64 = 0.9404178192121153;
const PIN_NORMAL: f64 = -0.12496114641220273;
const PIN_BELOW: [u32; 4] = [476, 291, 404, 392];
const PIN_DROPOUT: [u32; 2] = [3314871379, 3700611952];

fn first(mut stream: Stream) -> [u32; 2] {
    let mut bits = [0; 2];
    stream.fill(&mut bits);
    bits
}

#[test]
fn normals_have_zero_mean_unit_variance_and_normal_tails() {
    let mut stream = Stream::new("normals", &[7]);
    let n = 200_000;
    let values: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
    let mean = values.iter().sum::<f64>() / f64::from(n);
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(n);
    let beyond_two = values.iter().filter(|v| v.abs() > 2.0).count() as f64 / f64::from(n);
    assert!(mean.abs() < 0.01, "mean {mean}");
    assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    assert!((beyond_two - 0.0455).abs() < 0.003, "P(|x| > 2) = {beyond_two}");
}

#[test]
fn below_is_uniform_and_in_range() {
    let mut stream = Stream::new("below", &[3]);
    let mut counts = [0u32; 7];
    for _ in 0..70_000 {
        counts[stream.below(7) as usize] += 1;
    }
    assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
}

fn masks(seed: u64, rank: u32, [step, micro_step, unit]: [u64; 3]) -> [u32; 2] {
    first(dropout(DropoutKey { seed, rank, step, micro_step }, unit))
}

#[test]
fn dropout_differs_by_every_key() {
    let base = masks(1, 2, [3, 4, 5]);
    for (seed, rank, place) in [
        (0, 2, [3, 4, 5]),
        (1, 0, [3, 4, 5]),
        (1, 2, [0, 4, 5]),
        (1, 2, [3, 0, 5]),
        (1, 2, [3, 4, 0]),
    ] {
        assert_ne!(base, masks(seed, rank, place));
    }
}
