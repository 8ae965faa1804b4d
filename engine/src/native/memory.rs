//! The bytes that libtorch allocates for this thread: the most at one time of a stretch of work.
//!
//! Promise: sees every tensor, also those inside libtorch's operations, and nothing of other threads.
//! Refusal: what oneDNN and our own code take from the system's allocator is not libtorch's.

use std::ffi::c_char;
use std::marker::PhantomData;

use super::{Error, check};

unsafe extern "C" {
    fn rustspeed_start_counting() -> *mut c_char;
    fn rustspeed_stop_counting() -> u64;
    fn rustspeed_pause_counting(is_paused: u8) -> u8;
}

/// Counts while it lives. It stays on its thread.
#[derive(Debug)]
pub(crate) struct Counting(PhantomData<*const ()>);

impl Counting {
    /// One at a time.
    pub(crate) fn start() -> Result<Self, Error> {
        // SAFETY: takes nothing; its message is checked.
        check("count allocations", unsafe { rustspeed_start_counting() })?;
        Ok(Self(PhantomData))
    }

    /// The most bytes that were live at one time since the start.
    pub(crate) fn peak(self) -> u64 {
        std::mem::forget(self);
        // SAFETY: takes nothing; `start` has begun on this thread.
        unsafe { rustspeed_stop_counting() }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // SAFETY: as in `peak`, which does not come here.
        unsafe { rustspeed_stop_counting() };
    }
}

/// Runs `body`, of whose allocations and frees nothing is counted.
pub(crate) fn uncounted<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: sets a flag of this thread's counter, if there is one. A panic of `body` ends the run.
    let before = unsafe { rustspeed_pause_counting(1) };
    let result = body();
    // SAFETY: as above.
    unsafe { rustspeed_pause_counting(before) };
    result
}
