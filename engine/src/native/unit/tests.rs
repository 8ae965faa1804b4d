use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tch::{Device, Kind, Tensor, no_grad};

use super::{
    Stop, backward, before_backward, recompute_in_backward, resize_storage, storage_bytes,
};

const ON_CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn numbers(dims: &[i64], seed: f64) -> Tensor {
    let len: i64 = dims.iter().product();
    (Tensor::arange(len, ON_CPU) * 0.37 + seed).sin().view(dims)
}

/// An LSTM layer and a linear one behind it, each with its parameters in one flat tensor.
struct Net {
    flats: [Tensor; 2],
    leaves: [Vec<Tensor>; 2],
}

impl Net {
    fn new() -> Self {
        let shapes: [&[&[i64]]; 2] = [&[&[20, 3], &[20, 5], &[20], &[20]], &[&[2, 5], &[2]]];
        let make = |shapes: &[&[i64]], seed: f64| {
            let len: i64 = shapes.iter().map(|dims| dims.iter().product::<i64>()).sum();
            let flat = numbers(&[len], seed);
            let mut offset = 0;
            let views = shapes.iter().map(|dims| {
                let len = dims.iter().product();
                let view = flat.narrow(0, offset, len).view(*dims);
                offset += len;
                let mut leaf = Tensor::zeros(*dims, ON_CPU).set_requires_grad(true);
                leaf.set_data(&view);
                leaf
            });
            let leaves = views.collect();
            (flat, leaves)
        };
        let ((first, first_leaves), (second, second_leaves)) =
            (make(shapes[0], 0.1), make(shapes[1], 0.2));
        Self { flats: [first, second], leaves: [first_leaves, second_leaves] }
    }

    fn forward(&self, unit: usize, x: &Tensor) -> Tensor {
        forward(unit, &self.leaves[unit], x)
    }

    fn gradients(&self) -> Vec<Vec<f32>> {
        let leaves = self.leaves.iter().flatten();
        leaves.map(|leaf| Vec::try_from(leaf.grad().flatten(0, -1)).unwrap()).collect()
    }
}

fn forward(unit: usize, leaves: &[Tensor], x: &Tensor) -> Tensor {
    if unit == 1 {
        return x.linear(&leaves[0], Some(&leaves[1])).tanh();
    }
    let state = Tensor::zeros([1, x.size()[1], 5], ON_CPU);
    let states = [state.shallow_clone(), state];
    let (out_tbh, _, _) = x.lstm(&states, leaves, true, 1, 0.0, true, false, false);
    out_tbh.select(0, -1)
}

fn resize(flat: &Tensor, bytes: usize) {
    // SAFETY: nothing reads it before it has its bytes again.
    unsafe { resize_storage(flat, bytes).unwrap() }
}

fn leaf_input() -> Tensor {
    numbers(&[6, 4, 3], 0.3).set_requires_grad(true)
}

/// The gradients of the parameters and of the input in a plain run.
fn expected() -> (Vec<Vec<f32>>, Vec<f32>) {
    let (net, x) = (Net::new(), leaf_input());
    net.forward(1, &net.forward(0, &x)).square().sum(Kind::Float).backward();
    (net.gradients(), Vec::try_from(x.grad().flatten(0, -1)).unwrap())
}

#[test]
fn parameters_that_are_away_between_forward_and_backward_give_the_same_gradients() {
    let (net, x) = (Net::new(), leaf_input());
    let events = Rc::new(RefCell::new(Vec::new()));
    let mut out = x.shallow_clone();
    for unit in 0..2 {
        out = net.forward(unit, &out);
        let flat = net.flats[unit].shallow_clone();
        let (values, bytes) = (flat.copy(), flat.numel() * 4);
        let (after, after_bytes) = (net.flats[1].shallow_clone(), net.flats[1].numel() * 4);
        assert_eq!(storage_bytes(&flat), bytes);
        resize(&flat, 0);
        assert_eq!(storage_bytes(&flat), 0);
        assert_eq!(storage_bytes(&net.leaves[unit][0]), 0, "a view has the storage of its flat");
        let events = events.clone();
        let gather = move || {
            events.borrow_mut().push(unit);
            if unit == 0 {
                assert_eq!(storage_bytes(&after), after_bytes, "nobody has freed it");
                resize(&after, 0);
            }
            resize(&flat, bytes);
            // A tensor of its own version counter: autograd sees no change.
            no_grad(|| flat.data().copy_(&values));
            Ok(())
        };
        before_backward(&out, gather).unwrap();
    }
    out.square().sum(Kind::Float).backward();
    assert_eq!(*events.borrow(), [1, 0]);
    let (parameters, input) = expected();
    assert_eq!(net.gradients(), parameters);
    assert_eq!(Vec::<f32>::try_from(x.grad().flatten(0, -1)).unwrap(), input);
}

#[test]
fn a_recomputed_unit_has_the_same_gradients_and_keeps_its_input_alone() {
    // Whether the input of all is a leaf that wants a gradient, or data.
    for wants in [true, false] {
        let net = Net::new();
        let x = if wants { leaf_input() } else { leaf_input().detach() };
        let calls = Rc::new(Cell::new(0));
        let mut out = x.shallow_clone();
        for unit in 0..2 {
            let input = out;
            // With a graph that goes at once: without one, oneDNN takes other kernels, and their
            // last bits differ.
            let alone = input.detach().set_requires_grad(input.requires_grad());
            let made = net.forward(unit, &alone).detach();
            let leaves: Vec<_> = net.leaves[unit].iter().map(Tensor::shallow_clone).collect();
            let calls = calls.clone();
            let recompute = move |input: &Tensor, gradient: &Tensor| {
                calls.set(calls.get() + 1);
                let output = tch::with_grad(|| forward(unit, &leaves, input));
                backward(&output, gradient).unwrap();
                Ok(input.requires_grad().then(|| input.grad()))
            };
            out = recompute_in_backward(&input, made, recompute).unwrap();
            assert!(out.requires_grad());
        }
        out.square().sum(Kind::Float).backward();
        assert_eq!(calls.get(), 2);
        let (parameters, input) = expected();
        assert_eq!(net.gradients(), parameters);
        if wants {
            assert_eq!(Vec::<f32>::try_from(x.grad().flatten(0, -1)).unwrap(), input);
        }
    }
}

#[test]
fn a_callback_that_stops_ends_the_backward() {
    let x = numbers(&[4], 0.0).set_requires_grad(true);
    let y = x.square();
    before_backward(&y, || Err(Stop)).unwrap();
    let error = y.sum(Kind::Float).f_backward().unwrap_err().to_string();
    assert!(error.contains("a unit's backward was called off"), "{error}");
    assert!(!x.grad().defined());
    let made = no_grad(|| x.square());
    let y = recompute_in_backward(&x, made, |_, _| Err(Stop)).unwrap();
    assert!(y.sum(Kind::Float).f_backward().is_err());
    // No gradient can be waited for where there is none.
    assert!(before_backward(&x.detach(), || Ok(())).is_err());
}

#[test]
fn what_a_graph_holds_goes_with_it() {
    let held = Rc::new(());
    let x = numbers(&[4], 0.0).set_requires_grad(true);
    let (for_hook, for_node) = (held.clone(), held.clone());
    let y = x.square();
    before_backward(&y, move || {
        let _ = &for_hook;
        Ok(())
    })
    .unwrap();
    let made = no_grad(|| y.square());
    let z = recompute_in_backward(&y, made, move |_, _| {
        let _ = &for_node;
        Ok(None)
    })
    .unwrap();
    assert_eq!(Rc::strong_count(&held), 3);
    drop((y, z));
    assert_eq!(Rc::strong_count(&held), 1);
}

#[test]
fn freed_memory_is_the_systems_again() {
    // Large beside what other tests take meanwhile.
    const LEN: i64 = 64 << 20;
    let resident = || {
        let statm = fs_err::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
    };
    let flat = Tensor::ones([LEN], ON_CPU);
    let with = resident();
    resize(&flat, 0);
    let without = resident();
    assert!(with - without > 3 * LEN, "{with} before, {without} after");
}
