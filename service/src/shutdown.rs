//! When and why a daemon ends: a signal, a fatal error, or its own decision. Stops nothing itself:
//! whoever holds a [`Shutdown`] waits on it and leaves within its grace.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::tasks;

/// After a second signal the process leaves within this time, whatever still hangs.
const FORCED_EXIT_AFTER: Duration = Duration::from_secs(2);

/// Why the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A signal or the daemon's own decision; the end is clean.
    Requested(String),
    /// Something that the process cannot live without has failed.
    Failed(String),
}

/// A cheap handle on the process's end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    requested: CancellationToken,
    forced: CancellationToken,
    /// Guards the first reason given; held for an assignment only.
    reason: Mutex<Option<Reason>>,
    announced: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// SIGTERM or SIGINT request the end; a second one forces it.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let on_signal = shutdown.clone();
        tasks::spawn(tasks::Kind::Finish, "signals", async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            on_signal.request(next().await);
            let second = next().await;
            on_signal.force(second);
            tokio::time::sleep(FORCED_EXIT_AFTER).await;
            std::process::exit(common::exit::ExitCode::Failed as i32);
        });
        Ok(shutdown)
    }

    /// SIGUSR1 requests the end too. What follows an announcement, a SIGTERM, shortens nothing: it
    /// counts as the first of its kind.
    pub fn on_notice(&self) -> std::io::Result<()> {
        let mut notice = signal(SignalKind::user_defined1())?;
        let on_notice = self.clone();
        tasks::spawn(tasks::Kind::Finish, "notices", async move {
            while notice.recv().await.is_some() {
                on_notice.announce("SIGUSR1");
            }
        });
        Ok(())
    }

    /// The node is about to be taken away: as [`Self::request`], with more time to leave in.
    pub fn announce(&self, why: impl Into<String>) {
        if !self.is_requested() {
            self.inner.announced.cancel();
        }
        self.request(why);
    }

    /// Whether the end was announced before it was asked for.
    pub fn is_announced(&self) -> bool {
        self.inner.announced.is_cancelled()
    }

    /// Asks for a clean end; the first reason stays.
    pub fn request(&self, why: impl Into<String>) {
        let why = why.into();
        info!(why, "stopping");
        self.settle(Reason::Requested(why));
    }

    /// Ends the process because of a failure; the first reason stays.
    pub fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        tracing::error!(why, "stopping");
        self.settle(Reason::Failed(why));
    }

    /// The end, at once: no more grace for anybody.
    pub fn force(&self, why: &str) {
        warn!(why, "stopping at once");
        self.settle(Reason::Requested(why.to_owned()));
        self.inner.forced.cancel();
    }

    fn settle(&self, reason: Reason) {
        let mut slot = self.inner.reason.lock().expect("no code panics while it holds this lock");
        slot.get_or_insert(reason);
        drop(slot);
        self.inner.requested.cancel();
    }

    /// Resolves when the end was asked for. Cancel-safe.
    pub async fn requested(&self) {
        self.inner.requested.cancelled().await;
    }

    /// Resolves when the end is to come at once. Cancel-safe.
    pub async fn forced(&self) {
        self.inner.forced.cancelled().await;
    }

    pub fn is_requested(&self) -> bool {
        self.inner.requested.is_cancelled()
    }

    pub fn is_forced(&self) -> bool {
        self.inner.forced.is_cancelled()
    }

    /// Why the process ends; None while it does not.
    pub fn reason(&self) -> Option<Reason> {
        self.inner.reason.lock().expect("no code panics while it holds this lock").clone()
    }

    /// The token behind [`Self::requested`], for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.inner.requested.clone()
    }
}
