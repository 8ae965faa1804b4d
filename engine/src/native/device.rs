//! GPUs behind safe functions. Refusal: no streams and no kernels of our own; what computes is
//! libtorch's.
#![expect(unsafe_code, reason = "loads libraries and calls the C++ shim")]

use std::ffi::{c_char, c_void};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::Tensor;

use super::{Error, check};

/// Loading it registers CUDA with the libtorch that is there already. Nothing links to it: the same
/// binary runs where it is not.
const LIBRARY: &str = "libtorch_cuda.so";

unsafe extern "C" {
    fn rustspeed_enter_cuda(index: i8) -> *mut c_char;
    fn rustspeed_free_cuda_bytes(index: i8, bytes: *mut u64) -> *mut c_char;
    fn rustspeed_reallocate_storage(tensor: *const c_void, bytes: u64) -> *mut c_char;
}

/// Loads libtorch's CUDA part; what the loader says where it cannot.
pub(crate) fn load_cuda() -> Result<(), String> {
    // SAFETY: libtorch's initialisers register operators, before any tensor is made.
    let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| crate::error::chain(&error))?;
    // What it registers must stay.
    std::mem::forget(library);
    Ok(())
}

/// This thread computes on that GPU from now on.
pub(crate) fn enter_cuda(index: i8) -> Result<(), Error> {
    // SAFETY: touches this thread's state alone.
    check("choose the GPU", unsafe { rustspeed_enter_cuda(index) })
}

/// What the driver has free on that GPU.
pub(crate) fn free_bytes(index: i8) -> Result<u64, Error> {
    let mut bytes = 0;
    // SAFETY: writes a number.
    let message = unsafe { rustspeed_free_cuda_bytes(index, &raw mut bytes) };
    check("ask for the GPU's free memory", message)?;
    Ok(bytes)
}

/// As [`super::unit::resize_storage`], for the memory of any device.
///
/// # Safety
/// As there.
pub(crate) unsafe fn reallocate_storage(tensor: &Tensor, bytes: usize) -> Result<(), Error> {
    // SAFETY: a live tensor of this thread; the rest is the caller's to keep.
    let message = unsafe { rustspeed_reallocate_storage(tensor.as_ptr().cast(), bytes as u64) };
    check("reallocate a parameter's storage", message)
}
