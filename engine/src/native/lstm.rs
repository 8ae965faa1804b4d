//! The LSTM layer of the `kernels` room as an operation of autograd: libtorch calls it forward
//! and, when the time comes, backward.
//!
//! Promise: forward is pure, and backward reads the weights as they are then: it keeps no packed
//! copy of them, so they may be freed and gathered in between. Refusal: fp32 on the CPU only; the
//! caller picks libtorch's own layer otherwise.

use std::cell::RefCell;
use std::ffi::c_char;
use std::slice;

use kernels::Scratch;
use kernels::lstm::{Direction, Gradients, Inputs, Kept, Lstm, Rows, Shape, Taped, Weights};
use tch::{Device, Kind, Tensor};

use super::{Error, check, kernel_instructions};

/// `[4h, f]`, `[4h, h]`, `[4h]`, `[4h]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) weight_ih: &'a Tensor,
    pub(crate) weight_hh: &'a Tensor,
    pub(crate) bias_ih: &'a Tensor,
    pub(crate) bias_hh: &'a Tensor,
}

/// `x_tbf` to `y_tbh`, from a zero state. The result's rows lie apart.
pub(crate) fn lstm(
    x_tbf: &Tensor,
    layer: Layer<'_>,
    direction: Direction,
) -> Result<Tensor, Error> {
    let Layer { weight_ih, weight_hh, bias_ih, bias_hh } = layer;
    let inputs = [x_tbf, weight_ih, weight_hh, bias_ih, bias_hh];
    let plan = plan(inputs, direction)?;
    let kernel = Kernel {
        forward,
        backward,
        output_stride: plan.output_stride() as u64,
        tape_length: plan.tape_len() as u64,
    };
    let pointers = inputs.map(Tensor::as_ptr);
    let mut message = std::ptr::null_mut();
    // SAFETY: five live tensors, whose kinds, devices and shapes `plan` has checked; the kernel's
    // functions are as C++ declares them.
    let output = unsafe {
        let pointers = pointers.as_ptr().cast();
        let reverse = u8::from(direction == Direction::Reverse);
        rustspeed_lstm(pointers, &raw const kernel, reverse, &raw mut message)
    };
    check(OPERATION, message)?;
    // SAFETY: without a message it is a new tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(output.cast()) })
}

const OPERATION: &str = "apply the LSTM kernel";

/// The layer of these inputs: x, weight_ih, weight_hh, bias_ih, bias_hh.
fn plan(inputs: [&Tensor; 5], direction: Direction) -> Result<Lstm, Error> {
    let refuse = |message: String| Err(Error { operation: OPERATION, message });
    for tensor in inputs {
        if (tensor.kind(), tensor.device()) != (Kind::Float, Device::Cpu) {
            let (kind, device) = (tensor.kind(), tensor.device());
            return refuse(format!("expected Float on the CPU, not {kind:?} on {device:?}"));
        }
    }
    let sizes = inputs.map(Tensor::size);
    let [x, _, weight_hh, ..] = &sizes;
    let (&[time, batch, features], &[_, hidden]) = (&x[..], &weight_hh[..]) else {
        return refuse(format!("expected x of [t, b, f] and weights of [4h, h], not {sizes:?}"));
    };
    let gates = 4 * hidden;
    let fitting = [vec![gates, features], vec![gates, hidden], vec![gates], vec![gates]];
    if sizes[1..] != fitting {
        return refuse(format!("x and weights do not fit: {sizes:?}"));
    }
    // Sizes of tensors are not negative.
    let [time, batch, inputs, hidden] = [time, batch, features, hidden].map(|size| size as usize);
    let shape = Shape { time, batch, inputs, hidden };
    Lstm::new(shape, direction, kernel_instructions())
        .map_err(|error| Error { operation: OPERATION, message: error.to_string() })
}

/// As lstm.cpp declares it, and so are the next three.
#[repr(C)]
struct Kernel {
    forward: Run,
    backward: Run,
    output_stride: u64,
    tape_length: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CallShape {
    time: u64,
    batch: u64,
    inputs: u64,
    hidden: u64,
    reverse: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CallRows {
    values: *const f32,
    length: u64,
    stride: u64,
}

#[repr(C)]
struct Call {
    shape: CallShape,
    x: CallRows,
    weights: [*const f32; 4],
    output: *mut f32,
    tape: *mut f32,
    output_gradient: CallRows,
    x_gradient: *mut f32,
    gradients: [*mut f32; 3],
}

type Run = extern "C" fn(*const Call, *mut c_char, u64) -> i32;

unsafe extern "C" {
    fn rustspeed_lstm(
        inputs: *const *const std::ffi::c_void,
        kernel: *const Kernel,
        reverse: u8,
        message: *mut *mut c_char,
    ) -> *mut std::ffi::c_void;
}

thread_local! {
    /// Forward and backward run on the training thread (A8), one at a time.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Bytes of working memory that the kernel keeps on this thread.
pub(crate) fn scratch_bytes() -> usize {
    SCRATCH.with_borrow(Scratch::bytes)
}

extern "C" fn forward(call: *const Call, reason: *mut c_char, capacity: u64) -> i32 {
    // SAFETY: lstm.cpp hands over a call whose tensors it holds until this returns.
    let result = unsafe { run_forward(&*call) };
    report(result, reason, capacity)
}

extern "C" fn backward(call: *const Call, reason: *mut c_char, capacity: u64) -> i32 {
    // SAFETY: as in `forward`.
    let result = unsafe { run_backward(&*call) };
    report(result, reason, capacity)
}

/// # Safety
/// The call is one of lstm.cpp's forward: `plan` has checked the shapes of the tensors that its
/// pointers come from, and `output` and `tape` are memory that nobody else uses yet.
unsafe fn run_forward(call: &Call) -> Result<(), kernels::lstm::Error> {
    let layer = call.layer()?;
    let [input, hidden, bias] = call.weight_lengths();
    // SAFETY: the caller's promise. The new memory holds arbitrary floats, which the kernel writes
    // before it reads them.
    let (inputs, kept) = unsafe {
        let weights = Weights {
            input: slice::from_raw_parts(call.weights[0], input),
            hidden: slice::from_raw_parts(call.weights[1], hidden),
            input_bias: slice::from_raw_parts(call.weights[2], bias),
            hidden_bias: slice::from_raw_parts(call.weights[3], bias),
        };
        let output = slice::from_raw_parts_mut(call.output, layer.output_len());
        let tape = slice::from_raw_parts_mut(call.tape, layer.tape_len());
        (Inputs { x: call.x.borrow(), weights }, Kept { output, tape })
    };
    SCRATCH.with_borrow_mut(|scratch| layer.forward(scratch, inputs, kept))
}

/// # Safety
/// The call is one of lstm.cpp's backward: its tensors are those of a forward, or new ones of the
/// same shapes that nobody else uses yet.
unsafe fn run_backward(call: &Call) -> Result<(), kernels::lstm::Error> {
    let layer = call.layer()?;
    let [input, hidden, bias] = call.weight_lengths();
    let x_length = call.shape.time * call.shape.batch * call.shape.inputs;
    // SAFETY: the caller's promise.
    let (taped, gradients) = unsafe {
        let taped = Taped {
            x: call.x.borrow(),
            input: slice::from_raw_parts(call.weights[0], input),
            hidden: slice::from_raw_parts(call.weights[1], hidden),
            output: slice::from_raw_parts(call.output, layer.output_len()),
            tape: slice::from_raw_parts(call.tape, layer.tape_len()),
            output_gradient: call.output_gradient.borrow(),
        };
        let x = (!call.x_gradient.is_null())
            .then(|| slice::from_raw_parts_mut(call.x_gradient, x_length as usize));
        let gradients = Gradients {
            x,
            input: slice::from_raw_parts_mut(call.gradients[0], input),
            hidden: slice::from_raw_parts_mut(call.gradients[1], hidden),
            bias: slice::from_raw_parts_mut(call.gradients[2], bias),
        };
        (taped, gradients)
    };
    SCRATCH.with_borrow_mut(|scratch| layer.backward(scratch, taped, gradients))
}

impl Call {
    fn layer(&self) -> Result<Lstm, kernels::lstm::Error> {
        let CallShape { time, batch, inputs, hidden, reverse } = self.shape;
        let [time, batch, inputs, hidden] = [time, batch, inputs, hidden].map(|size| size as usize);
        let direction = if reverse == 0 { Direction::Forward } else { Direction::Reverse };
        let shape = Shape { time, batch, inputs, hidden };
        Lstm::new(shape, direction, kernel_instructions())
    }

    fn weight_lengths(&self) -> [usize; 3] {
        let (inputs, hidden) = (self.shape.inputs as usize, self.shape.hidden as usize);
        [4 * hidden * inputs, 4 * hidden * hidden, 4 * hidden]
    }
}

impl CallRows {
    /// # Safety
    /// They are rows of a tensor that outlives `'a`.
    unsafe fn borrow<'a>(self) -> Rows<'a> {
        // SAFETY: the caller's promise.
        let values = unsafe { slice::from_raw_parts(self.values, self.length as usize) };
        Rows { values, stride: self.stride as usize }
    }
}

/// Hands the reason of a failure to C++, which throws it on to whoever asked.
fn report(result: Result<(), kernels::lstm::Error>, reason: *mut c_char, capacity: u64) -> i32 {
    let Err(error) = result else { return 0 };
    let text = error.to_string();
    let length = text.len().min(capacity as usize - 1);
    // SAFETY: lstm.cpp gives `capacity` bytes (more than one), and the text is no longer than
    // that with its final zero.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), reason.cast(), length);
        *reason.add(length) = 0;
    }
    1
}

#[cfg(test)]
mod tests;
