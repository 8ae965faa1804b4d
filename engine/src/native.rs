//! The C++ shim behind safe functions: gradient hooks and libtorch's CPU capability.
//!
//! Promise: a message of libtorch comes back as [`Error`], an exception never crosses. Refusal: no
//! training logic; whoever hooks decides what to do with a gradient.
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::rc::Rc;
use std::sync::OnceLock;

use kernels::InstructionSet;
use tch::Tensor;

use crate::device::Device;
use crate::numbers::NumbersRef;
use crate::storage::Part;

pub(crate) mod device;
pub(crate) mod lane;
pub(crate) mod lstm;
pub(crate) mod memory;
pub(crate) mod unit;

/// What libtorch said.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct Error {
    operation: &'static str,
    message: String,
}

/// Receives the gradient of parameter `index`, as soon as backward has it complete.
pub(crate) trait GradientSink {
    fn gradient(&mut self, index: usize, values: Part<'_>);
}

type Sink = Rc<RefCell<dyn GradientSink>>;
type Callback = extern "C" fn(*mut c_void, u64, u8, *const c_void, u64);

/// The shim's codes of elements.
const FLOAT: u8 = 0;
const BFLOAT16: u8 = 1;
const HALF: u8 = 2;
/// Not the elements but their tensor.
const TENSOR: u8 = 3;

unsafe extern "C" {
    fn rustspeed_hook_gradient(
        leaf: *mut c_void,
        callback: Callback,
        context: *mut c_void,
        index: u64,
        stays: u8,
    ) -> *mut c_char;
    fn rustspeed_unhook_gradient(leaf: *mut c_void) -> *mut c_char;
    fn rustspeed_cpu_capability(message: *mut *mut c_char) -> *mut c_char;
    fn rustspeed_libtorch_version() -> *const c_char;
    fn rustspeed_free_message(message: *mut c_char);
}

/// Hooks on a model's parameters; they come off when this is dropped.
pub(crate) struct GradientHooks {
    leaves: Vec<(usize, Tensor)>,
    // The hooks hold its address.
    sink: Box<Sink>,
}

impl GradientHooks {
    /// From now on a backward through `leaves` (leaves that require a gradient) hands each
    /// gradient to `sink` with the index that the leaf has here, and leaves no gradient behind. Where
    /// the state is resident on `device` the gradient stays there, else it comes to the host.
    pub(crate) fn install(
        leaves: Vec<(usize, Tensor)>,
        device: Device,
        sink: Sink,
    ) -> Result<Self, Error> {
        let mut hooks = Self { leaves, sink: Box::new(sink) };
        let context: *const Sink = &*hooks.sink;
        for (index, leaf) in &mut hooks.leaves {
            // SAFETY: the leaf is a live tensor. The context is boxed, so it stays where it is, and
            // `drop` takes the hooks off before it goes. The autograd engine runs the backward of
            // CPU tensors on the thread that asked for it, which is this one, and after
            // `device::enter_cuda` that of a GPU's too: `Sink` is not `Send`, and neither are we.
            let message = unsafe {
                rustspeed_hook_gradient(
                    leaf.as_mut_ptr().cast(),
                    on_gradient,
                    context.cast_mut().cast(),
                    *index as u64,
                    u8::from(device.is_resident()),
                )
            };
            check("hook a parameter's gradient", message)?;
        }
        Ok(hooks)
    }
}

impl Drop for GradientHooks {
    fn drop(&mut self) {
        for (_, leaf) in &mut self.leaves {
            // SAFETY: the leaf is a live tensor.
            let message = unsafe { rustspeed_unhook_gradient(leaf.as_mut_ptr().cast()) };
            // Setting a pointer to null has no way to fail but a bug of ours.
            check("unhook a parameter's gradient", message).expect("hooks come off live leaves");
        }
    }
}

impl std::fmt::Debug for GradientHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GradientHooks").field("leaves", &self.leaves.len()).finish()
    }
}

extern "C" fn on_gradient(
    context: *mut c_void,
    index: u64,
    element: u8,
    values: *const c_void,
    count: u64,
) {
    // SAFETY: `context` is the sink that `install` boxed (see there); `values` are `count` elements
    // of a tensor that the shim holds during this call, of the type that it says, or that tensor; a
    // clone shares its memory and counts on its own. A panic in the sink aborts the process:
    // `extern "C"` lets none unwind into C++.
    let (sink, values) = unsafe {
        let values = match element {
            FLOAT => Part::Host(NumbersRef::Fp32(slice_of(values.cast(), count))),
            BFLOAT16 => Part::Host(NumbersRef::Bf16(slice_of(values.cast(), count))),
            HALF => Part::Host(NumbersRef::Fp16(slice_of(values.cast(), count))),
            TENSOR => {
                let tensor = Tensor::clone_from_ptr(values.cast_mut().cast());
                Part::Device(tensor.view([count as i64]))
            }
            other => unreachable!("the shim has four codes, and {other} is none of them"),
        };
        (&*context.cast::<Sink>(), values)
    };
    sink.borrow_mut().gradient(index as usize, values);
}

/// # Safety
/// As [`std::slice::from_raw_parts`], but that the pointer may be null where there are none.
unsafe fn slice_of<'a, T>(values: *const T, count: u64) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: forwarded from the caller.
    unsafe { std::slice::from_raw_parts(values, count as usize) }
}

/// The kernels that libtorch uses on this machine: `AVX512`, `AVX2`, `DEFAULT`.
pub(crate) fn cpu_capability() -> Result<String, Error> {
    let mut message = std::ptr::null_mut();
    // SAFETY: returns null with a message, or a C string that is ours to free.
    let capability = unsafe { rustspeed_cpu_capability(&raw mut message) };
    check("ask for the CPU capability", message)?;
    Ok(take(capability).unwrap_or_default())
}

/// What our kernels compute with: the best of this CPU that libtorch uses, too. So libtorch's variable
/// `ATEN_CPU_CAPABILITY=avx2` gives a node with AVX-512 our layers' bits of one without (A12).
pub(crate) fn kernel_instructions() -> InstructionSet {
    static FOUND: OnceLock<InstructionSet> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // A libtorch that cannot say it has been refused before ([`libtorch`]).
        let too_wide: &[&str] = match cpu_capability().unwrap_or_default().as_str() {
            "DEFAULT" => &["avx2", "avx512"],
            "AVX2" => &["avx512"],
            _ => &[],
        };
        let mut sets = InstructionSet::available();
        sets.retain(|set| !too_wide.contains(&set.name()));
        sets.pop().unwrap_or_else(InstructionSet::best)
    })
}

/// The libtorch that this was built with and its kernels here, such as `2.11.0, AVX512`.
pub fn libtorch() -> Result<String, Error> {
    // SAFETY: a C string that lives as long as the program.
    let version = unsafe { CStr::from_ptr(rustspeed_libtorch_version()) }.to_string_lossy();
    Ok(format!("{version}, {}", cpu_capability()?))
}

fn check(operation: &'static str, message: *mut c_char) -> Result<(), Error> {
    match take(message) {
        None => Ok(()),
        Some(message) => Err(Error { operation, message }),
    }
}

fn take(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the shim's strings come from strdup, end with a zero, and are freed once, here.
    unsafe {
        let owned = CStr::from_ptr(text).to_string_lossy().into_owned();
        rustspeed_free_message(text);
        Some(owned)
    }
}
