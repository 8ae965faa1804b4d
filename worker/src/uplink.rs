//! The two connections to the coordinator: control, and bulk (metrics and log lines), apart so that
//! a flood of lines delays no heartbeat. Each comes back forever, with growing waits, and says so
//! once per change of state. Decides nothing: the node answers.

mod bulk;
mod control;

pub(crate) use bulk::run as run_bulk;
pub(crate) use control::run as run_control;

use std::net::IpAddr;
use std::time::Duration;

use proto::v1::{CoordinatorMessage, WorkerMessage};
use service::backoff::Backoff;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Messages that wait for the network, beside those that are told again after a welcome; a
/// connection that lets more pile up is given up, and the next one begins with the full truth.
pub(crate) const OUTBOX: usize = 1024;

/// What the node learns from the control connection. `link` counts connections, so that news of
/// an old one can be told from news of the present one.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The coordinator can be reached: begin with a hello. Dropping `outbox` ends the link.
    /// `local` is this machine's address towards it.
    Up {
        link: u64,
        outbox: mpsc::Sender<WorkerMessage>,
        local: IpAddr,
    },
    Said {
        link: u64,
        message: CoordinatorMessage,
    },
    Down {
        link: u64,
    },
}

/// Waits between tries: quick at first, as a coordinator's restart takes a second, and never so
/// long that a restarted coordinator could take this worker for lost (its lease is 5 s).
fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(1))
}

/// Says a connection's changes of state, once each.
struct Narrator {
    what: &'static str,
    master: String,
    state: Option<bool>,
}

impl Narrator {
    fn new(what: &'static str, master: &str) -> Self {
        Self { what, master: master.to_owned(), state: None }
    }

    fn up(&mut self) {
        if self.state.replace(true) != Some(true) {
            info!(master = self.master, "{} connection stands", self.what);
        }
    }

    fn down(&mut self, why: &str) {
        if self.state.replace(false) != Some(false) {
            warn!(master = self.master, why, "no {} connection; trying again", self.what);
        }
    }
}
