//! What fp32 loses in the gradients of whole models: with our LSTM kernel no more than with
//! libtorch's. The yardstick is libtorch in fp64.

use super::*;

/// Ours may lose so many times what libtorch's kernel loses: sums of other orders lose alike, a
/// mistake loses a hundredfold.
const MOST: f64 = 3.0;

struct Sizes {
    hidden: u32,
    bidirectional: bool,
    batch: i64,
    time: i64,
}

/// Every parameter's gradient of the same loss on the same weights.
fn gradients(spec: &Recurrent, kernel: RecurrentKernel, x_btf: &Tensor) -> Vec<(String, Tensor)> {
    let spec = Spec::Lstm(Recurrent { kernel, ..spec.clone() });
    let mut model = build(&spec, 3, 2, 11).unwrap();
    for parameter in model.parameters_mut() {
        let data = parameter.tensor.detach().to_kind(x_btf.kind());
        parameter.tensor.set_data(&data);
    }
    // Not `Model::forward`: its output is fp32.
    let mut value = x_btf.shallow_clone();
    for unit in model.units() {
        value = unit.forward(&value, UnitPass::Evaluate).unwrap();
    }
    let target = (x_btf.select(1, 0).narrow(1, 0, 2) * 3.0).sin();
    value.mse_loss(&target, tch::Reduction::Mean).backward();
    let of = |p: &Parameter| (p.name.clone(), p.tensor.grad());
    model.parameters().iter().map(of).collect()
}

fn check(Sizes { hidden, bidirectional, batch, time }: Sizes) {
    tch::set_num_threads(1);
    let spec = Recurrent { hidden_size: hidden, bidirectional, ..recurrent() };
    let len = batch * time * 3;
    let x = (Tensor::arange(len, (Kind::Float, Device::Cpu)) * 0.37).sin().view([batch, time, 3]);
    let exact = gradients(&spec, RecurrentKernel::Libtorch, &x.to_kind(Kind::Double));
    let libtorchs = gradients(&spec, RecurrentKernel::Libtorch, &x);
    let ours = gradients(&spec, RecurrentKernel::Native, &x);
    for (((name, exact), (_, libtorchs)), (_, ours)) in exact.iter().zip(&libtorchs).zip(&ours) {
        // The head reads one step of the reverse direction: its recurrent weights have no part in it.
        let is_idle = exact.norm().double_value(&[]) == 0.0;
        let error = |found: &Tensor| {
            if is_idle {
                return found.abs().max().double_value(&[]);
            }
            ((found.to_kind(Kind::Double) - exact).norm() / exact.norm()).double_value(&[])
        };
        let (ours, libtorchs) = (error(ours), error(libtorchs));
        let what = format!("H {hidden}, gradient of {name}: {ours:e}, libtorch's {libtorchs:e}");
        assert!(ours < 1e-5 && ours <= MOST * libtorchs, "{what}");
    }
}

#[test]
fn gradients_of_whole_models_lose_no_more_than_libtorchs() {
    check(Sizes { hidden: 64, bidirectional: true, batch: 32, time: 50 });
    check(Sizes { hidden: 256, bidirectional: false, batch: 64, time: 50 });
}
