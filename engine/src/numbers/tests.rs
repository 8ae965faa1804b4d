use common::spec::PrecisionKind;
use half::{bf16, f16};
use proptest::prelude::*;

use super::{Numbers, NumbersRef};

const KINDS: [PrecisionKind; 3] = [PrecisionKind::Fp32, PrecisionKind::Bf16, PrecisionKind::Fp16];

/// What one number becomes in `kind`, by the crate `half` alone.
fn rounded(kind: PrecisionKind, value: f32) -> f32 {
    match kind {
        PrecisionKind::Fp32 => value,
        PrecisionKind::Bf16 => bf16::from_f32(value).to_f32(),
        PrecisionKind::Fp16 => f16::from_f32(value).to_f32(),
    }
}

fn made(kind: PrecisionKind, values: &[f32]) -> Numbers {
    let mut numbers = Numbers::zeros(kind, values.len());
    numbers.as_mut().copy_from(NumbersRef::Fp32(values));
    numbers
}

fn bits(numbers: &Numbers) -> Vec<u32> {
    let mut scratch = Vec::new();
    numbers.as_ref().widened(&mut scratch).iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #[test]
    fn copies_and_sums_round_once(
        // Longer than a block of conversion, and not a whole number of them.
        pairs in proptest::collection::vec((-9.0e4_f32..9.0e4, -1.0_f32..1.0), 1..2500)
    ) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        for to in KINDS {
            for from in KINDS {
                let mut sum = made(to, &a);
                let other = made(from, &b);
                sum.as_mut().add(other.as_ref());
                let expected = a.iter().zip(&b).map(|(a, b)| rounded(to, rounded(to, *a) + rounded(from, *b)).to_bits());
                prop_assert_eq!(bits(&sum), expected.collect::<Vec<_>>(), "{:?} += {:?}", to, from);
                let mut copy = Numbers::zeros(to, b.len());
                copy.as_mut().copy_from(other.as_ref());
                let expected = b.iter().map(|b| rounded(to, rounded(from, *b)).to_bits());
                prop_assert_eq!(bits(&copy), expected.collect::<Vec<_>>(), "{:?} = {:?}", to, from);
            }
        }
    }
}

#[test]
fn infinities_and_nans_are_not_finite_in_any_precision() {
    for kind in KINDS {
        assert!(made(kind, &[1.0, -2.0]).as_ref().all_finite());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!made(kind, &[1.0, bad]).as_ref().all_finite(), "{kind:?} {bad}");
        }
    }
    // Too large for fp16 alone.
    assert!(!made(PrecisionKind::Fp16, &[70_000.0]).as_ref().all_finite());
}

#[test]
fn a_reset_buffer_is_zeros_of_the_new_length() {
    for kind in KINDS {
        let mut numbers = made(kind, &[1.0; 7]);
        numbers.reset(3);
        assert_eq!(numbers, Numbers::zeros(kind, 3));
    }
}
