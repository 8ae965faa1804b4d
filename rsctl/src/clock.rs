//! Wall time, for ages in tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::status::UnixMillis;

pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `42s`, `3m12s`, `5h07m`, `12d04h`: two units are enough to see.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// How long ago `then` was; 0 where clocks disagree.
pub(crate) fn age(now: UnixMillis, then: UnixMillis) -> String {
    short(Duration::from_millis(now.saturating_sub(then)))
}
