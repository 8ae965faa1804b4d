//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

/// Polls until `found` gives a value; panics with `what` after `deadline`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + deadline;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < until, "waited {deadline:?} for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes a failing test's evidence where the test runner shows it.
#[expect(clippy::print_stderr, reason = "a failing test's evidence")]
pub fn report(text: &str) {
    eprintln!("{text}");
}
