use tch::no_grad;

use super::*;

/// Leaves of a layer of `directions`, in torch's order, with small random values.
fn leaves(inputs: i64, hidden: i64, directions: usize) -> Vec<Tensor> {
    let shapes =
        [vec![4 * hidden, inputs], vec![4 * hidden, hidden], vec![4 * hidden], vec![4 * hidden]];
    (0..directions)
        .flat_map(|_| &shapes)
        .map(|shape| random(shape, 0.5).set_requires_grad(true))
        .collect()
}

fn random(shape: &[i64], scale: f64) -> Tensor {
    (Tensor::rand(shape, (Kind::Float, Device::Cpu)) * 2.0 - 1.0) * scale
}

fn layer(leaves: &[Tensor]) -> Layer<'_> {
    let [weight_ih, weight_hh, bias_ih, bias_hh] = leaves else { panic!("{}", leaves.len()) };
    Layer { weight_ih, weight_hh, bias_ih, bias_hh }
}

fn ours(x_tbf: &Tensor, leaves: &[Tensor]) -> Tensor {
    let directions = [Direction::Forward, Direction::Reverse];
    let outputs: Vec<Tensor> = leaves
        .chunks(4)
        .zip(directions)
        .map(|(leaves, direction)| lstm(x_tbf, layer(leaves), direction).unwrap())
        .collect();
    Tensor::cat(&outputs, 2)
}

fn torchs(x_tbf: &Tensor, leaves: &[Tensor], hidden: i64) -> Tensor {
    let directions = leaves.len() as i64 / 4;
    let state = Tensor::zeros([directions, x_tbf.size()[1], hidden], (x_tbf.kind(), Device::Cpu));
    let leaves: Vec<&Tensor> = leaves.iter().collect();
    x_tbf.lstm(&[&state, &state], &leaves, true, 1, 0.0, true, directions == 2, false).0
}

/// The output and the gradients of all leaves and x.
fn gradients(output: &Tensor, weights: &Tensor, leaves: &[Tensor], x: &Tensor) -> Vec<Tensor> {
    (output * weights).sum(output.kind()).backward();
    let mut found = vec![output.detach().copy()];
    for leaf in leaves.iter().chain([x]) {
        let mut gradient = leaf.grad();
        found.push(gradient.copy());
        let _ = gradient.zero_();
    }
    found
}

fn check_equal(what: &str, found: &[Tensor], expected: &[Tensor]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.size(), expected.size());
        let scale = expected.abs().max().double_value(&[]).max(1e-6);
        let difference = (found - expected).abs().max().double_value(&[]) / scale;
        assert!(difference < 1e-5, "{what}, tensor {index}: {difference}");
    }
}

#[test]
fn outputs_and_gradients_equal_libtorchs() {
    for [time, batch, inputs, hidden] in
        [[1, 1, 1, 1], [7, 3, 2, 6], [50, 17, 3, 20], [5, 33, 40, 48]]
    {
        for directions in [1, 2] {
            let leaves = leaves(inputs, hidden, directions);
            let x = random(&[time, batch, inputs], 2.0).set_requires_grad(true);
            let weights = random(&[time, batch, hidden * directions as i64], 1.0);
            let found = gradients(&ours(&x, &leaves), &weights, &leaves, &x);
            let expected = gradients(&torchs(&x, &leaves, hidden), &weights, &leaves, &x);
            check_equal(
                &format!("{time} {batch} {inputs} {hidden} {directions}"),
                &found,
                &expected,
            );
        }
    }
}

/// At a size that people train: what fp32 loses is no more than libtorch's own kernel loses.
#[test]
fn errors_are_no_larger_than_libtorchs() {
    let (inputs, hidden) = (128, 128);
    let leaves = leaves(inputs, hidden, 1);
    let scaled: Vec<Tensor> = leaves.iter().map(|leaf| leaf.detach() * 0.2).collect();
    let scaled: Vec<Tensor> = scaled.into_iter().map(|leaf| leaf.set_requires_grad(true)).collect();
    let x = random(&[30, 24, inputs], 1.0).set_requires_grad(true);
    let weights = random(&[30, 24, hidden], 1.0);
    let wide = |tensor: &Tensor| tensor.detach().to_kind(Kind::Double).set_requires_grad(true);
    let wide_leaves: Vec<Tensor> = scaled.iter().map(wide).collect();
    let wide_x = wide(&x);
    let exact = torchs(&wide_x, &wide_leaves, hidden);
    let exact = gradients(&exact, &weights.to_kind(Kind::Double), &wide_leaves, &wide_x);
    let ours = gradients(&ours(&x, &scaled), &weights, &scaled, &x);
    let torchs = gradients(&torchs(&x, &scaled, hidden), &weights, &scaled, &x);
    for (index, ((ours, torchs), exact)) in ours.iter().zip(&torchs).zip(&exact).enumerate() {
        let error = |found: &Tensor| ((found - exact).norm() / exact.norm()).double_value(&[]);
        let (ours, torchs) = (error(ours), error(torchs));
        assert!(ours < 1e-6 && ours < 2.0 * torchs, "tensor {index}: {ours}, libtorch's {torchs}");
    }
}

/// Batch-major input, a gradient from the last step alone, and one that is broadcast.
#[test]
fn inputs_and_gradients_may_lie_in_memory_as_they_like() {
    let leaves = leaves(3, 6, 1);
    let x_btf = random(&[4, 5, 3], 1.0).set_requires_grad(true);
    let x_tbf = x_btf.transpose(0, 1);
    let expected = torchs(&x_tbf, &leaves, 6);
    let found = ours(&x_tbf, &leaves);
    let last = |output: &Tensor| {
        (output.select(0, -1).sum(Kind::Float) + output.sum(Kind::Float)).backward();
        let grads = leaves.iter().chain([&x_btf]).map(|leaf| {
            let mut gradient = leaf.grad();
            let copy = gradient.copy();
            let _ = gradient.zero_();
            copy
        });
        grads.collect::<Vec<_>>()
    };
    check_equal("last step", &last(&found), &last(&expected));
}

/// Stage 3: the weights' memory may be elsewhere in backward, as long as it holds the same values.
#[test]
fn backward_reads_the_weights_as_they_are_then() {
    let leaves = leaves(3, 6, 1);
    let x = random(&[5, 4, 3], 1.0).set_requires_grad(true);
    let weights = random(&[5, 4, 6], 1.0);
    let expected = gradients(&ours(&x, &leaves), &weights, &leaves, &x);
    let output = ours(&x, &leaves);
    let kept: Vec<Tensor> = leaves.iter().map(|leaf| leaf.detach().copy()).collect();
    // Through other handles, as the flat buffers do, so that no version counter moves.
    let overwrite = |leaf: &Tensor, values: &Tensor| leaf.data().copy_(values);
    leaves.iter().for_each(|leaf| overwrite(leaf, &(leaf.zeros_like() + 7.0)));
    leaves.iter().zip(&kept).for_each(|(leaf, values)| overwrite(leaf, values));
    let found = gradients(&output, &weights, &leaves, &x);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "the same bits");
    }
}

#[test]
fn a_forward_may_be_run_again_and_backward_only_once() {
    let leaves = leaves(3, 6, 1);
    let x = random(&[5, 4, 3], 1.0);
    let first = ours(&x, &leaves);
    assert_eq!(first, no_grad(|| ours(&x, &leaves)));
    assert_eq!(first, ours(&x, &leaves));
    let loss = first.sum(Kind::Float);
    loss.backward();
    assert!(loss.f_backward().unwrap_err().to_string().contains("second time"));
    let second =
        Tensor::f_run_backward(&[ours(&x, &leaves).sum(Kind::Float)], &[&leaves[0]], true, true);
    assert!(second.unwrap_err().to_string().contains("no second derivative"));
}

#[test]
fn what_the_kernel_cannot_take_is_refused_by_name() {
    let leaves = leaves(3, 6, 1);
    let refuse = |x: &Tensor| lstm(x, layer(&leaves), Direction::Forward).unwrap_err().to_string();
    assert_eq!(
        refuse(&random(&[5, 4, 3], 1.0).to_kind(Kind::Double)),
        "apply the LSTM kernel: expected Float on the CPU, not Double on Cpu"
    );
    assert!(refuse(&random(&[5, 3], 1.0)).contains("expected x of [t, b, f]"));
    assert!(refuse(&random(&[5, 4, 2], 1.0)).contains("do not fit"));
    assert!(refuse(&random(&[5, 0, 3], 1.0)).contains("batch 0"));
}
