use super::*;
use crate::InstructionSet;
use crate::simd::{Kernel, LANES, Program};

/// Applies an activation to one vector in place.
struct Apply<'a>(Activation, &'a mut [f32; LANES]);

impl Program for Apply<'_> {
    fn run<S: Simd>(self, simd: S) {
        simd.launch(self);
    }
}

impl Kernel for Apply<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let [y] = apply(simd, [self.0], [simd.load(self.1)]);
        simd.store(self.1, y);
    }
}

fn values(of: Activation, set: InstructionSet, x: [f32; LANES]) -> [f32; LANES] {
    let mut values = x;
    set.dispatch(Apply(of, &mut values));
    values
}

#[test]
fn sigmoid_and_tanh_equal_f64_to_a_few_roundings() {
    for set in InstructionSet::available() {
        for step in 0..20_000 {
            let x = std::array::from_fn(|lane| (step * LANES + lane) as f32 * 2e-4 - 32.0);
            for (x, found) in x.iter().zip(values(Activation::Sigmoid, set, x)) {
                let expected = 1.0 / (1.0 + (-f64::from(*x)).exp());
                let relative = (f64::from(found) - expected).abs() / expected;
                assert!(relative < 3e-7, "{}: sigmoid({x}) = {found}", set.name());
            }
            for (x, found) in x.iter().zip(values(Activation::Tanh, set, x)) {
                let expected = f64::from(*x).tanh();
                let relative = (f64::from(found) - expected).abs() / expected.abs().max(1e-30);
                assert!(relative < 3e-7, "{}: tanh({x}) = {found}", set.name());
            }
        }
    }
}

#[test]
fn the_ends_of_the_number_line_are_what_they_should_be() {
    let mut x = [0.0; LANES];
    let ends = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 1e30, -1e30, f32::MAX, 1e-30];
    x[..ends.len()].copy_from_slice(&ends);
    for set in InstructionSet::available() {
        let sigmoid = values(Activation::Sigmoid, set, x);
        assert_eq!([sigmoid[0], sigmoid[3], sigmoid[4], sigmoid[6]], [1.0, 0.5, 1.0, 1.0]);
        assert!(sigmoid[1] > 0.0 && sigmoid[1] < 2e-38 && sigmoid[5] == sigmoid[1]);
        assert!(sigmoid[2].is_nan());
        let tanh = values(Activation::Tanh, set, x);
        assert_eq!([tanh[0], tanh[1], tanh[4], tanh[5], tanh[6]], [1.0, -1.0, 1.0, -1.0, 1.0]);
        assert!(tanh[2].is_nan());
        assert_eq!(tanh[3], 0.0);
        assert_eq!(tanh[7], 1e-30, "tanh is the identity near zero");
    }
}
