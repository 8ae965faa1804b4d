//! Remembers the first panic of any thread, so that its message and place can be reported. The
//! usual text still goes to stderr, for the log and for a worker that hears nothing else.

use std::panic;
use std::sync::Mutex;

use proto::v1::trainer_end::Panicked;
use service::telemetry::panic_message;

/// The first panic; held for an assignment.
static FIRST: Mutex<Option<Panicked>> = Mutex::new(None);

/// Installs the hook. Once, at the start.
pub(crate) fn record() {
    // Back to the standard hook, whose text the worker can read from stderr.
    drop(panic::take_hook());
    let standard = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let message = panic_message(info.payload()).to_owned();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if let Ok(mut first) = FIRST.lock() {
            first.get_or_insert(Panicked { message, place });
        }
        standard(info);
    }));
}

/// The first panic, if there was one.
pub(crate) fn first() -> Option<Panicked> {
    FIRST.lock().ok()?.clone()
}
