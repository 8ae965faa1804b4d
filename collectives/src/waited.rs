//! The time that the calling thread has spent inside collectives, its own or those of a
//! communication thread that it waited for: of ranks that go in step, the slow one waits least.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Of this thread, since it began.
#[must_use]
pub fn waited() -> Duration {
    WAITED.get()
}

pub(crate) fn add(time: Duration) {
    WAITED.set(WAITED.get() + time);
}
