//! One module per command: its arguments, its help, and what it does.

pub(crate) mod cancel;
pub(crate) mod checkpoints;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod drain;
mod end;
pub(crate) mod explain;
pub(crate) mod fetch;
mod follow;
pub(crate) mod hostfile;
pub(crate) mod init;
pub(crate) mod jobs;
pub(crate) mod launch;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod preempt;
pub(crate) mod requeue;
pub(crate) mod run;
pub(crate) mod slurm;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod watch;
pub(crate) mod workers;

use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use common::exit::ExitCode;
use service::exit::Failure;

use crate::args::Command;
use crate::coordinator::Coordinator;
use crate::master::{Master, MasterArgs};

/// How every command ends.
pub(crate) type Outcome = Result<ExitCode, Failure>;

pub(crate) async fn execute(command: Command) -> Result<ProcessExit, Failure> {
    let outcome = match command {
        // It ends with the code of what it ran.
        Command::Launch(args) => return launch::execute(*args).await,
        Command::Run(args) => run::execute(args).await,
        Command::Slurm(args) => slurm::execute(args).await,
        Command::Submit(args) => submit::execute(args).await,
        Command::Jobs(args) => jobs::execute(args).await,
        Command::Status(args) => status::execute(args).await,
        Command::Watch(args) => watch::execute(args).await,
        Command::Explain(args) => explain::execute(args).await,
        Command::Logs(args) => logs::execute(args).await,
        Command::Metrics(args) => metrics::execute(args).await,
        Command::Cancel(args) => cancel::execute(args).await,
        Command::Preempt(args) => preempt::execute(args).await,
        Command::Requeue(args) => requeue::execute(args).await,
        Command::Drain(args) => drain::execute(args).await,
        Command::Hostfile(args) => hostfile::execute(args).await,
        Command::Cluster(args) => cluster::execute(args).await,
        Command::Workers(args) => workers::execute(args).await,
        Command::Fetch(args) => fetch::execute(args).await,
        Command::Checkpoints(args) => checkpoints::execute(args).await,
        Command::Config(args) => config::execute(args),
        Command::Doctor(args) => doctor::execute(args).await,
        Command::Init(args) => init::execute(&args),
        Command::Completions(args) => completions::execute(&args),
    };
    outcome.map(ProcessExit::from)
}

/// As a request has it: 0 is the default, so what is shorter than a millisecond is one.
pub(crate) fn grace_ms(grace: Option<Duration>) -> u64 {
    grace.map_or(0, |grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX).max(1))
}

async fn connect(master: &MasterArgs) -> Result<Coordinator, Failure> {
    connect_to(&master.master).await
}

pub(crate) async fn connect_to(master: &Master) -> Result<Coordinator, Failure> {
    connect_to_address(master.address()).await
}

pub(crate) async fn connect_to_address(address: &str) -> Result<Coordinator, Failure> {
    Coordinator::connect(address).await.map_err(|error| {
        let failure = Failure::from(error);
        failure.hint(format!(
            "is a coordinator running at {address}? Start one with `coordinator serve`, or say \
             where it is with --master or RUSTSPEED_MASTER"
        ))
    })
}
