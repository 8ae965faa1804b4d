//! The private cluster of `rsctl run`: a real coordinator and real workers on loopback, with
//! folders of their own in a temporary one, or workers on other hosts over ssh. They stop when their
//! standard input ends, so even a kill -9 of rsctl leaves nothing running.

pub(crate) mod daemon;
mod folder;
pub(crate) mod here;
pub(crate) mod plan;
mod remote;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use common::exit::ExitCode;
use service::exit::Failure;

use crate::cluster::daemon::{Daemon, Launch, Stdout};
use crate::cluster::folder::Folder;
use crate::cluster::plan::{Plan, Slots};
use crate::coordinator::Coordinator;

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
}

impl Cluster {
    /// Starts the daemons; the coordinator listens when this returns.
    pub(crate) async fn start(plan: &Plan, runs: Runs) -> Result<Self, Error> {
        let [coordinator, worker] = [binary("coordinator")?, binary("worker")?];
        let permission: &[&str] = match runs {
            Runs::Commands => &["--allow-commands"],
            Runs::Jobs => {
                // Checked here too: workers would only find out after the submit.
                binary("trainer")?;
                &[]
            }
        };
        let folder = Folder::create(&std::env::temp_dir())?;
        let secret = match runs {
            Runs::Commands => keep_secret(&folder).map_err(Error::Folder)?,
            Runs::Jobs => String::new(),
        };
        let (coordinator, address) = serve(&coordinator, "127.0.0.1", permission, &folder).await?;
        let told = None;
        let mut cluster = Self { workers: Vec::new(), coordinator, address, folder, told, secret };
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
            arguments.extend(permission);
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

    /// Its temporary folder, which goes with it.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
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

    /// Resolves when a daemon has ended, whose job would wait for it for ever.
    pub(crate) async fn broken(&mut self) -> Error {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            for daemon in self.workers.iter_mut().chain([&mut self.coordinator]) {
                if let Err(error) = daemon.check_running() {
                    return error;
                }
            }
        }
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

/// Other users of this machine reach the coordinator's port, and cannot read its folder.
fn keep_secret(folder: &Folder) -> std::io::Result<String> {
    let secret = uuid::Uuid::new_v4().to_string();
    let data_dir = folder.path().join("coordinator");
    fs_err::create_dir(&data_dir)?;
    fs_err::write(data_dir.join("command-secret"), &secret)?;
    Ok(secret)
}

/// A coordinator with a free port at `listen`, and the address that it says.
async fn serve(
    program: &Path,
    listen: &str,
    permission: &[&str],
    folder: &Folder,
) -> Result<(Daemon, String), Error> {
    let listen = format!("{listen}:0");
    let data_dir = folder.path().join("coordinator").display().to_string();
    let arguments = ["serve", "--listen", &listen, "--data-dir", &data_dir, "--exit-with-stdin"];
    let arguments: Vec<&str> = arguments.iter().chain(permission).copied().collect();
    let mut coordinator = Daemon::start(&Launch {
        name: "coordinator",
        program,
        arguments: &arguments,
        log: &folder.path().join("coordinator.log"),
        stdout: Stdout::Read,
        without: &[],
    })?;
    let address = coordinator.address(LISTENING_WITHIN).await?;
    Ok((coordinator, address))
}

/// One of our binaries, beside this one.
pub(crate) fn binary(name: &'static str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(Error::OwnPath)?;
    let path = own.with_file_name(name);
    if path.is_file() { Ok(path) } else { Err(Error::NoBinary { name, path }) }
}
