//! What `make soak` asks of system tests: the long form, a seed, and an end.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// Of the short form: a failure in CI is looked for with the same cases here.
const SHORT_SEED: u64 = 4;

/// Whether the long form is asked for.
pub fn is_on() -> bool {
    std::env::var_os("RUSTSPEED_SOAK").is_some_and(|value| value == "1")
}

/// `RUSTSPEED_SOAK_SEED`; without it another one in every long form, and the same in the short one.
pub fn seed() -> u64 {
    let since_1970 = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let default = || if is_on() { since_1970() } else { SHORT_SEED };
    setting("RUSTSPEED_SOAK_SEED", default)
}

/// How long the long form may take.
pub fn bound() -> Duration {
    Duration::from_secs(60 * setting::<u64>("RUSTSPEED_SOAK_MINUTES", || 60))
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    let Some(value) = std::env::var_os(name) else { return default() };
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| panic!("{name}={value:?}: expected a whole number"))
}
