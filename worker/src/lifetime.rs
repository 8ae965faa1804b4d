//! A node that is lent for a time: an allocation of SLURM, a reserved machine. Its trainers save and
//! leave in time.

use std::time::{Duration, SystemTime};

/// Between the end of the grace and the node's: to tell the coordinator, and to be late.
const MARGIN: Duration = Duration::from_secs(5);

/// Where the whole time is short, grace and margin are no more than this part of it each.
const PART: u32 = 10;

/// The clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Said when it resolves.
pub(crate) const REASON: &str = "its node's time is nearly over";

/// Resolves when what is left is the grace and a margin. Never, where no end is known. Cancel-safe.
pub(crate) async fn nearly_over(ends_at: Option<SystemTime>, grace: Duration) {
    let Some(ends_at) = ends_at else { return std::future::pending().await };
    let left = || ends_at.duration_since(SystemTime::now()).unwrap_or_default();
    let most = left() / PART;
    let needed = grace.min(most) + MARGIN.min(most);
    loop {
        let Some(wait) = left().checked_sub(needed) else { return };
        tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
    }
}
