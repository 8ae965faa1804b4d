use common::spec::Cnn;

use super::*;

const DIGITS: Input = Input::Image(Image { channels: 1, height: 8, width: 8 });

fn spec() -> Cnn {
    Cnn { channels: vec![4, 6], kernel_size: 3, hidden_size: 16, dropout: 0.0, init_from: None }
}

fn images(count: i64) -> Tensor {
    let len = count * 64;
    let values: Vec<f32> = (0..len).map(|i| (i as f32 * 0.61).sin()).collect();
    Tensor::from_slice(&values).view([count, 1, 8, 8])
}

fn buffers(model: &Model) -> Vec<(String, Vec<f64>)> {
    let read = |buffer: &Buffer| {
        let doubles = buffer.tensor.to_kind(Kind::Double).flatten(0, -1);
        (buffer.name.clone(), Vec::try_from(doubles).unwrap())
    };
    model.buffers().iter().map(read).collect()
}

#[test]
fn a_cnn_has_torchs_names_shapes_and_units() {
    let model = build(&Spec::Cnn(spec()), DIGITS, 10, 1).unwrap();
    let line = |p: &Parameter| format!("{} {:?} {}", p.name, p.tensor.size(), p.unit);
    assert_eq!(
        model.parameters().iter().map(line).collect::<Vec<_>>(),
        [
            "conv1.weight [4, 1, 3, 3] 0",
            "bn1.weight [4] 0",
            "bn1.bias [4] 0",
            "conv2.weight [6, 4, 3, 3] 1",
            "bn2.weight [6] 1",
            "bn2.bias [6] 1",
            "fc1.weight [16, 24] 2",
            "fc1.bias [16] 2",
            "fc2.weight [10, 16] 3",
            "fc2.bias [10] 3",
        ]
    );
    assert_eq!(model.num_units(), 4);
    let expected = |name: &str, values: Vec<f64>| (name.to_owned(), values);
    assert_eq!(
        buffers(&model)[..3],
        [
            expected("bn1.running_mean", vec![0.0; 4]),
            expected("bn1.running_var", vec![1.0; 4]),
            expected("bn1.num_batches_tracked", vec![0.0]),
        ]
    );
    assert_eq!(model.buffers()[2].tensor.size(), [0_i64; 0], "a scalar, as torch's");
}

#[test]
fn a_cnn_starts_as_torch_draws_it() {
    let model = build(&Spec::Cnn(spec()), DIGITS, 10, 1).unwrap();
    for (name, fan_in) in [
        ("conv1.weight", 9.0),
        ("conv2.weight", 36.0),
        ("fc1.weight", 24.0),
        ("fc1.bias", 24.0),
        ("fc2.weight", 16.0),
    ] {
        let (bound, largest) =
            (1.0 / f64::sqrt(fan_in), named(&model, name).abs().max().double_value(&[]));
        assert!(largest <= bound && largest > 0.8 * bound, "{name}: {largest} within {bound}");
    }
    assert_eq!(values(named(&model, "bn1.weight")), [1.0; 4]);
    assert_eq!(values(named(&model, "bn1.bias")), [0.0; 4]);
}

/// Activation checkpointing runs a unit twice: its batch counts once.
#[test]
fn training_moves_the_running_statistics_and_running_again_does_not() {
    let block = |model: &Model, pass| {
        let unit = &model.units()[0];
        values(&unit.forward(&images(5), pass).unwrap())
    };
    let model = build(&Spec::Cnn(spec()), DIGITS, 10, 1).unwrap();
    let fresh = buffers(&model);
    let unit_key = UnitKey { dropout: key(0), unit: 0 };
    let trained = block(&model, UnitPass::Train(unit_key));
    let moved = buffers(&model);
    assert!(fresh[..3].iter().zip(&moved[..3]).all(|(before, after)| before != after));
    assert_eq!(moved[2].1, [1.0], "one batch");
    assert_eq!(block(&model, UnitPass::Recompute(unit_key)), trained, "the same forward");
    assert_ne!(block(&model, UnitPass::Evaluate), trained, "remembered statistics");
    assert_eq!(buffers(&model), moved);
}

#[test]
fn bf16_weights_keep_statistics_in_fp32() {
    let mut model = build(&Spec::Cnn(spec()), DIGITS, 10, 1).unwrap();
    for parameter in model.parameters_mut() {
        let narrow = parameter.tensor.detach().to_kind(Kind::BFloat16);
        parameter.tensor.set_data(&narrow);
    }
    let output = model.forward(&images(5), train(), &Plain).unwrap();
    assert_eq!(output.kind(), Kind::Float, "what leaves the model");
    output.sum(Kind::Float).backward();
    assert_eq!(named(&model, "bn1.weight").grad().kind(), Kind::BFloat16);
    assert_eq!(model.buffers()[0].tensor.kind(), Kind::Float);
    let mean = buffers(&model)[0].1[0];
    let rounded = f64::from(half::bf16::from_f64(mean));
    assert_ne!(mean, rounded, "more digits than bf16 has");
}

#[test]
fn what_a_cnn_cannot_be_is_named() {
    let refuse = |of: Cnn| build(&Spec::Cnn(of), DIGITS, 10, 1).unwrap_err().to_string();
    assert_eq!(
        refuse(Cnn { channels: vec![4; 4], ..spec() }),
        "model.channels = [4, 4, 4, 4]: expected fewer blocks: each halves the image, whose sides \
         must stay at least 1"
    );
    assert!(build(&Spec::Cnn(Cnn { channels: vec![4; 3], ..spec() }), DIGITS, 10, 1).is_ok());
    assert!(refuse(Cnn { channels: vec![], ..spec() }).contains("model.channels = []"));
    assert!(refuse(Cnn { kernel_size: 2, ..spec() }).contains("an odd number"));
    assert!(refuse(Cnn { dropout: 1.0, ..spec() }).contains("model.dropout = 1"));
    let error = build(&Spec::Cnn(spec()), 3, 10, 1).unwrap_err();
    assert_eq!(error.to_string(), "a model of kind `cnn` cannot read a series of 3 features");
    assert!(error.is_configuration());
    let error = build(&Spec::Lstm(recurrent()), DIGITS, 10, 1).unwrap_err();
    assert_eq!(error.to_string(), "a model of kind `lstm` cannot read images of 1 x 8 x 8");
    let model = build(&Spec::Cnn(spec()), DIGITS, 10, 1).unwrap();
    let flat = model.forward(&images(2).view([2, 64]), Pass::Evaluate, &Plain).unwrap_err();
    assert_eq!(flat.to_string(), "input of shape [2, 64]: expected [batch, 1, 8, 8], all positive");
}

#[test]
fn a_file_of_weights_must_hold_the_buffers_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    let model = build(&Spec::Cnn(spec()), DIGITS, 10, 1).unwrap();
    let floats = [7.0_f32; 6];
    let count = 9_i64.to_le_bytes();
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for parameter in model.parameters() {
        let shape = parameter.tensor.size().iter().map(|&d| d as usize).collect();
        let bytes = bytemuck::cast_slice(&values(&parameter.tensor)).to_vec();
        tensors.insert(parameter.name.clone(), (shape, bytes));
    }
    for (block, channels) in [(1, 4), (2, 6)] {
        let bytes = bytemuck::cast_slice(&floats[..channels]).to_vec();
        for name in ["running_mean", "running_var"] {
            tensors.insert(format!("bn{block}.{name}"), (vec![channels], bytes.clone()));
        }
        let counted = (Vec::new(), count.to_vec());
        tensors.insert(format!("bn{block}.num_batches_tracked"), counted);
    }
    let save = |tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>| {
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            let is_count = name.ends_with("tracked");
            let dtype = if is_count { safetensors::Dtype::I64 } else { safetensors::Dtype::F32 };
            (name, TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        fs_err::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let from_file = Spec::Cnn(Cnn { init_from: Some(path.clone()), ..spec() });
    save(&tensors);
    let loaded = build(&from_file, DIGITS, 10, 2).unwrap();
    assert_eq!(values(named(&loaded, "fc1.weight")), values(named(&model, "fc1.weight")));
    assert_eq!(buffers(&loaded)[4].1, [7.0; 6]);
    assert_eq!(buffers(&loaded)[2].1, [9.0]);
    tensors.remove("bn2.running_var");
    tensors.insert("bn1.num_batches_tracked".to_owned(), (vec![1], count.to_vec()));
    save(&tensors);
    let text = build(&from_file, DIGITS, 10, 2).unwrap_err().to_string();
    assert!(
        text.ends_with(
            "do not fit the model: missing: bn2.running_var; \
             wrong: bn1.num_batches_tracked has shape [1], not []"
        ),
        "{text}"
    );
}
