//! The private cluster of `rsctl run`: a real coordinator and real workers on loopback, with
//! folders of their own in a temporary one, or workers on other hosts over ssh. They stop when their
//! standard input ends, so even a kill -9 of rsctl leaves nothing running.

pub(crate) mod daemon;
mod folder;
pub(crate) mod here;
pub(crate) mod need;
pub(crate) mod plan;
mod remote;
pub(crate) mod secret;
pub(crate) mod site;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use common::exit::ExitCode;
use common::spec::JobSpec;
use service::exit::Failure;

use crate::cluster::daemon::{Daemon, Launch, Stdout};
use crate::cluster::folder::Folder;
use crate::cluster::need::Need;
use crate::cluster::plan::{Plan, Slots};
use crate::coordinator::Coordinator;
use crate::render;

/// The coordinator opens an empty store and binds a port: milliseconds. A loaded machine is slow.
const LISTENING_WITHIN: Duration = Duration::from_secs(15);
/// Workers look at the machine's devices and say hello.
const READY_WITHIN: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(10);
/// A worker's end is no hurry: its trainers end with it.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// Daemons drain within this after SIGTERM; then they are killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// From the end of a remote worker's standard input to that of its ssh.
const HANG_UP_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no private cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("find the folder of rsctl itself")]
    OwnPath(#[source] std::io::Error),
    #[error("`{name}` is not beside rsctl: {} does not exist", .path.display())]
    NoBinary { name: &'static str, path: PathBuf },
    #[error("make a temporary folder")]
    Folder(#[source] std::io::Error),
    #[error("start {name}")]
    Start {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{name} ended with {status}{log}")]
    Ended { name: String, status: std::process::ExitStatus, log: String },
    #[error("{name} was not ready within {} s{log}", .after.as_secs())]
    NotReady { name: String, after: Duration, log: String },
    #[error("the first line of {name} is `{line}`, not its address{log}")]
    FirstLine { name: String, line: String, log: String },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::NoBinary { .. } => Some(
                "coordinator, worker, trainer and rsctl belong in one folder; `make build` builds all four",
            ),
            _ => None,
        };
        Self { code: ExitCode::Failed, hint: hint.map(str::to_owned), error: error.into() }
    }
}

/// What a private cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Jobs that train.
    Jobs,
    /// Programs of the user's own.
    Commands,
}

impl Runs {
    pub(crate) fn of(spec: &JobSpec) -> Self {
        if spec.brings_code() { Self::Commands } else { Self::Jobs }
    }

    /// What allows it, to coordinators and to workers.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Jobs => &[],
            Self::Commands => &["--allow-commands"],
        }
    }

    /// Makes what whoever submits must know; empty: nothing.
    pub(crate) fn secret(self, data_dir: &Path) -> std::io::Result<String> {
        match self {
            Self::Jobs => Ok(String::new()),
            Self::Commands => secret::renew(data_dir),
        }
    }
}

/// Running daemons; dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Workers before the coordinator before the folder: the order in which they are dropped.
    workers: Vec<Daemon>,
    coordinator: Daemon,
    address: String,
    folder: Folder,
    /// Where hosts were told to find the coordinator; None: all of it is on this machine.
    told: Option<String>,
    /// What its coordinator wants to hear from who has programs run; empty: it runs none.
    secret: String,
    /// Where results go that nobody keeps.
    scratch: PathBuf,
    /// Slots of each worker that the job may use, where fewer are meant than it offers.
    meant: BTreeMap<String, u32>,
    /// The same of those that are there.
    slots: BTreeMap<String, u32>,
}

impl Cluster {
    /// Starts the daemons; the coordinator listens when this returns.
    pub(crate) async fn start(plan: &Plan, runs: Runs) -> Result<Self, Error> {
        let [coordinator, worker] = [binary("coordinator")?, binary("worker")?];
        if runs == Runs::Jobs {
            // Checked here too: workers would only find out after the submit.
            binary("trainer")?;
        }
        let folder = Folder::create(&std::env::temp_dir())?;
        let (coordinator, address, secret) =
            serve(&coordinator, "127.0.0.1", runs, &folder).await?;
        let mut cluster = Self {
            workers: Vec::new(),
            coordinator,
            address,
            scratch: folder.path().join("runs"),
            folder,
            told: None,
            secret,
            meant: BTreeMap::new(),
            slots: BTreeMap::new(),
        };
        let slots = match plan.slots {
            Slots::Auto => "auto".to_owned(),
            Slots::Exactly(slots) => slots.to_string(),
        };
        for index in 0..plan.workers {
            let name = here::worker_name(index);
            let folder = cluster.folder.path();
            let state = folder.join(&name).display().to_string();
            let mut arguments = vec![
                "join",
                "--master",
                &cluster.address,
                "--name",
                &name,
                "--slots",
                &slots,
                "--advertise",
                "127.0.0.1",
                "--state-dir",
                &state,
                "--exit-with-stdin",
            ];
            arguments.extend(runs.flags());
            if plan.is_cuda {
                arguments.extend(["--device", "cuda"]);
            }
            let log = folder.join(format!("{name}.log"));
            cluster.workers.push(Daemon::start(&Launch {
                name: &name,
                program: &worker,
                arguments: &arguments,
                log: &log,
                stdout: Stdout::Logged,
                without: &[],
            })?);
        }
        Ok(cluster)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn command_secret(&self) -> String {
        self.secret.clone()
    }

    /// A folder for results that nobody keeps: it goes with the cluster.
    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Waits until every worker is ready; gives the sum of their slots.
    pub(crate) async fn ready(&mut self, coordinator: &mut Coordinator) -> Result<u32, Failure> {
        let began = Instant::now();
        loop {
            for daemon in self.workers.iter_mut().chain([&mut self.coordinator]) {
                daemon.check_running()?;
            }
            let rows = coordinator.workers().await?;
            let ready: Vec<_> = rows.iter().filter(|row| row.state == "ready").collect();
            if ready.len() == self.workers.len() {
                let usable = ready.iter().map(|row| {
                    let meant = self.meant.get(&row.name).copied();
                    (row.name.clone(), meant.unwrap_or(row.slots))
                });
                self.slots = usable.collect();
                return Ok(ready.iter().map(|row| row.slots).sum());
            }
            if began.elapsed() > READY_WITHIN {
                let missing = self
                    .workers
                    .iter()
                    .find(|worker| ready.iter().all(|row| row.name != worker.name()));
                let daemon = missing.unwrap_or(&self.coordinator);
                let failure = Failure::from(daemon.not_ready(READY_WITHIN));
                return Err(match &self.told {
                    None => failure,
                    Some(told) => failure.hint(format!(
                        "can it reach this machine at {told}? --advertise gives another name or \
                         address for the hosts"
                    )),
                });
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Resolves when the job would wait for ever: for a coordinator that has ended, or for workers where
    /// those that are left are too few. Cancel-safe.
    pub(crate) async fn broken(&mut self, need: Need) -> Error {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            if let Err(error) = self.coordinator.check_running() {
                return error;
            }
            let ended = self.newly_ended();
            let goes_on = need.is_met(self.slots.values().copied());
            for error in ended {
                if !goes_on {
                    return error;
                }
                render::warning(format_args!("{error}\nthe job goes on without it"));
            }
        }
    }

    /// Workers that have ended since this was asked.
    fn newly_ended(&mut self) -> Vec<Error> {
        let Self { workers, slots, .. } = self;
        let mut ended = Vec::new();
        for worker in workers {
            if !slots.contains_key(worker.name()) {
                continue;
            }
            if let Err(error) = worker.check_running() {
                slots.remove(worker.name());
                ended.push(error);
            }
        }
        ended
    }

    /// What the daemons said last, for a failure that they may explain.
    pub(crate) fn last_words(&self) -> String {
        let daemons = std::iter::once(&self.coordinator).chain(&self.workers);
        daemons.map(Daemon::last_words).collect()
    }

    /// What the workers still had to tell has reached the coordinator when this returns.
    pub(crate) async fn stop_workers(&mut self) {
        let is_remote = self.told.is_some();
        let stops = self.workers.iter_mut().map(|worker| async move {
            // A signal to ssh would leave the worker's end to itself.
            if is_remote {
                worker.hang_up();
                worker.ended_within(HANG_UP_WITHIN).await;
            }
            worker.stop(STOP_WITHIN).await;
        });
        futures::future::join_all(stops).await;
    }

    /// Stops workers, then the coordinator, then removes the folder.
    pub(crate) async fn stop(mut self) {
        self.stop_workers().await;
        self.coordinator.stop(STOP_WITHIN).await;
    }
}

/// A coordinator with a free port at `listen`, the address that it says, and what who has programs run
/// must know.
async fn serve(
    program: &Path,
    listen: &str,
    runs: Runs,
    folder: &Folder,
) -> Result<(Daemon, String, String), Error> {
    let listen = format!("{listen}:0");
    let data_dir = folder.path().join("coordinator");
    let secret = runs.secret(&data_dir).map_err(Error::Folder)?;
    let data_dir = data_dir.display().to_string();
    let arguments = ["serve", "--listen", &listen, "--data-dir", &data_dir, "--exit-with-stdin"];
    let arguments: Vec<&str> = arguments.iter().chain(runs.flags()).copied().collect();
    let mut coordinator = Daemon::start(&Launch {
        name: "coordinator",
        program,
        arguments: &arguments,
        log: &folder.path().join("coordinator.log"),
        stdout: Stdout::Read,
        without: &[],
    })?;
    let address = coordinator.address(LISTENING_WITHIN).await?;
    Ok((coordinator, address, secret))
}

/// One of our binaries, beside this one.
pub(crate) fn binary(name: &'static str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::OwnPath)?;
    let path = own.with_file_name(name);
    if path.is_file() { Ok(path) } else { Err(Error::NoBinary { name, path }) }
}
