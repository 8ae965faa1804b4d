//! Builds the coordinator from its settings and runs it until it is asked to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tracing::{error, info, warn};

use common::exit::ExitCode;
use service::lock::FolderLock;
use service::shutdown::{Reason, Shutdown};
use service::tasks;

use crate::archive::Archive;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::codec;
use crate::core::{self, Core, Parts};
use crate::expected;
use crate::metrics::Metrics;
use crate::permit::Permit;
use crate::rpc::{Front, Info};
use crate::settings::Settings;
use crate::slurm::{Agent, Site};
use crate::store::{self, EventLog, Recovery, Writer};
use crate::vitals::Vitals;

/// Why the coordinator could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Hostfile(#[from] expected::Error),
    #[error(transparent)]
    Lock(#[from] service::lock::Error),
    #[error(transparent)]
    Transport(#[from] service::transport::Error),
    #[error("open the store in data folder `{}`", .folder.display())]
    Store {
        folder: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        hint: Option<String>,
    },
    #[error("prepare data folder `{}`", .folder.display())]
    Files {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{why}")]
    Stopped { why: String, hint: Option<&'static str> },
    #[error("bug: the control loop panicked")]
    Panicked {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl From<Error> for service::exit::Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Hostfile(error) => Self::new(ExitCode::BadConfiguration, error),
            Error::Lock(error) => error.into(),
            Error::Transport(error) => {
                let hint = error.hint();
                Self { code: ExitCode::Failed, error: error.into(), hint }
            }
            Error::Store { ref hint, .. } => {
                let hint = hint.clone();
                Self { code: ExitCode::Failed, error: error.into(), hint }
            }
            Error::Panicked { .. } => Self::new(ExitCode::Bug, error),
            Error::Stopped { hint, .. } => {
                let hint = hint.map(str::to_owned);
                Self { code: ExitCode::Failed, error: error.into(), hint }
            }
            Error::Files { .. } => Self::new(ExitCode::Failed, error),
        }
    }
}

/// A coordinator that listens and has taken over from its last life, and serves nobody yet.
pub struct Coordinator {
    address: SocketAddr,
    listener: TcpListener,
    core: Core,
    front: Front,
    slurm: Agent,
    /// Held until the end.
    _lock: FolderLock,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Locks the data folder, listens, opens the store and replays it.
    pub async fn build(settings: &Settings) -> Result<Self, Error> {
        Self::build_on(settings, |log| log).await
    }

    /// The same, with the store's log behind another one.
    pub(crate) async fn build_on(
        settings: &Settings,
        disk: impl FnOnce(Box<dyn EventLog>) -> Box<dyn EventLog>,
    ) -> Result<Self, Error> {
        let expected = settings.expected()?;
        let folder = settings.data_dir.clone();
        let lock = FolderLock::acquire(&folder, "data folder", "--data-dir")?;
        let listener = service::transport::bind(&settings.listen).await?;
        let files = |source| Error::Files { folder: folder.clone(), source };
        let address = listener.local_addr().map_err(files)?;
        let (ledger, replayed, store) = open_store(folder.clone(), disk).await?;
        let archive = Archive::start(&folder).map_err(files)?;
        let blobs = Blobs::open(&folder).map_err(files)?;
        let config = control::coordinator::Config { expected, ..settings.control_config() };
        let (metrics, vitals) = (Metrics::new(), Vitals::new(Instant::now()));
        let parts = Parts {
            config,
            ledger,
            replayed,
            store,
            archive: archive.clone(),
            blobs: blobs.clone(),
            clock: Clock::start(),
            metrics: metrics.clone(),
            vitals: vitals.clone(),
        };
        let (mut core, handle) = Core::new(parts);
        let incarnation = core.start().await.map_err(|error| stopped(&error))?;
        let site = Site::of(settings, address);
        let slurm = Agent::new(site.clone(), core.allocations(), handle.clone());
        let permit = Permit::read(&folder).map_err(files)?;
        let info = Info { incarnation, address, vitals, metrics, permit, site };
        let front = Front::new(handle, archive, blobs, info);
        Ok(Self { address, listener, core, front, slurm, _lock: lock })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then streams are closed, the store is closed cleanly, and workers
    /// go on training and come back later (A11).
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self { address, listener, core, front, slurm, _lock } = self;
        info!(%address, "serving");
        let failing = shutdown.clone();
        let stop = shutdown.clone();
        let deciding =
            tasks::spawn(tasks::Kind::Critical(shutdown.clone()), "control-loop", async move {
                let result = core.run(async move { stop.requested().await }).await;
                if let Err(error) = &result {
                    core::log_failure(error);
                    failing.fail(service::exit::chain(error));
                }
                result
            });
        let stop = shutdown.clone();
        let streams = front.stop_token();
        tasks::spawn(tasks::Kind::Critical(shutdown.clone()), "slurm", slurm.run(streams.clone()));
        let stopping = async move {
            stop.requested().await;
            streams.cancel();
        };
        let served = service::transport::serve(listener, front.router(), stopping).await;
        // The front ended by itself: nobody can reach us, so the loop ends too.
        shutdown.request("the listener has ended");
        match deciding.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(stopped(&error)),
            Err(source) => return Err(Error::Panicked { source }),
        }
        served?;
        match shutdown.reason() {
            Some(Reason::Failed(why)) => Err(Error::Stopped { why, hint: None }),
            Some(Reason::Requested(why)) => {
                info!(why, "stopped");
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn stopped(error: &store::Error) -> Error {
    Error::Stopped { why: service::exit::chain(error), hint: error.hint() }
}

/// Opens and replays; blocking work, so on a thread of its own.
async fn open_store(
    data_dir: PathBuf,
    disk: impl FnOnce(Box<dyn EventLog>) -> Box<dyn EventLog>,
) -> Result<(control::coordinator::Ledger, usize, Writer), Error> {
    let began = Instant::now();
    let folder = data_dir.clone();
    let failed = move |source: Box<dyn std::error::Error + Send + Sync>, hint: Option<&str>| {
        Error::Store { folder: folder.clone(), source, hint: hint.map(str::to_owned) }
    };
    let opened = tokio::task::spawn_blocking(move || store::open(&data_dir.join("store")))
        .await
        .map_err(|error| failed(error.into(), None))?;
    let opened = opened.map_err(|error| {
        let hint = error.hint();
        failed(error.into(), hint)
    })?;
    if let Some(recovery) = &opened.recovery {
        tell_recovery(recovery);
    }
    let (opened_in, began) = (began.elapsed(), Instant::now());
    let ledger = codec::replay(opened.snapshot.as_deref(), &opened.events)
        .map_err(|error| failed(error.into(), Some("was it written by a newer version?")))?;
    let (jobs, replayed, replayed_in) = (ledger.jobs.len(), opened.events.len(), began.elapsed());
    info!(jobs, events = replayed, ?opened_in, ?replayed_in, "store replayed");
    let writer = Writer::start(disk(opened.log)).map_err(|error| failed(error.into(), None))?;
    Ok((ledger, replayed, writer))
}

fn tell_recovery(recovery: &Recovery) {
    let Recovery { problem, moved_to, last, acknowledged } = recovery;
    error!(
        problem,
        moved_to = %moved_to.display(),
        "THE STORE WAS DAMAGED: it was moved aside and the best that was left of it is in use"
    );
    match acknowledged {
        Some(acknowledged) if acknowledged > last => error!(
            last,
            acknowledged,
            "acknowledged events are gone: jobs submitted or ended in them must be checked"
        ),
        Some(_) => warn!(last, "nothing that is known to have been acknowledged is gone"),
        None => warn!(last, "it is not known how far acknowledgements reached"),
    }
}
