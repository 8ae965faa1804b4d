//! Whether this coordinator is in charge: a probe goes through the control loop every second, as
//! any request does, and its way tells how far behind the loop is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use proto::v1::coordinator_server::CoordinatorServer;
use proto::v1::worker_link_server::WorkerLinkServer;

use crate::core::{Handle, Input};
use crate::metrics::Metrics;
use crate::rpc::Front;

/// Between probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// A loop that has not turned over for so long decides too late: below the shortest lease that
/// operators use, above a slow disk's hiccup.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// What probes found; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Vitals(Arc<Mutex<State>>);

/// Guarded for an assignment or a look, never over an await.
#[derive(Debug)]
struct State {
    turned_over: Instant,
    /// The store has been writing since then.
    writing: Option<Instant>,
    is_stopping: bool,
}

/// Why the coordinator is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unready {
    #[error("the coordinator is stopping")]
    Stopping,
    #[error("the control loop turned over {:.1} s ago, later than {} s; the store has been writing for {:.1} s", .since.as_secs_f64(), READY_WITHIN.as_secs(), .writing.as_secs_f64())]
    StoreIsSlow { since: Duration, writing: Duration },
    #[error("the control loop turned over {:.1} s ago, later than {} s", .since.as_secs_f64(), READY_WITHIN.as_secs())]
    LoopIsSlow { since: Duration },
}

impl Vitals {
    pub(crate) fn new(turned_over: Instant) -> Self {
        Self(Arc::new(Mutex::new(State { turned_over, writing: None, is_stopping: false })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turned_over(&self, now: Instant) {
        self.lock().turned_over = now;
    }

    /// Since when the store has been writing; None: it is done.
    pub(crate) fn writing(&self, since: Option<Instant>) {
        self.lock().writing = since;
    }

    pub(crate) fn stopping(&self) {
        self.lock().is_stopping = true;
    }

    pub(crate) fn check(&self, now: Instant) -> Result<(), Unready> {
        let state = self.lock();
        let since = now.saturating_duration_since(state.turned_over);
        match state.writing {
            _ if state.is_stopping => Err(Unready::Stopping),
            _ if since <= READY_WITHIN => Ok(()),
            Some(began) => {
                Err(Unready::StoreIsSlow { since, writing: now.saturating_duration_since(began) })
            }
            None => Err(Unready::LoopIsSlow { since }),
        }
    }
}

/// Probes until `stop`, and tells the health service.
pub(crate) async fn watch(
    core: Handle,
    vitals: Vitals,
    metrics: Metrics,
    health: HealthReporter,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = timeout(READY_WITHIN, core.ask(|reply| Input::Probe { reply })) => answer,
            () = stop.cancelled() => break,
        };
        metrics.lag(asked.elapsed());
        if matches!(answer, Ok(Ok(()))) {
            vitals.turned_over(Instant::now());
        }
        let ready = vitals.check(Instant::now());
        if told.as_ref() != Some(&ready.is_ok()) {
            match &ready {
                Ok(()) => info!("ready"),
                Err(why) => warn!(%why, "not ready"),
            }
            told = Some(ready.is_ok());
            tell(&health, ready.is_ok()).await;
        }
        tokio::select! {
            () = tokio::time::sleep_until(asked + PROBE_EVERY) => {}
            () = stop.cancelled() => break,
        }
    }
    vitals.stopping();
    tell(&health, false).await;
}

/// The empty name is the server as a whole.
async fn tell(health: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    let (clients, workers) = (<CoordinatorServer<Front>>::NAME, <WorkerLinkServer<Front>>::NAME);
    for service in ["", clients, workers] {
        health.set_service_status(service, status).await;
    }
}
