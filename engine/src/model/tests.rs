use std::collections::BTreeMap;

use common::spec::{Model as Spec, Recurrent, RecurrentKernel};
use safetensors::tensor::TensorView;
use tch::Device;

use super::*;
use crate::{data, fixture};

mod cnn;
mod rounding;

fn recurrent() -> Recurrent {
    Recurrent {
        hidden_size: 6,
        num_layers: 2,
        dropout: 0.0,
        head_dropout: 0.0,
        bidirectional: false,
        kernel: RecurrentKernel::Auto,
        init_from: None,
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.numel()];
    tensor.contiguous().copy_data(&mut out, tensor.numel());
    out
}

fn named<'a>(model: &'a Model, name: &str) -> &'a Tensor {
    let found = model.parameters().iter().find(|p| p.name == name);
    &found.unwrap_or_else(|| panic!("no {name}")).tensor
}

/// The largest difference, relative to 1 or the greatest expected value.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    (found - expected).abs().max().double_value(&[]) / scale
}

#[test]
fn output_loss_and_gradients_equal_torch() {
    for name in fixture::ALL {
        let fixture = fixture::load(name);
        for (kernel, spec) in fixture.on_each_kernel() {
            check_against_torch(&format!("{name}, {kernel:?}"), &spec.model, &fixture.batch());
        }
    }
}

fn check_against_torch(name: &str, spec: &Spec, batch: &BTreeMap<String, Tensor>) {
    let model = build(spec, 2, 2, 0).unwrap();
    let output = model.forward(&batch["x"], train(), &Plain).unwrap();
    assert!(difference(&output, &batch["output"]) < 1e-6, "{name}: output");
    let loss = output.mse_loss(&batch["y"], tch::Reduction::Mean);
    assert!(difference(&loss.reshape([1]), &batch["loss"]) < 1e-6, "{name}: loss");
    loss.backward();
    let gradients = batch.keys().filter(|key| key.starts_with("grad.")).count();
    assert_eq!(model.parameters().len(), gradients, "{name}");
    for parameter in model.parameters() {
        let expected = &batch[&format!("grad.{}", parameter.name)];
        let difference = difference(&parameter.tensor.grad(), expected);
        assert!(difference < 1e-6, "{name}: gradient of {}: {difference}", parameter.name);
    }
}

#[test]
fn the_kernel_is_the_one_asked_for_and_says_so() {
    tch::set_num_threads(1);
    let of = |kernel| Spec::Lstm(Recurrent { kernel, ..recurrent() });
    let said = |kernel, weights| instruction_set(&of(kernel), weights).unwrap();
    let libtorchs = said(RecurrentKernel::Libtorch, Kind::Float);
    let ours = said(RecurrentKernel::Native, Kind::Float);
    let best = crate::native::kernel_instructions().name();
    assert_eq!(ours, format!("{libtorchs}, lstm kernel {best}"));
    assert_eq!(
        libtorchs,
        best.to_uppercase().replace("PORTABLE", "DEFAULT"),
        "as wide as libtorch"
    );
    let is_faster = best != "portable";
    let expected = if is_faster { &ours } else { &libtorchs };
    assert_eq!(said(RecurrentKernel::Auto, Kind::Float), *expected);
    assert_eq!(said(RecurrentKernel::Auto, Kind::BFloat16), libtorchs, "ours is fp32 only");

    let gru = Spec::Gru(Recurrent { kernel: RecurrentKernel::Native, ..recurrent() });
    assert_eq!(
        build(&gru, 3, 2, 1).unwrap_err().to_string(),
        "model.kernel = native: expected libtorch or auto: only an LSTM has our own"
    );
    let model = build(&of(RecurrentKernel::Native), 3, 2, 1).unwrap();
    for parameter in model.parameters() {
        let half = parameter.tensor.detach().to_kind(Kind::BFloat16);
        parameter.tensor.shallow_clone().set_data(&half);
    }
    let x = Tensor::ones([4, 5, 3], (Kind::Float, Device::Cpu));
    let refused = model.forward(&x, Pass::Evaluate, &Plain).unwrap_err();
    let refused =
        std::error::Error::source(&refused).map_or(refused.to_string(), |e| e.to_string());
    assert!(refused.contains("expected Float on the CPU, not BFloat16"), "{refused}");
}

#[test]
fn parameters_have_torchs_names_shapes_and_units() {
    let layout_of = |of_kind: fn(Recurrent) -> Spec, bidirectional| {
        let model = build(&of_kind(Recurrent { bidirectional, ..recurrent() }), 3, 2, 1).unwrap();
        assert_eq!(model.num_units(), 3);
        let line = |p: &Parameter| format!("{} {:?} {}", p.name, p.tensor.size(), p.unit);
        model.parameters().iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        layout_of(Spec::Gru, false),
        [
            "rnn.weight_ih_l0 [18, 3] 0",
            "rnn.weight_hh_l0 [18, 6] 0",
            "rnn.bias_ih_l0 [18] 0",
            "rnn.bias_hh_l0 [18] 0",
            "rnn.weight_ih_l1 [18, 6] 1",
            "rnn.weight_hh_l1 [18, 6] 1",
            "rnn.bias_ih_l1 [18] 1",
            "rnn.bias_hh_l1 [18] 1",
            "fc.weight [2, 6] 2",
            "fc.bias [2] 2",
        ]
    );
    let both_ways = layout_of(Spec::Lstm, true);
    assert_eq!(both_ways[5], "lstm.weight_hh_l0_reverse [24, 6] 0");
    assert_eq!(both_ways[8], "lstm.weight_ih_l1 [24, 12] 1");
    assert_eq!(both_ways[16], "fc.weight [2, 12] 2");
}

#[test]
fn initial_weights_follow_the_rules() {
    let model = build(&Spec::Lstm(recurrent()), 3, 2, 5).unwrap();
    let identity = Tensor::eye(6, (Kind::Float, Device::Cpu));
    for layer in 0..2 {
        let hidden = named(&model, &format!("lstm.weight_hh_l{layer}")).detach();
        assert!(difference(&hidden.tr().matmul(&hidden), &identity) < 1e-6, "orthogonal columns");
        let input = named(&model, &format!("lstm.weight_ih_l{layer}"));
        let bound = (6.0 / (24.0 + input.size()[1] as f64)).sqrt();
        let largest = input.abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.8 * bound, "{largest} within {bound}");
        for role in ["bias_ih", "bias_hh"] {
            let bias = values(named(&model, &format!("lstm.{role}_l{layer}")));
            assert_eq!(bias, [[0.0; 6], [1.0; 6], [0.0; 6], [0.0; 6]].concat(), "forget gate at 1");
        }
    }
    let bound = 1.0 / 6f64.sqrt();
    for name in ["fc.weight", "fc.bias"] {
        let largest = named(&model, name).abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.0, "{name}");
    }
    let gru = build(&Spec::Gru(recurrent()), 3, 2, 5).unwrap();
    assert_eq!(values(named(&gru, "rnn.bias_hh_l1")), [0.0; 18]);
}

/// The bits of ranks on different machines must agree, so the values are pinned.
#[test]
fn initial_weights_depend_on_the_seed_alone() {
    let digest = |seed, layers| {
        let spec = Spec::Lstm(Recurrent { num_layers: layers, ..recurrent() });
        let model = build(&spec, 3, 2, seed).unwrap();
        let mut hasher = blake3::Hasher::new();
        for parameter in model.parameters().iter().filter(|p| p.name.ends_with("_l0")) {
            hasher.update(bytemuck::cast_slice(&values(&parameter.tensor)));
        }
        hasher.finalize().to_hex()[..16].to_owned()
    };
    assert_eq!(digest(5, 2), PINNED_FIRST_LAYER);
    assert_eq!(digest(5, 2), digest(5, 3), "another layer changes no other");
    assert_ne!(digest(5, 2), digest(6, 2));
}

const PINNED_FIRST_LAYER: &str = "08701d21c7d66d87";

#[test]
fn a_parameter_pointed_at_other_storage_moves_the_model() {
    let mut model = build(&Spec::Lstm(recurrent()), 3, 2, 1).unwrap();
    let x = Tensor::ones([4, 5, 3], (Kind::Float, Device::Cpu));
    let before = model.forward(&x, Pass::Evaluate, &Plain).unwrap();
    let flat = Tensor::zeros([model.num_elements() as i64], (Kind::Float, Device::Cpu));
    let mut offset = 0;
    for parameter in model.parameters_mut() {
        let (size, len) = (parameter.tensor.size(), parameter.tensor.numel() as i64);
        let mut view = flat.narrow(0, offset, len).view(&size[..]);
        view.copy_(&parameter.tensor.detach());
        parameter.tensor.set_data(&view);
        offset += len;
    }
    assert!(model.parameters().iter().all(|p| p.tensor.is_leaf() && p.tensor.requires_grad()));
    let moved = model.forward(&x, Pass::Evaluate, &Plain).unwrap();
    assert_eq!(values(&before), values(&moved), "the same weights, elsewhere");
    let _ = flat.shallow_clone().fill_(0.0);
    assert_eq!(
        values(&model.forward(&x, Pass::Evaluate, &Plain).unwrap()),
        [0.0; 8],
        "the model reads the buffer"
    );
}

#[test]
fn dropout_acts_only_in_training_and_only_where_asked() {
    let x = Tensor::ones([8, 5, 3], (Kind::Float, Device::Cpu));
    let varies = |dropout, head_dropout, training| {
        let spec = Spec::Gru(Recurrent { dropout, head_dropout, ..recurrent() });
        let model = build(&spec, 3, 2, 1).unwrap();
        let draw = |step| {
            let pass = if training { Pass::Train(key(step)) } else { Pass::Evaluate };
            values(&model.forward(&x, pass, &Plain).unwrap())
        };
        assert_eq!(draw(3), draw(3), "the stream determines the masks");
        draw(3) != draw(4)
    };
    assert!(varies(0.5, 0.0, true));
    assert!(varies(0.0, 0.5, true));
    assert!(!varies(0.0, 0.0, true));
    assert!(!varies(0.5, 0.5, false));
}

#[test]
fn dropout_drops_its_share_keeps_the_mean_and_drops_the_same_gradients() {
    for rate in [0.01, 0.2, 0.9] {
        let x = Tensor::ones([50, 40, 64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let pass = UnitPass::Train(UnitKey { dropout: key(0), unit: 0 });
        let out = dropout::dropout(&x, rate, pass).unwrap();
        let dropped = out.eq(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        assert!((dropped - rate).abs() < 0.005, "{dropped} of {rate}");
        let kept = out.max().double_value(&[]);
        assert!((kept - 1.0 / (1.0 - rate)).abs() < 1e-5, "{kept}");
        out.sum(Kind::Float).backward();
        assert_eq!(values(&x.grad()), values(&out.detach()));
    }
}

fn train() -> Pass {
    Pass::Train(key(0))
}

fn key(step: u64) -> DropoutKey {
    DropoutKey { seed: 1, rank: 0, step, micro_step: 0 }
}

/// Notes what it was asked to run, and runs each unit twice: what comes out is the second result.
#[derive(Default)]
struct Twice(std::cell::RefCell<Vec<(usize, usize, bool)>>);

impl AroundUnit for Twice {
    fn run(
        &self,
        index: usize,
        unit: &Rc<dyn Unit>,
        input: &Tensor,
        pass: UnitPass,
    ) -> Result<Tensor, crate::Error> {
        self.0.borrow_mut().push((index, unit.parameters().len(), pass.is_training()));
        let first = unit.forward(input, pass)?;
        let UnitPass::Train(key) = pass else { return Ok(first) };
        let again = unit.forward(input, UnitPass::Recompute(key))?;
        assert_eq!(values(&first), values(&again), "unit {index}");
        Ok(again)
    }
}

#[test]
fn every_unit_runs_in_order_through_the_hand_around_it_and_can_be_run_again() {
    let x = Tensor::ones([8, 5, 3], (Kind::Float, Device::Cpu));
    let spec = Spec::Lstm(Recurrent { dropout: 0.4, head_dropout: 0.4, ..recurrent() });
    let model = build(&spec, 3, 2, 1).unwrap();
    let plain = model.forward(&x, train(), &Plain).unwrap();
    let twice = Twice::default();
    assert_eq!(values(&plain), values(&model.forward(&x, train(), &twice).unwrap()));
    assert_eq!(twice.0.take(), [(0, 4, true), (1, 4, true), (2, 2, true)]);
    let _ = model.forward(&x, Pass::Evaluate, &twice).unwrap();
    assert_eq!(twice.0.take(), [(0, 4, false), (1, 4, false), (2, 2, false)]);
}

/// A unit's masks depend on no other unit's: without dropout before it, the head draws the same.
#[test]
fn a_unit_draws_its_own_masks() {
    let masks = |unit, rate| {
        let x = Tensor::ones([4, 16], (Kind::Float, Device::Cpu));
        let pass = UnitPass::Train(UnitKey { dropout: key(2), unit });
        values(&dropout::dropout(&x, rate, pass).unwrap().ne(0.0).to_kind(Kind::Float))
    };
    assert_eq!(masks(1, 0.5), masks(1, 0.5));
    assert_ne!(masks(1, 0.5), masks(2, 0.5));
}

#[test]
fn all_that_does_not_fit_in_a_weights_file_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let model = build(&Spec::Lstm(recurrent()), 3, 2, 1).unwrap();
    let mut weights: BTreeMap<String, (Vec<usize>, Vec<f32>)> = model
        .parameters()
        .iter()
        .map(|p| {
            (
                p.name.clone(),
                (p.tensor.size().iter().map(|&d| d as usize).collect(), values(&p.tensor)),
            )
        })
        .collect();
    let save = |weights: &BTreeMap<String, (Vec<usize>, Vec<f32>)>| {
        let views = weights.iter().map(|(name, (shape, values))| {
            let bytes = bytemuck::cast_slice(values);
            (name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        fs_err::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let from_file = Recurrent { init_from: Some(path.clone()), ..recurrent() };
    let load = || build(&Spec::Lstm(from_file.clone()), 3, 2, 9);

    save(&weights);
    let loaded = load().unwrap();
    for parameter in model.parameters() {
        assert_eq!(values(&parameter.tensor), values(named(&loaded, &parameter.name)));
    }

    weights.remove("fc.bias");
    weights.insert("fc.gain".to_owned(), (vec![2], vec![0.0; 2]));
    weights.insert("fc.weight".to_owned(), (vec![6, 2], vec![0.0; 12]));
    weights.get_mut("lstm.bias_hh_l0").unwrap().1[3] = f32::NAN;
    save(&weights);
    let error = load().unwrap_err();
    assert!(error.is_configuration());
    let text = error.to_string();
    assert!(
        text.ends_with(
            "weights.safetensors` do not fit the model: missing: fc.bias; unexpected: fc.gain; \
             wrong: lstm.bias_hh_l0 holds NaN at element 3, fc.weight has shape [6, 2], not [2, 6]"
        ),
        "{text}"
    );

    fs_err::write(&path, b"not safetensors").unwrap();
    assert!(matches!(load().unwrap_err(), Error::ParseWeights { .. }));
    fs_err::remove_file(&path).unwrap();
    assert!(matches!(load().unwrap_err(), Error::ReadWeights { .. }));
}

#[test]
fn impossible_settings_and_inputs_are_named() {
    let refuse = |of: Recurrent| build(&Spec::Lstm(of), 3, 2, 1).unwrap_err().to_string();
    assert_eq!(
        refuse(Recurrent { hidden_size: 0, ..recurrent() }),
        "model.hidden-size = 0: expected 1 to 65536"
    );
    assert_eq!(
        refuse(Recurrent { dropout: 1.0, ..recurrent() }),
        "model.dropout = 1: expected at least 0 and below 1"
    );
    assert!(refuse(Recurrent { hidden_size: 60_000, ..recurrent() }).contains("the limit is"));
    let model = build(&Spec::Lstm(recurrent()), 3, 2, 1).unwrap();
    let x = |dims: &[i64]| Tensor::zeros(dims, (Kind::Float, Device::Cpu));
    for wrong in [x(&[5, 3]), x(&[4, 5, 2]), x(&[0, 5, 3])] {
        let refused = model.forward(&wrong, Pass::Evaluate, &Plain);
        assert!(matches!(refused, Err(crate::Error::Model(Error::InputShape { .. }))));
    }
    let doubles = x(&[4, 5, 3]).to_kind(Kind::Double);
    let refused = model.forward(&doubles, Pass::Evaluate, &Plain);
    assert!(matches!(refused, Err(crate::Error::Model(Error::InputKind { .. }))));
}

/// The samples of the fixtures' file are those that the script made, so that the losses of its
/// first steps follow from its initial weights.
#[test]
fn the_first_losses_equal_torch() {
    for name in fixture::ALL {
        let fixture = fixture::load(name);
        let dataset = data::load(&fixture.spec.data, 1).unwrap();
        let model = build(&fixture.spec.model, 2, dataset.output_features, 0).unwrap();
        let batch = fixture.spec.training.batch.batch_size.as_ref().unwrap().value as u32;
        let (x_btf, y_bo) = dataset.train.batch(&(0..batch).collect::<Vec<_>>()).unwrap();
        let loss =
            model.forward(&x_btf, train(), &Plain).unwrap().mse_loss(&y_bo, tch::Reduction::Mean);
        let expected = fixture.expected.losses[0];
        let relative = (loss.double_value(&[]) - expected).abs() / expected;
        assert!(relative < 1e-6, "{name}: {relative}");
    }
}
