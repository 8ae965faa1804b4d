//! The running processes of a job in an allocation: a coordinator on this node and the step with
//! the workers. Both end when rsctl does, also after a kill -9: they hold pipes from it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::anyhow;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use common::exit::ExitCode;
use service::exit::Failure;

use crate::cluster::daemon::{Daemon, Launch, Stdout};
use crate::cluster::{self, Runs, binary};
use crate::coordinator::Coordinator;
use crate::render;
use crate::slurm::allocation::Allocation;
use crate::slurm::folder::Folder;
use crate::slurm::step::{Blame, Step};

/// The coordinator opens its store, on a shared disk perhaps, and binds a port.
const LISTENING_WITHIN: Duration = Duration::from_secs(30);
/// From `srun` to the last worker's hello. Starting a step on a thousand nodes takes SLURM seconds;
/// binaries on a cold network disk as long.
const READY_WITHIN: Duration = Duration::from_secs(120);
const READY_POLL: Duration = Duration::from_millis(20);
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// The workers end at once when their standard input does; srun tells SLURM.
const STEP_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// After SIGTERM: srun ends the step by force, the coordinator drains.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What was started ended by itself.
#[derive(Debug)]
pub(crate) enum Broken {
    Step(ExitStatus),
    Coordinator(cluster::Error),
}

/// What the command line adds to the allocation.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Where the nodes reach this machine.
    pub(crate) address: Option<String>,
    pub(crate) notice_grace: Duration,
    pub(crate) is_elastic: bool,
    pub(crate) runs: Runs,
}

#[derive(Debug)]
pub(crate) struct Site {
    // The step before the coordinator: the order in which they are dropped.
    step: Daemon,
    coordinator: Daemon,
    port: u16,
    nodes: Vec<String>,
    worker: PathBuf,
    /// What the coordinator wants to hear from who has programs run; empty: it runs none.
    secret: String,
}

impl Site {
    /// Starts both; the coordinator listens when this returns.
    pub(crate) async fn start(
        allocation: &Allocation,
        folder: &Folder,
        asked: &Asked,
    ) -> Result<Self, Failure> {
        let [program, worker, trainer] =
            [binary("coordinator")?, binary("worker")?, binary("trainer")?];
        // Every user of the cluster reaches its port.
        let secret = asked.runs.secret(&folder.coordinator()).map_err(|error| {
            let error = anyhow::Error::new(error).context("keep the coordinator's secret");
            Failure::new(ExitCode::Failed, error)
        })?;
        let data_dir = folder.coordinator().display().to_string();
        let listen = ["serve", "--listen", "0.0.0.0:0", "--data-dir", &data_dir];
        let arguments = [&listen[..], &["--exit-with-stdin"], asked.runs.flags()].concat();
        let mut coordinator = Daemon::start(&Launch {
            name: "coordinator",
            program: &program,
            arguments: &arguments,
            log: &folder.path().join("coordinator.log"),
            stdout: Stdout::Read,
            without: &[],
        })?;
        let address = coordinator.address(LISTENING_WITHIN).await?;
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let port = port.ok_or_else(|| {
            Failure::new(ExitCode::Bug, anyhow!("the coordinator listens at `{address}`"))
        })?;
        let host = reachable_host(allocation, asked.address.as_deref(), port).await?;
        render::talk(format_args!("the coordinator listens at {host}:{port}"));
        let step = Step {
            nodes: allocation.nodes.len(),
            master: &format!("{host}:{port}"),
            worker: &worker,
            trainer: &trainer,
            state_dir: &folder.workers(),
            notice_grace: asked.notice_grace,
            is_elastic: asked.is_elastic,
            runs: asked.runs,
        };
        let arguments = step.arguments();
        let step = Daemon::start(&Launch {
            name: "srun",
            program: "srun".as_ref(),
            arguments: &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            log: &folder.path().join("workers.log"),
            stdout: Stdout::Logged,
            without: common::slurm::step::NOT_INHERITED,
        })
        .map_err(without_srun)?;
        let nodes = allocation.nodes.iter().map(|node| node.name.clone()).collect();
        Ok(Self { step, coordinator, port, nodes, worker, secret })
    }

    /// The coordinator, from here.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn command_secret(&self) -> String {
        self.secret.clone()
    }

    /// Waits until a worker of every node is there.
    pub(crate) async fn ready(&mut self, coordinator: &mut Coordinator) -> Result<(), Failure> {
        let began = Instant::now();
        loop {
            if let Some(broken) = self.look()? {
                return Err(self.failure(broken));
            }
            let rows = coordinator.workers().await?;
            let is_up = |state: &str| ["ready", "excluded"].contains(&state);
            let is_missing =
                |node: &&String| !rows.iter().any(|row| row.name == **node && is_up(&row.state));
            let missing: Vec<&String> = self.nodes.iter().filter(is_missing).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if began.elapsed() > READY_WITHIN {
                return Err(self.late(&missing));
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Resolves when one of the two has ended. Cancel-safe.
    pub(crate) async fn broken(&mut self) -> Result<Broken, Failure> {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            if let Some(broken) = self.look()? {
                return Ok(broken);
            }
        }
    }

    fn look(&mut self) -> Result<Option<Broken>, Failure> {
        if let Err(error) = self.coordinator.check_running() {
            return Ok(Some(Broken::Coordinator(error)));
        }
        Ok(self.step.has_ended()?.map(Broken::Step))
    }

    /// Tells every worker that its node is about to be taken away: srun passes the signal on.
    pub(crate) fn announce(&self) {
        self.step.signal(Signal::SIGUSR1);
    }

    /// In SLURM's words and ours.
    pub(crate) fn failure(&self, broken: Broken) -> Failure {
        let status = match broken {
            Broken::Coordinator(error) => return error.into(),
            Broken::Step(status) => status,
        };
        let words = self.step.last_words();
        match Blame::read(&self.step.log()) {
            Some(blame) if blame.is_missing_program() => {
                let worker = self.worker.display();
                let Blame { node, how } = blame;
                let error = anyhow!("node {node} cannot run {worker} ({how}){words}");
                Failure::new(ExitCode::Failed, error).hint(
                    "coordinator, worker, trainer and rsctl belong into one folder that every \
                     node sees at the same path",
                )
            }
            Some(Blame { node, how }) => {
                let error = anyhow!("the worker on node {node} has ended ({how}){words}");
                Failure::new(ExitCode::Failed, error)
            }
            None => {
                let error = anyhow!("srun has ended with {status} while the job was not{words}");
                Failure::new(ExitCode::Failed, error)
            }
        }
    }

    fn late(&self, missing: &[&String]) -> Failure {
        const NAMED: usize = 8;
        let named: Vec<&str> = missing.iter().take(NAMED).map(|node| node.as_str()).collect();
        let more = if missing.len() > NAMED { ", ..." } else { "" };
        let (names, words) = (named.join(", "), self.step.last_words());
        let error = anyhow!(
            "no worker within {} s on {} of {} nodes: {names}{more}{words}",
            READY_WITHIN.as_secs(),
            missing.len(),
            self.nodes.len()
        );
        Failure::new(ExitCode::Failed, error).hint(
            "the nodes must reach this machine: --address gives a name or address of it for them",
        )
    }

    /// Ends the workers, then the coordinator. Nothing is left when this returns.
    pub(crate) async fn stop(mut self) {
        self.step.hang_up();
        self.step.ended_within(STEP_ENDS_WITHIN).await;
        self.step.stop(STOP_WITHIN).await;
        self.coordinator.stop(STOP_WITHIN).await;
    }
}

fn without_srun(error: cluster::Error) -> Failure {
    let is_missing = matches!(&error, cluster::Error::Start { source, .. }
        if source.kind() == std::io::ErrorKind::NotFound);
    let failure = Failure::from(error);
    match is_missing {
        true => failure.hint("srun is not in PATH: load SLURM's module, or add its folder"),
        false => failure,
    }
}

/// The name by which the nodes reach this machine: as asked, as SLURM calls it, or its own.
async fn reachable_host(
    allocation: &Allocation,
    asked: Option<&str>,
    port: u16,
) -> Result<String, Failure> {
    let own = || {
        let name = fs_err::read_to_string("/proc/sys/kernel/hostname");
        name.map(|name| name.trim().to_owned())
            .map_err(|error| Failure::new(ExitCode::Failed, error))
    };
    let host = match asked.or(allocation.this_node.as_deref()) {
        Some(host) => host.to_owned(),
        None => own()?,
    };
    let addresses = tokio::net::lookup_host((host.as_str(), port)).await.map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("look up this machine as `{host}`"));
        Failure::new(ExitCode::BadConfiguration, error)
            .hint("--address gives a name or address of this machine that the nodes reach")
    })?;
    let addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
    if allocation.nodes.len() > 1 && addresses.iter().all(IpAddr::is_loopback) {
        render::warning(format_args!(
            "`{host}` is a loopback address here: nodes on other machines need another one (--address)"
        ));
    }
    Ok(host)
}
