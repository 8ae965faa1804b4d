//! `rsctl cluster`: workers on hosts where ssh is all there is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use serde::Serialize;

use common::exit::ExitCode;
use service::exit::Failure;

use crate::cluster::here::Machine;
use crate::cluster::{Runs, secret};
use crate::commands::Outcome;
use crate::hosts::{self, FilterArgs};
use crate::interrupts::Interrupts;
use crate::master::{DEFAULT_PORT, Master};
use crate::render;
use crate::ssh::environment::Variables;
use crate::ssh::record::{Folder, Record};
use crate::ssh::row::{Row, failed_hosts};
use crate::ssh::site::{self, Order};
use crate::ssh::{SshArgs, script, state, stop, target};

/// Start workers on the hosts of a hostfile over ssh, look after them, stop them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Up(Box<UpArgs>),
    Down(DownArgs),
    Status(StatusArgs),
}

/// Which cluster of this user.
#[derive(Debug, clap::Args)]
struct WhichArgs {
    /// Name of the cluster, where there are several
    #[arg(long, value_name = "NAME", default_value = "default")]
    cluster: String,
    /// Folder of what is up, and of the coordinator [default: in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl WhichArgs {
    fn folder(&self) -> Result<Folder, Failure> {
        Folder::of(&self.cluster, self.state_dir.as_deref())
    }
}

/// Start a coordinator here and, over ssh, a worker on each host of a hostfile
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at all hosts first and starts nothing if one of them cannot take a worker: each is told with
ssh's own words and with what to do. Then workers start on all hosts at once, with the slots that
the file lists, and it waits until they have joined. They go on until `rsctl cluster down`.
Called again, it starts what is missing. Ctrl-C stops what it has started.

ssh never asks for anything here: keys, agents, jump hosts and ports are as ~/.ssh/config has them.
A host that is this machine needs no ssh. Variables that begin with NCCL_, UCX_, FI_, GLOO_, OMP_,
KMP_ or MKL_ are forwarded, and those of ~/.deepspeed_env and ./.deepspeed_env (NAME=VALUE), never
on a command line.

Examples:
  rsctl cluster up --hostfile hosts.txt
  rsctl cluster up --hostfile hosts.txt --include gpu-node-01@gpu-node-02:0,2 --device cuda
  rsctl cluster up --hostfile hosts.txt --ssh-port 2222 --export LD_LIBRARY_PATH
  rsctl cluster up --hostfile hosts.txt --launcher-args=-Jbastion --bin-dir /opt/rustspeed/bin
  rsctl cluster up --hostfile hosts.txt --master 192.168.1.100    join a coordinator that runs
  rsctl cluster up --hostfile hosts.txt --keep --json             go on without hosts that fail
  rsctl cluster up --hostfile hosts.txt --allow-commands          also run jobs' own programs")]
struct UpArgs {
    /// The hosts: a line is HOST slots=N
    #[arg(long, value_name = "FILE")]
    hostfile: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    ssh: SshArgs,
    /// Join this coordinator, as the hosts reach it; none is started
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with_all = ["port", "advertise"])]
    master: Option<Master>,
    /// Port of the coordinator that is started here; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// What a slot is: a core, or (never run on one yet) a GPU
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Where some hosts fail, let the others go on
    #[arg(long)]
    keep: bool,
    /// Let jobs run programs of their own, for those who know the coordinator's secret
    #[arg(long)]
    allow_commands: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

/// Stop what `rsctl cluster up` has started
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each worker is told to leave by its pid, and only while that is still the process that was started.
Its jobs save first; they go on elsewhere, or wait. Who is still there after the grace is killed.
The coordinator ends last; its queue is kept for the next `up`. A host that cannot be reached stays
remembered, so that the same command tries it again, unless --forget says that it is gone for good.

Examples:
  rsctl cluster down
  rsctl cluster down --forget
  rsctl cluster down --grace 2m --json
  rsctl cluster down --cluster night")]
struct DownArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Workers have this long to save and leave
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Remember no host whose worker could not be stopped; what may run there is left to itself
    #[arg(long)]
    forget: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Show what `rsctl cluster up` has started, as the hosts and the coordinator see it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is 0 where the coordinator and every worker are in service, else 1.

Examples:
  rsctl cluster status
  rsctl cluster status --json | jq '.hosts[].state'")]
struct StatusArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What all three print.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    cluster: &'a str,
    ok: bool,
    /// From this machine.
    master: Option<&'a str>,
    /// None: it is not this cluster's own.
    coordinator: Option<String>,
    hosts: &'a [Row],
}

impl Shown<'_> {
    fn print(&self, as_json: bool) -> Result<(), Failure> {
        match as_json {
            true => render::json(self),
            false => render::data(render::cluster::table(self.hosts)),
        }
    }
}

pub(crate) async fn execute(args: Args) -> Outcome {
    match args.command {
        Command::Up(args) => up(args).await,
        Command::Down(args) => down(args).await,
        Command::Status(args) => status(args).await,
    }
}

async fn up(args: Box<UpArgs>) -> Outcome {
    // First: a signal must not end a process that has begun to start others.
    let mut interrupts = Interrupts::new()?;
    let chosen = hosts::choose(&args.hostfile, &args.filter)?;
    chosen.warnings().iter().for_each(render::warning);
    // Of the same hosts a job could be made.
    chosen.hosts()?;
    let targets = target::of_hostfile(&chosen, &Machine::this())?;
    let variables = Variables::of_this_process(&args.ssh.export)?;
    variables.told().iter().for_each(render::talk);
    let order = Order {
        targets,
        ssh: args.ssh.ssh(),
        programs: args.ssh.programs(),
        variables,
        advertise: args.ssh.advertise.clone(),
        master: args.master.as_ref().map(|master| master.address().to_owned()),
        port: args.port,
        is_cuda: args.device == Device::Cuda,
        is_kept: args.keep,
        runs: if args.allow_commands { Runs::Commands } else { Runs::Jobs },
        scratch: None,
        shows_slots: false,
    };
    let folder = args.which.folder()?;
    let _lock = folder.lock()?;
    let mut record = record_for(&folder, &order)?;
    let up = site::up(&order, &folder, &mut record, &mut interrupts).await;
    let shown = Shown {
        cluster: &folder.cluster,
        ok: up.failure.is_none(),
        master: (!record.is_empty()).then_some(&*record.master),
        coordinator: record.coordinator.as_ref().map(|_| "running".to_owned()),
        hosts: &up.rows,
    };
    shown.print(args.json)?;
    if let Some(failure) = up.failure {
        return Err(failure);
    }
    tell_next(&record, &folder, &chosen.flags);
    Ok(ExitCode::Done)
}

/// The line that uses what is up. A secret is named by its file, and is on no command line.
fn tell_next(record: &Record, folder: &Folder, hosts: &str) {
    let secret = match &record.coordinator {
        Some(_) if record.allows_commands => {
            let file = secret::path(&folder.coordinator());
            let file = script::quote(&file.display().to_string());
            format!("RUSTSPEED_COMMAND_SECRET=\"$(cat {file})\" ")
        }
        _ => String::new(),
    };
    let master = &record.master;
    render::talk(format_args!(
        "now: {secret}rsctl submit job.toml --master {master} {hosts} --watch"
    ));
}

/// What is up already, if it is of the same coordinator.
fn record_for(folder: &Folder, order: &Order) -> Result<Record, Failure> {
    let cluster = &folder.cluster;
    let allows_commands = order.runs == Runs::Commands;
    let Some(mut record) = folder.read()? else {
        let master = order.master.clone().unwrap_or_default();
        let mut record = Record::new(order.ssh.clone(), master);
        record.allows_commands = allows_commands;
        return Ok(record);
    };
    if record.allows_commands != allows_commands {
        let with = if record.allows_commands { "with" } else { "without" };
        let error = anyhow!("cluster `{cluster}` is up already, {with} --allow-commands");
        return Err(Failure::new(ExitCode::Failed, error).hint(format!(
            "call it {with} the flag, or `rsctl cluster down --cluster {cluster}` first"
        )));
    }
    let is_other = match (&order.master, &record.coordinator) {
        (Some(master), None) => *master != record.master,
        (Some(_), Some(_)) => true,
        (None, coordinator) => coordinator.is_none(),
    };
    if is_other {
        let error =
            anyhow!("cluster `{cluster}` is up already, at the coordinator {}", record.master);
        return Err(Failure::new(ExitCode::Failed, error).hint(format!(
            "`rsctl cluster down --cluster {cluster}` first, or give the new one a name: --cluster"
        )));
    }
    record.ssh = order.ssh.clone();
    Ok(record)
}

async fn down(args: DownArgs) -> Outcome {
    let folder = args.which.folder()?;
    let Some(_) = folder.read()? else { return nothing_is_up(&folder, args.json) };
    let _lock = folder.lock()?;
    // Another `down` may have been faster.
    let Some(mut record) = folder.read()? else { return nothing_is_up(&folder, args.json) };
    let workers: Vec<String> = record.hosts.iter().map(|host| host.worker.clone()).collect();
    let mut rows = stop::stop_workers(&folder, &mut record, &workers, args.grace).await?;
    if args.forget {
        stop::forget(&folder, &mut record, &mut rows)?;
    }
    let coordinator = stop::stop_coordinator(&folder, &mut record).await;
    let coordinator = coordinator.map_err(|error| {
        let context = anyhow::Error::new(error).context("stop the coordinator");
        Failure::new(ExitCode::Failed, context)
    });
    if let Ok(Some(end)) = &coordinator {
        render::talk(format_args!("the coordinator: {end}"));
    }
    let (failed, named) = failed_hosts(&rows);
    let shown = Shown {
        cluster: &folder.cluster,
        ok: failed == 0 && coordinator.is_ok(),
        master: None,
        coordinator: coordinator.as_ref().ok().copied().flatten().map(str::to_owned),
        hosts: &rows,
    };
    shown.print(args.json)?;
    coordinator?;
    if failed == 0 {
        return Ok(ExitCode::Done);
    }
    let error = anyhow!("{failed} of {} hosts: the worker may still run: {named}", rows.len());
    Err(Failure::new(ExitCode::Failed, error)
        .hint("they stay remembered: the same command tries them again; --forget: they are gone"))
}

fn nothing_is_up(folder: &Folder, as_json: bool) -> Outcome {
    let (cluster, path) = (&folder.cluster, folder.path().display());
    render::talk(format_args!("nothing of cluster `{cluster}` is up: {path} knows of none"));
    if as_json {
        Shown { cluster, ok: true, master: None, coordinator: None, hosts: &[] }.print(true)?;
    }
    Ok(ExitCode::Done)
}

async fn status(args: StatusArgs) -> Outcome {
    let folder = args.which.folder()?;
    let Some(record) = folder.read()? else {
        let (cluster, path) = (&folder.cluster, folder.path().display());
        let error = anyhow!("no cluster `{cluster}` is up: {path} knows of none");
        return Err(Failure::new(ExitCode::Failed, error)
            .hint("`rsctl cluster up --hostfile FILE` starts one"));
    };
    let coordinator = state::coordinator(&record).await;
    let workers = state::workers(&record).await;
    if let Err(why) = &workers {
        render::warning(why);
    }
    let hosts = state::hosts(&record, workers.as_deref().ok()).await;
    let fine = hosts.iter().filter(|row| ["ready", "excluded"].contains(&&*row.state)).count();
    let is_ok = fine == hosts.len() && coordinator.as_deref().is_none_or(|it| it == "running");
    let shown = Shown {
        cluster: &folder.cluster,
        ok: is_ok,
        master: Some(&record.master),
        coordinator,
        hosts: &hosts,
    };
    shown.print(args.json)?;
    if is_ok {
        return Ok(ExitCode::Done);
    }
    let of = hosts.len();
    let error = anyhow!("cluster `{}`: {fine} of {of} workers are in service", folder.cluster);
    Err(Failure::new(ExitCode::Failed, error)
        .hint("`rsctl cluster up` with the same hostfile starts what is missing"))
}
