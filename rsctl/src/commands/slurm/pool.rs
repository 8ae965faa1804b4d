//! `rsctl slurm pool`: nodes that a coordinator asks SLURM for while jobs wait.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::slurm::allocation::AllocationName;
use common::slurm::pool::{Pool, PoolName, PoolStatus};
use common::slurm::request::Request;
use proto::v1;
use proto::v1::change_pool_request::Change;
use service::exit::Failure;

use crate::commands::{Outcome, connect};
use crate::master::MasterArgs;
use crate::render;
use crate::slurm::ask;

/// Let a coordinator ask SLURM for nodes while jobs wait, and give idle ones back
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Jobs are submitted as always (`rsctl submit job.toml`) and run on any worker, those of pools among them.
While one waits that a pool's nodes could hold, the coordinator asks SLURM for as many as it lacks.

Examples:
  rsctl slurm pool add small --cpus-per-task 8 --max-workers 4
  rsctl slurm pool add big --partition long --time 1-0 --cpus-per-task 64 --max-workers 16 \\
      --idle-timeout 10m --sbatch=--constraint=a100
  rsctl slurm pool list
  rsctl slurm pool pause big --reason maintenance
  rsctl slurm pool resume big
  rsctl slurm pool remove small")]
pub(crate) struct PoolArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Add(Box<AddArgs>),
    /// Show pools, what they have asked for, and why they ask for nothing
    #[command(after_help = "\
Examples:
  rsctl slurm pool list
  rsctl slurm pool list --json --master 192.168.1.100")]
    List(ListArgs),
    /// Ask for nothing until it is resumed; nodes that are there stay until they are idle
    #[command(after_help = "\
Examples:
  rsctl slurm pool pause big --reason maintenance")]
    Pause(PauseArgs),
    /// Ask again, and forget past failures
    #[command(after_help = "\
Examples:
  rsctl slurm pool resume big")]
    Resume(NameArgs),
    /// Ask for nothing more and give the nodes back when nothing runs there
    #[command(after_help = "\
Examples:
  rsctl slurm pool remove big          its jobs go on to their end
  rsctl slurm pool remove big --now    they save, leave, and go on elsewhere")]
    Remove(RemoveArgs),
}

/// Add a pool: adding the same again changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An allocation has --nodes nodes, or as many more as the job needs for which it is asked: SLURM gives a
gang its nodes together. One worker runs on each node and offers its CPUs as slots. Nodes on which
nothing ran for --idle-timeout go back.

An allocation that SLURM refuses, or that ends before a worker has joined, is followed by a rest of 10 s,
then 1 min, 5 min, 15 min; after five in a row the pool pauses and says why.

Examples:
  rsctl slurm pool add small --cpus-per-task 8 --max-workers 4
  rsctl slurm pool add small --cpus-per-task 8 --max-workers 4 --dry-run    print the batch script")]
struct AddArgs {
    /// Its name: a-z, 0-9 and `-`
    #[arg(value_name = "NAME")]
    name: PoolName,
    /// Nodes at once, those that are asked for among them
    #[arg(long, value_name = "N")]
    max_workers: u32,
    /// CPUs of each node; each is a slot
    #[arg(long, value_name = "N")]
    cpus_per_task: u32,
    /// SLURM's partition
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// The account that pays
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// For how long SLURM gives the nodes, in its forms (30, 2:00:00, 1-12); jobs save and go on elsewhere
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Generic resources of each node
    #[arg(long, value_name = "LIST")]
    gres: Option<String>,
    /// The fewest nodes of one allocation
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: u32,
    /// Allocations that may wait in SLURM's queue at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    backlog: u32,
    /// Nodes on which nothing ran for so long go back
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    idle_timeout: Duration,
    /// A further flag of sbatch, such as --sbatch=--constraint=a100; may repeat
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    sbatch: Vec<String>,
    /// A folder that the nodes share: logs and workers' state are in `.slurm` below it [default: this one]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Print the batch script and add nothing
    #[arg(long, conflicts_with = "json")]
    dry_run: bool,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The pool, as `rsctl slurm pool list` shows it
    #[arg(value_name = "NAME")]
    name: PoolName,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PauseArgs {
    /// Why, for those whose jobs wait
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    of: NameArgs,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// Have what runs there save and leave at once
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    of: NameArgs,
}

pub(crate) async fn execute(args: PoolArgs) -> Outcome {
    match args.command {
        Command::Add(args) => add(*args).await,
        Command::List(args) => list(args).await,
        Command::Pause(args) => change(args.of, Change::Pause, args.reason).await,
        Command::Resume(args) => change(args, Change::Resume, None).await,
        Command::Remove(args) => {
            let how = if args.now { Change::RemoveNow } else { Change::Remove };
            change(args.of, how, None).await
        }
    }
}

async fn add(args: AddArgs) -> Outcome {
    let pool = pool(&args)?;
    let mut coordinator = connect(&args.master).await?;
    if args.dry_run {
        let name = AllocationName::of_pool(args.name, 1);
        let info = coordinator.info().await?;
        render::data(ask::script_of(&name, &pool.request, true, &pool.folder, &info).trim_end())?;
        return Ok(ExitCode::Done);
    }
    let status = coordinator.add_pool(&args.name, &pool).await?;
    show(&args.name, status, args.json)
}

/// Checks what the flags say before the coordinator hears of it.
fn pool(args: &AddArgs) -> Result<Pool, Failure> {
    let wrong = |error| Failure::new(ExitCode::BadConfiguration, error);
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from("."));
    let folder = std::path::absolute(&folder)
        .map_err(|error| wrong(anyhow!("--folder {}: {error}", folder.display())))?;
    let pool = Pool {
        request: Request {
            partition: args.partition.clone(),
            account: args.account.clone(),
            time: args.time.clone(),
            gres: args.gres.clone(),
            nodes: args.nodes,
            cpus_per_task: args.cpus_per_task,
            extra: args.sbatch.clone(),
        },
        max_workers: args.max_workers,
        backlog: args.backlog,
        idle_timeout: args.idle_timeout,
        folder: folder.components().collect(),
    };
    pool.check().map_err(|invalid| {
        let flag = if invalid.key == "extra" { "sbatch" } else { invalid.key };
        wrong(anyhow!("--{flag} {}: {}", invalid.value, invalid.why))
    })?;
    Ok(pool)
}

async fn list(args: ListArgs) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let pools = coordinator.pools().await?;
    match args.json {
        true => render::json(&pools)?,
        false => render::data(render::pool::table(&pools))?,
    }
    Ok(ExitCode::Done)
}

async fn change(args: NameArgs, change: Change, reason: Option<String>) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let request = v1::ChangePoolRequest {
        name: args.name.to_string(),
        change: change.into(),
        reason: reason.unwrap_or_default(),
    };
    let status = coordinator.change_pool(request).await?;
    show(&args.name, status, args.json)
}

/// None: it is gone.
fn show(name: &PoolName, status: Option<PoolStatus>, as_json: bool) -> Outcome {
    match (as_json, status) {
        (true, status) => render::json(&status)?,
        (false, Some(status)) => {
            render::data(format_args!("pool {name} is {}", status.state))?;
        }
        (false, None) => render::data(format_args!("pool {name} is removed"))?,
    }
    Ok(ExitCode::Done)
}
