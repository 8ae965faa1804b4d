use collectives::Mesh;
use common::spec::JobSpec;
use tch::{Device, Kind, Reduction, Tensor};

use super::{MicroStep, StateKind, Zero};
use crate::model::{self, Model, Pass, Plain};
use crate::optimizer::{StateName, Update};
use crate::tests::spec;

const ONLY: MicroStep = MicroStep { is_first: true, is_last: true };

fn alone(spec: &JobSpec) -> (Model, Zero) {
    let mut model = model::build(&spec.model, 2, 1, 3).unwrap();
    let communicator = Mesh::solo(1).communicator(0).unwrap();
    let zero = Zero::new(&mut model, spec, communicator).unwrap();
    (model, zero)
}

fn backward(model: &Model, x_btf: &Tensor) {
    let target_bo = Tensor::zeros([x_btf.size()[0], 1], (Kind::Float, Device::Cpu));
    let predicted_bo = model.forward(x_btf, Pass::Evaluate, &Plain).unwrap();
    predicted_bo.mse_loss(&target_bo, Reduction::Mean).backward();
}

fn input() -> Tensor {
    let values: Vec<f32> = (0..48).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_slice(&values).view([4, 6, 2])
}

/// The summed gradient of every parameter, in the model's order.
fn gradients(zero: &Zero) -> Vec<Vec<f32>> {
    let reducer = zero.reducer.borrow();
    let mut found = vec![Vec::new(); zero.num_parameters()];
    for slice in zero.owned() {
        let range = slice.shard_offset..slice.shard_offset + slice.len;
        let shard = reducer.shard(slice.bucket).range(range);
        found[slice.parameter] = shard.show(<[f32]>::to_vec).unwrap();
    }
    found
}

#[test]
fn hooked_gradients_are_autograds_and_none_are_left_behind() {
    for stage in [0, 1, 2] {
        let job = spec::job().stage(stage).build();
        let plain = model::build(&job.model, 2, 1, 3).unwrap();
        backward(&plain, &input());
        let expected: Vec<Vec<f32>> = plain
            .parameters()
            .iter()
            .map(|p| Vec::try_from(p.tensor.grad().flatten(0, -1)).unwrap())
            .collect();
        let (model, zero) = alone(&job);
        zero.begin_micro_step(ONLY, 1).unwrap();
        backward(&model, &input());
        zero.end_micro_step(1).unwrap();
        assert_eq!(gradients(&zero), expected, "stage {stage}");
        assert!(model.parameters().iter().all(|p| !p.tensor.grad().defined()));
        drop(zero);
        backward(&model, &input());
        assert!(model.parameters().iter().all(|p| p.tensor.grad().defined()), "hooks came off");
    }
}

#[test]
fn micro_steps_add_up_at_every_stage() {
    for stage in [0, 1, 2] {
        let (model, zero) = alone(&spec::job().stage(stage).build());
        let once = |micro_step| {
            zero.begin_micro_step(micro_step, 1).unwrap();
            backward(&model, &input());
            zero.end_micro_step(1).unwrap();
        };
        once(ONLY);
        let single = gradients(&zero);
        once(MicroStep { is_first: true, is_last: false });
        once(MicroStep { is_first: false, is_last: true });
        for (double, single) in gradients(&zero).iter().zip(&single) {
            // Twice a float is exact.
            assert!(double.iter().zip(single).all(|(d, s)| *d == 2.0 * s), "stage {stage}");
        }
        // A micro-step without samples adds nothing, and one that is all of a step gives zeros.
        zero.begin_micro_step(ONLY, 1).unwrap();
        zero.end_micro_step(1).unwrap();
        assert_eq!(zero.gradient_squares().unwrap(), 0.0);
    }
}

#[test]
fn the_model_sees_every_update() {
    let (model, mut zero) = alone(&spec::job().stage(2).build());
    let before = Vec::<f32>::try_from(model.parameters()[0].tensor.flatten(0, -1)).unwrap();
    zero.begin_micro_step(ONLY, 1).unwrap();
    backward(&model, &input());
    zero.end_micro_step(1).unwrap();
    let mut saved = zero.snapshot().unwrap();
    zero.update(Update { number: 1, rate: 0.1, gradient_scale: 1.0, betas: None }).unwrap();
    let now = || Vec::<f32>::try_from(model.parameters()[0].tensor.flatten(0, -1)).unwrap();
    let after = now();
    assert!(before.iter().zip(&after).all(|(b, a)| b != a));
    let slice = zero.owned().into_iter().find(|slice| slice.parameter == 0).unwrap();
    assert_eq!(zero.read(StateKind::Parameter, &slice, <[f32]>::to_vec).unwrap(), after);
    let mean = zero.read(StateKind::State(StateName::ExpAvg), &slice, <[f32]>::to_vec).unwrap();
    assert!(mean.iter().any(|m| *m != 0.0));
    zero.swap(&mut saved).unwrap();
    assert_eq!(now(), before);
    zero.swap(&mut saved).unwrap();
    assert_eq!(now(), after);
}

#[test]
fn a_gradient_that_is_not_finite_is_found_by_its_parameter() {
    let (model, zero) = alone(&spec::job().build());
    zero.begin_micro_step(ONLY, 1).unwrap();
    let bias = &model.parameters().last().unwrap().tensor;
    (bias * f64::NAN).sum(Kind::Float).backward();
    zero.end_micro_step(1).unwrap();
    let bad = zero.first_bad_gradient().unwrap().unwrap();
    assert_eq!(zero.name(bad), "fc.bias");
    assert!(zero.gradient_squares().unwrap().is_nan());
}

mod sharded;
