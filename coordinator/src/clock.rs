//! The time of events: monotonic for deadlines, Unix for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use control::coordinator::Now;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { uptime: self.start.elapsed(), unix: unix_millis() }
    }

    pub(crate) fn instant(&self, uptime: Duration) -> Instant {
        self.start + uptime
    }
}

pub(crate) fn unix_millis() -> u64 {
    // A clock before 1970 is nobody's deadline; people see a zero.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
