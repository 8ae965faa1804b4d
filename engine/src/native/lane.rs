//! What orders the work of a device: the stream that collectives run on, and marks behind them.
//!
//! Promise: a collective sees what this thread asked the device for before it; who joins its mark sees
//! what the collective has done. The host waits for neither. Refusal: memory of the host needs none of
//! it: there what was asked for is done.
//!
//! **Not yet run on a GPU.**
#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::ffi::{c_char, c_void};
use std::rc::Rc;
use std::sync::Arc;

use collectives::Queue;

use super::{Error, check};

unsafe extern "C" {
    fn rustspeed_open_lane(index: i8, is_own: u8, lane: *mut *mut c_void) -> *mut c_char;
    fn rustspeed_enter_lane(lane: *const c_void, handle: *mut *mut c_void) -> *mut c_char;
    fn rustspeed_mark_lane(lane: *const c_void, event: *mut *mut c_void) -> *mut c_char;
    fn rustspeed_await_mark(lane: *const c_void, event: *const c_void) -> *mut c_char;
    fn rustspeed_is_mark_passed(event: *const c_void, is_passed: *mut u8) -> *mut c_char;
    fn rustspeed_drop_mark(event: *mut c_void);
    fn rustspeed_close_lane(lane: *mut c_void);
}

/// Of a GPU a stream; of the host nothing.
#[derive(Debug)]
pub(crate) struct Lane(Option<Rc<Stream>>);

#[derive(Debug)]
struct Stream {
    lane: *mut c_void,
    /// Beside the one that this thread computes on.
    is_own: bool,
}

/// The end of an operation on a lane.
#[derive(Debug)]
pub(crate) struct Mark(Option<(Rc<Stream>, Arc<Event>)>);

#[derive(Debug)]
struct Event(*mut c_void);

// SAFETY: made and recorded by one thread; afterwards it is only asked whether it was passed, which
// changes nothing and which CUDA allows from any thread, and dropped once.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Lane {
    /// A lane of its own runs beside what this thread computes, else in line with it.
    pub(crate) fn open(device: tch::Device, is_own: bool) -> Result<Self, Error> {
        let tch::Device::Cuda(index) = device else { return Ok(Self(None)) };
        let mut lane = std::ptr::null_mut();
        // SAFETY: writes a pointer. Within libtorch's count: `Device::cuda` has checked.
        let message = unsafe { rustspeed_open_lane(index as i8, u8::from(is_own), &raw mut lane) };
        check("open a stream for collectives", message)?;
        Ok(Self(Some(Rc::new(Stream { lane, is_own }))))
    }

    /// Whether operations run beside what this thread computes.
    pub(crate) fn is_beside(&self) -> bool {
        self.0.as_ref().is_some_and(|stream| stream.is_own)
    }

    /// Where an operation goes that must see all that this thread has asked for.
    pub(crate) fn enter(&self) -> Result<Queue, Error> {
        let Some(stream) = &self.0 else { return Ok(Queue::HOST) };
        let mut handle = std::ptr::null_mut();
        // SAFETY: a live lane; writes a handle.
        let message = unsafe { rustspeed_enter_lane(stream.lane, &raw mut handle) };
        check("order collectives behind what is computed", message)?;
        Ok(Queue(handle))
    }

    /// Behind all that is on the lane.
    pub(crate) fn mark(&self) -> Result<Mark, Error> {
        let Some(stream) = &self.0 else { return Ok(Mark(None)) };
        let mut event = std::ptr::null_mut();
        // SAFETY: a live lane; writes a pointer.
        let message = unsafe { rustspeed_mark_lane(stream.lane, &raw mut event) };
        check("mark the end of a collective", message)?;
        Ok(Mark(Some((Rc::clone(stream), Arc::new(Event(event))))))
    }
}

impl Mark {
    /// What this thread asks for from now on runs after the mark.
    pub(crate) fn join(&self) -> Result<(), Error> {
        match &self.0 {
            Some((stream, event)) if stream.is_own => {
                // SAFETY: a live lane and a live event.
                let message = unsafe { rustspeed_await_mark(stream.lane, event.0) };
                check("order what is computed behind a collective", message)
            }
            _ => Ok(()),
        }
    }

    /// Tells whether the device has passed it, from any thread; what CUDA says where it fails.
    pub(crate) fn probe(&self) -> impl Fn() -> Result<bool, String> + Send + use<> {
        let event = self.0.as_ref().map(|(_, event)| Arc::clone(event));
        move || {
            let Some(event) = &event else { return Ok(true) };
            let mut is_passed = 0;
            // SAFETY: a live event; writes a byte.
            let message = unsafe { rustspeed_is_mark_passed(event.0, &raw mut is_passed) };
            check("ask how far the GPU is", message).map_err(|error| error.to_string())?;
            Ok(is_passed != 0)
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: from `open`, and closed once.
        unsafe { rustspeed_close_lane(self.lane) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: from `mark`, and dropped once.
        unsafe { rustspeed_drop_mark(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_one_order_and_needs_no_marks() {
        let lane = Lane::open(tch::Device::Cpu, true).unwrap();
        assert!(!lane.is_beside());
        assert_eq!(lane.enter().unwrap(), Queue::HOST);
        let mark = lane.mark().unwrap();
        mark.join().unwrap();
        assert_eq!((mark.probe())(), Ok(true));
    }

    #[test]
    fn a_libtorch_without_cuda_has_no_lane_of_a_gpu() {
        let error = Lane::open(tch::Device::Cuda(0), true).unwrap_err().to_string();
        assert!(error.contains("open a stream for collectives"), "{error}");
    }
}
