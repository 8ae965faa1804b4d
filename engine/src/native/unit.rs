//! What a unit of a model needs of autograd and storage: a call before its backward, a forward
//! that is computed again in backward, and parameter memory that comes and goes.
//!
//! Promise: a reason to stop that a callback has stays with the callback; libtorch's backward
//! fails and says only that it was called off. Refusal: knows neither units nor ranks.

use std::ffi::{c_char, c_void};

use tch::Tensor;

use super::{Error, check};

/// The callback failed and keeps the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop;

type Before = Box<dyn Fn() -> Result<(), Stop>>;
type Recompute = Box<dyn Fn(&Tensor, &Tensor) -> Result<Option<Tensor>, Stop>>;

unsafe extern "C" {
    fn rustspeed_before_backward(
        output: *const c_void,
        before: extern "C" fn(*mut c_void) -> i32,
        drop: extern "C" fn(*mut c_void),
        context: *mut c_void,
    ) -> *mut c_char;
    fn rustspeed_recompute_in_backward(
        input: *const c_void,
        output: *mut c_void,
        recompute: extern "C" fn(*mut c_void, *const c_void, *const c_void, *mut c_void) -> i32,
        drop: extern "C" fn(*mut c_void),
        context: *mut c_void,
    ) -> *mut c_char;
    fn rustspeed_backward(output: *const c_void, gradient: *const c_void) -> *mut c_char;
    fn rustspeed_assign(to: *mut c_void, from: *const c_void);
    fn rustspeed_resize_storage(tensor: *const c_void, bytes: u64) -> *mut c_char;
    fn rustspeed_storage_bytes(tensor: *const c_void) -> u64;
}

/// Calls `act` in every backward once the gradient of `output`, which has one, is known and before
/// anything that made `output` runs. It lives as long as the graph, which stays on this thread.
pub(crate) fn before_backward(
    output: &Tensor,
    act: impl Fn() -> Result<(), Stop> + 'static,
) -> Result<(), Error> {
    let act: Box<Before> = Box::new(Box::new(act));
    // SAFETY: `output` is a live tensor; the shim owns the context from here on and gives it back
    // to `drop_before` once, with the graph or on an error. The autograd engine runs the backward
    // of CPU tensors on the thread that asked for it, and graphs are dropped where tensors are.
    let message = unsafe {
        rustspeed_before_backward(
            output.as_ptr().cast(),
            on_before,
            drop_context::<Before>,
            Box::into_raw(act).cast(),
        )
    };
    check("hook a unit's output", message)
}

/// Puts `output`, which was made of `input` and has no graph, into the graph: backward calls
/// `recompute` with the input (which has no graph of its own and requires a gradient where one is
/// wanted) and the gradient of the output. It returns the gradient of the input, where it is
/// wanted, and leaves those of parameters with their leaves.
pub(crate) fn recompute_in_backward(
    input: &Tensor,
    mut output: Tensor,
    recompute: impl Fn(&Tensor, &Tensor) -> Result<Option<Tensor>, Stop> + 'static,
) -> Result<Tensor, Error> {
    let recompute: Box<Recompute> = Box::new(Box::new(recompute));
    // SAFETY: as in `before_backward`; `output` is ours, the shim replaces what it points to.
    let message = unsafe {
        rustspeed_recompute_in_backward(
            input.as_ptr().cast(),
            output.as_mut_ptr().cast(),
            on_recompute,
            drop_context::<Recompute>,
            Box::into_raw(recompute).cast(),
        )
    };
    check("put a recomputed unit into the graph", message)?;
    Ok(output)
}

/// Backward from a tensor with this gradient; inside another backward, too.
pub(crate) fn backward(output: &Tensor, gradient: &Tensor) -> Result<(), Error> {
    // SAFETY: both are live tensors. What it calls back holds no borrow of ours.
    let message = unsafe { rustspeed_backward(output.as_ptr().cast(), gradient.as_ptr().cast()) };
    check("run a unit's backward", message)
}

/// Gives the memory under a tensor (and under all that share it) another size. With zero bytes it
/// goes back to the allocator; with more, the new bytes are whatever was there. Autograd does not
/// count it as a change.
///
/// # Safety
/// No slice of the memory lives across this call. While there are fewer bytes than the tensor has
/// elements for, no operation reads or writes it: most of libtorch refuses, oneDNN crashes.
pub(crate) unsafe fn resize_storage(tensor: &Tensor, bytes: usize) -> Result<(), Error> {
    // SAFETY: a live CPU tensor of this thread; the rest is the caller's to keep.
    let message = unsafe { rustspeed_resize_storage(tensor.as_ptr().cast(), bytes as u64) };
    check("resize a parameter's storage", message)
}

/// Bytes of memory under a tensor.
pub(crate) fn storage_bytes(tensor: &Tensor) -> usize {
    // SAFETY: a live tensor.
    unsafe { rustspeed_storage_bytes(tensor.as_ptr().cast()) as usize }
}

// In the functions below `context` is what the functions above boxed, alive until `drop_context`.
// A panic aborts the process: `extern "C"` lets none unwind into C++.

extern "C" fn drop_context<T>(context: *mut c_void) {
    // SAFETY: it came from `Box::into_raw` of a `Box<T>`, and this is called once.
    drop(unsafe { Box::from_raw(context.cast::<T>()) });
}

extern "C" fn on_before(context: *mut c_void) -> i32 {
    // SAFETY: a live `Before`.
    let act = unsafe { &*context.cast::<Before>() };
    i32::from(act().is_err())
}

extern "C" fn on_recompute(
    context: *mut c_void,
    input: *const c_void,
    gradient: *const c_void,
    input_gradient: *mut c_void,
) -> i32 {
    // SAFETY: a live `Recompute`, and tensors that the shim holds during this call; the clones
    // share their memory and count on their own.
    let (recompute, input, gradient) = unsafe {
        (
            &*context.cast::<Recompute>(),
            Tensor::clone_from_ptr(input.cast_mut().cast()),
            Tensor::clone_from_ptr(gradient.cast_mut().cast()),
        )
    };
    match recompute(&input, &gradient) {
        Ok(None) => 0,
        Ok(Some(found)) => {
            // SAFETY: `input_gradient` is the shim's own tensor, `found` is alive.
            unsafe { rustspeed_assign(input_gradient, found.as_ptr().cast()) };
            0
        }
        Err(Stop) => 1,
    }
}

#[cfg(test)]
mod tests;
