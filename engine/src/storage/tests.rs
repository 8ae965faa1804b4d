use common::spec::PrecisionKind::{Bf16, Fp16, Fp32};
use proptest::prelude::*;

use super::*;

/// Values of every size, and such as are in no range.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -1e5_f32..1e5,
        4 => -1e-6_f32..1e-6,
        1 => prop::sample::select(vec![0.0, -0.0, 1e38, 7e4, 1e-42]),
    ]
}

/// The same numbers on the host and in a device's place.
fn both(kind: PrecisionKind, values: &[f32]) -> [Storage; 2] {
    [Device::CPU, Device::RESIDENT].map(|device| {
        let mut storage = Storage::zeros(kind, values.len(), device).unwrap();
        storage.as_mut().copy_from(Part::Host(NumbersRef::Fp32(values))).unwrap();
        storage
    })
}

fn numbers(storage: &Storage) -> Numbers {
    storage.as_ref().to_numbers().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_device_rounds_and_adds_as_the_host_does(
        values in prop::collection::vec((value(), value()), 1..3000),
    ) {
        let (first, second): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
        for to in [Fp32, Bf16, Fp16] {
            for from in [Fp32, Bf16, Fp16] {
                let [mut here, mut there] = both(to, &first);
                let [other_here, other_there] = both(from, &second);
                prop_assert_eq!(bits(&here), bits(&there));
                here.as_mut().add(other_here.as_ref()).unwrap();
                there.as_mut().add(other_there.as_ref()).unwrap();
                prop_assert_eq!(bits(&here), bits(&there), "{:?} += {:?}", to, from);
                here.as_mut().copy_from(other_here.as_ref()).unwrap();
                there.as_mut().copy_from(other_there.as_ref()).unwrap();
                prop_assert_eq!(bits(&here), bits(&there), "{:?} = {:?}", to, from);
                prop_assert_eq!(
                    here.as_ref().all_finite().unwrap(),
                    there.as_ref().all_finite().unwrap()
                );
            }
        }
    }
}

/// Of the numbers in fp32; what is none has many.
fn bits(storage: &Storage) -> Vec<u32> {
    let bits = |value: &f32| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
    storage.as_ref().show(|values| values.iter().map(bits).collect()).unwrap()
}

#[test]
fn squares_add_up_over_parts_in_f64() {
    let values: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.37).sin() * 1e3).collect();
    for kind in [Fp32, Bf16] {
        let [here, there] = both(kind, &values);
        let total = |storage: &Storage| {
            let mut squares = Squares::default();
            squares.add(storage.as_ref().range(0..1000)).unwrap();
            squares.add(storage.as_ref().range(1000..5000)).unwrap();
            squares.add(storage.as_ref().range(0..0)).unwrap();
            squares.total().unwrap()
        };
        let (here, there) = (total(&here), total(&there));
        assert!((here - there).abs() <= 1e-14 * here, "{here} {there}");
    }
}

#[test]
fn room_is_kept_and_what_was_there_is_gone() {
    let [_, mut there] = both(Bf16, &[1.0; 64]);
    there.reset(16).unwrap();
    assert_eq!((there.len(), there.bytes()), (16, 128));
    assert_eq!(numbers(&there), Numbers::zeros(Bf16, 16));
    there.reset(100).unwrap();
    assert_eq!((there.len(), there.bytes(), there.kind()), (100, 200, Bf16));
}

#[test]
fn exchanged_numbers_are_where_the_others_were() {
    for mut storage in both(Fp16, &[1.0, 2.0, 3.0]) {
        let mut saved = Numbers::zeros(Fp16, 2);
        storage.as_mut().range(1..3).exchange(&mut saved).unwrap();
        let shown = storage.as_ref().show(<[f32]>::to_vec).unwrap();
        assert_eq!(shown, [1.0, 0.0, 0.0]);
        assert_eq!(saved.as_ref().widened(&mut Vec::new()), [2.0, 3.0]);
    }
}

#[test]
fn what_is_kept_on_a_device_is_no_activation() {
    let counting = crate::native::memory::Counting::start().unwrap();
    let mut kept = Storage::zeros(Fp32, 1 << 16, Device::RESIDENT).unwrap();
    kept.reset(1 << 17).unwrap();
    drop(kept);
    let seen = Tensor::zeros([1 << 10], (tch::Kind::Float, tch::Device::Cpu));
    drop(seen);
    assert_eq!(counting.peak(), 4 << 10);
}
