//! Stage 3 from inside: what is here when, what travels, and models that the engine has no name for.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use collectives::{DataType, Mesh, OpKind, Traffic};
use common::spec::JobSpec;
use tch::{Device, Kind, Tensor};

use super::super::{Around, MicroStep, Zero};
use crate::Error;
use crate::model::{self, AroundUnit, Model, Parameter, Pass, Unit, UnitPass};
use crate::optimizer::Update;
use crate::rng::DropoutKey;
use crate::tests::ranks::with_meshes;
use crate::tests::spec;

fn job(stage: u8) -> JobSpec {
    spec::job().stage(stage).with(|spec| spec.zero.stage3.param_persistence_threshold = 0).build()
}

fn recurrent(spec: &JobSpec, mesh: &Mesh) -> (Model, Zero, Arc<Traffic>) {
    let model = model::build(&spec.model, 2, 1, 3).unwrap();
    with_zero(model, spec, mesh)
}

fn with_zero(mut model: Model, spec: &JobSpec, mesh: &Mesh) -> (Model, Zero, Arc<Traffic>) {
    let communicator = mesh.communicator(0).unwrap();
    let traffic = communicator.traffic();
    let zero = Zero::new(&mut model, spec, communicator).unwrap();
    (model, zero, traffic)
}

fn input() -> Tensor {
    let values: Vec<f32> = (0..48).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_slice(&values).view([4, 6, 2])
}

fn key(step: u64) -> Pass {
    Pass::Train(DropoutKey { seed: 1, rank: 0, step, micro_step: 0 })
}

fn forward_backward(model: &Model, around: &dyn AroundUnit, step: u64) -> Result<f64, Error> {
    let loss = model.forward(&input(), key(step), around)?.square().mean(Kind::Float);
    loss.f_backward().map_err(|source| Error::Torch { operation: "run backward", source })?;
    Ok(loss.double_value(&[]))
}

/// One optimizer step of `micro_steps`.
fn step(model: &Model, zero: &mut Zero, number: u64, micro_steps: u64) -> f64 {
    let mut loss = 0.0;
    for index in 0..micro_steps {
        let at = MicroStep { is_first: index == 0, is_last: index + 1 == micro_steps };
        zero.begin_micro_step(at, number).unwrap();
        loss += forward_backward(model, zero.around(), number).unwrap();
        zero.end_micro_step(number).unwrap();
    }
    zero.update(Update { number, rate: 0.05, gradient_scale: 1.0, betas: None }).unwrap();
    loss
}

/// Remembers what memory the parameters take while units compute.
struct Watched<'a> {
    zero: &'a Zero,
    seen: Rc<RefCell<Vec<u64>>>,
}

#[derive(Debug)]
struct WatchedUnit {
    inner: Rc<dyn Unit>,
    watch: Watch,
}

struct Watch(Box<dyn Fn()>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Unit for WatchedUnit {
    fn forward(&self, input: &Tensor, pass: UnitPass) -> Result<Tensor, model::Error> {
        self.watch.0();
        self.inner.forward(input, pass)
    }
    fn parameters(&self) -> &[Parameter] {
        self.inner.parameters()
    }
}

impl AroundUnit for Watched<'_> {
    fn run(
        &self,
        index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        pass: UnitPass,
    ) -> Result<Tensor, Error> {
        let (weights, seen) = (self.zero.weights.clone(), self.seen.clone());
        let look = move || seen.borrow_mut().push(weights.borrow().bytes_held().0 as u64);
        let watch = Watch(Box::new(look));
        let unit: Rc<dyn Unit> = Rc::new(WatchedUnit { inner: unit.clone(), watch });
        let output = self.zero.around().run(index, &unit, input, pass)?;
        self.seen.borrow_mut().push(self.zero.memory().parameters);
        Ok(output)
    }
}

#[test]
fn a_units_weights_are_whole_only_while_it_computes() {
    let looks = with_meshes(2, |mesh| {
        let mut spec = job(3);
        // Backward, too, passes through the units' forward.
        spec.training.activation_checkpointing = true;
        let (model, zero, _) = recurrent(&spec, &mesh);
        let seen = Rc::new(RefCell::new(vec![zero.memory().parameters]));
        zero.begin_micro_step(MicroStep { is_first: true, is_last: true }, 1).unwrap();
        let watched = Watched { zero: &zero, seen: seen.clone() };
        forward_backward(&model, &watched, 1).unwrap();
        zero.end_micro_step(1).unwrap();
        seen.borrow_mut().push(zero.memory().parameters);
        seen.take()
    });
    // Hidden size 8, two inputs, aligned to 16 and padded to 32: 64 + 256 + 32 + 32, and 16 + 16.
    let (layer, head) = (4 * 384, 4 * 32);
    let shards = (layer + head) / 2;
    for seen in looks {
        assert_eq!(
            seen,
            [
                shards,
                shards + layer, // the layer's forward
                shards,
                shards + head, // the head's
                shards,
                shards + head, // made again in backward
                shards + layer,
                shards
            ]
        );
    }
}

#[test]
fn a_rank_sends_the_elements_that_zero_says() {
    for world in [2, 4] {
        for (stage, micro_steps) in [(0, 1), (0, 3), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            for overlaps in [false, true] {
                let sent = with_meshes(world, |mesh| {
                    let mut spec = job(stage);
                    spec.zero.overlap_comm = overlaps;
                    // A layer above what an all-reduce sends whole, to save a round.
                    spec::recurrent(&mut spec).hidden_size = 64;
                    let (model, mut zero, traffic) = recurrent(&spec, &mesh);
                    let elements = || {
                        let bytes = traffic.bytes(OpKind::AllReduce, Some(DataType::F32))
                            + traffic.bytes(OpKind::ReduceScatter, Some(DataType::F32))
                            + traffic.bytes(OpKind::AllGather, None);
                        bytes / 4
                    };
                    let before = elements();
                    step(&model, &mut zero, 1, micro_steps);
                    let lens = zero.layout.buckets.iter().map(|bucket| bucket.len as u64);
                    (elements() - before, lens.collect::<Vec<u64>>())
                });
                let times = match stage {
                    0 | 1 => 2,
                    2 => micro_steps + 1,
                    _ => 3 * micro_steps,
                };
                let world = u64::from(world);
                for (sent, lens) in sent {
                    // A small all-reduce is one exchange of whole buffers.
                    let is_whole = |len: u64| stage == 0 && 4 * len <= 32 << 10;
                    let of = |len: &u64| match is_whole(*len) {
                        true => len * (world - 1),
                        false => times * len * (world - 1) / world,
                    };
                    let expected: u64 = lens.iter().map(of).sum();
                    let what = format!("stage {stage}, {micro_steps} micro-steps, world {world}");
                    assert_eq!(sent, expected, "{what}, overlap {overlaps}");
                }
            }
        }
    }
}

/// `tanh(x Wᵀ + b)`. `W` may be another unit's, too; `spare` is used by nobody.
#[derive(Debug)]
struct Dense {
    parameters: Vec<Parameter>,
}

impl Unit for Dense {
    fn forward(&self, input: &Tensor, _: UnitPass) -> Result<Tensor, model::Error> {
        let [weight, bias, ..] = &self.parameters[..] else { unreachable!("it has both") };
        Ok(input.linear(&weight.tensor, Some(&bias.tensor)).tanh())
    }
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }
}

/// Hands its input through.
#[derive(Debug)]
struct Through;

impl Unit for Through {
    fn forward(&self, input: &Tensor, _: UnitPass) -> Result<Tensor, model::Error> {
        Ok(input.shallow_clone())
    }
    fn parameters(&self) -> &[Parameter] {
        &[]
    }
}

/// Units 0 and 3 share their weight, unit 1 has a parameter that nobody uses, unit 2 nothing.
fn tied() -> Model {
    let leaf = |name: &str, dims: &[i64]| {
        let len: i64 = dims.iter().product();
        let values = (Tensor::arange(len, (Kind::Float, Device::Cpu)) * 0.7).sin() * 0.4;
        let tensor = values.view(dims).set_requires_grad(true);
        Parameter { name: name.to_owned(), tensor, unit: 0 }
    };
    let shared = leaf("shared.weight", &[2, 2]);
    let again =
        Parameter { name: shared.name.clone(), tensor: shared.tensor.shallow_clone(), unit: 0 };
    let first = Dense { parameters: vec![shared, leaf("0.bias", &[2])] };
    let middle = [leaf("1.weight", &[2, 2]), leaf("1.bias", &[2]), leaf("1.spare", &[3])];
    let last = Dense { parameters: vec![again, leaf("3.bias", &[2])] };
    let middle = Dense { parameters: middle.into() };
    let units: Vec<Rc<dyn Unit>> =
        vec![Rc::new(first), Rc::new(middle), Rc::new(Through), Rc::new(last)];
    Model::of_units(units, model::Input::Series(2))
}

#[test]
fn tied_unused_and_missing_parameters_train_as_at_stage_zero() {
    let losses = |stage, recomputes, overlaps| {
        let all = with_meshes(2, |mesh| {
            let mut spec = job(stage);
            spec.training.activation_checkpointing = recomputes;
            spec.zero.overlap_comm = overlaps;
            let (model, mut zero, _) = with_zero(tied(), &spec, &mesh);
            assert_eq!(model.parameters().len(), 6);
            (1..=4).map(|number| step(&model, &mut zero, number, 1)).collect::<Vec<_>>()
        });
        assert_eq!(all[0], all[1]);
        all[0].clone()
    };
    let expected = losses(0, false, false);
    assert!(expected.windows(2).all(|pair| pair[1] < pair[0]), "{expected:?}");
    for stage in [0, 2, 3] {
        for overlaps in [false, true] {
            assert_eq!(losses(stage, false, overlaps), expected, "stage {stage}");
            assert_eq!(losses(stage, true, overlaps), expected, "stage {stage}, recomputed");
        }
    }
}

#[test]
fn a_peer_that_goes_during_a_gather_is_an_error_that_says_so() {
    for recomputes in [false, true] {
        for overlaps in [false, true] {
            let errors = with_meshes(2, |mesh| {
                let mut spec = job(3);
                spec.zero.overlap_comm = overlaps;
                spec.training.activation_checkpointing = recomputes;
                let rank = mesh.communicator(1).unwrap().rank();
                let (model, zero, _) = recurrent(&spec, &mesh);
                zero.begin_micro_step(MicroStep { is_first: true, is_last: true }, 7).unwrap();
                let leaves = Leaves { inner: zero.around(), mesh: (rank == 1).then_some(&mesh) };
                let failed = model
                    .forward(&input(), key(1), &leaves)
                    .and_then(|y| {
                        let loss = y.square().mean(Kind::Float);
                        loss.f_backward().map_err(|source| zero.backward_failure(source))
                    })
                    .and_then(|()| zero.end_micro_step(7));
                failed.unwrap_err()
            });
            for error in errors {
                let Error::Communication { operation, step: 7, .. } = error else {
                    panic!("{error:?}")
                };
                assert_eq!(operation, "gather a unit's parameters");
            }
        }
    }
}

/// On one rank, ends the mesh after the forward of the last unit.
struct Leaves<'a> {
    inner: &'a Around,
    mesh: Option<&'a Mesh>,
}

impl AroundUnit for Leaves<'_> {
    fn run(
        &self,
        index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        pass: UnitPass,
    ) -> Result<Tensor, Error> {
        let output = self.inner.run(index, unit, input, pass)?;
        if let Some(mesh) = self.mesh.filter(|_| index == 1) {
            mesh.abort_handle().abort("it leaves");
        }
        Ok(output)
    }
}
