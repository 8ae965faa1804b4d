//! Waiting for a state, never for a time.

use std::io::Write as _;
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

/// Says that a test proves nothing here: past the test runner, which hides what a passing test prints.
/// With `RUSTSPEED_NO_SKIPS=1` that is a failure.
pub fn skipped(why: &str) {
    let is_allowed = std::env::var_os("RUSTSPEED_NO_SKIPS").is_none_or(|value| value != "1");
    assert!(is_allowed, "RUSTSPEED_NO_SKIPS=1, and this must be skipped: {why}");
    // Where nobody reads it, nobody misses it.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

/// Writes a failing test's evidence where the test runner shows it.
#[expect(clippy::print_stderr, reason = "a failing test's evidence")]
pub fn report(text: &str) {
    eprintln!("{text}");
}
