//! `rsctl hostfile check`.

use std::path::PathBuf;

use anyhow::anyhow;
use serde::Serialize;

use common::exit::ExitCode;
use common::jobfile::Mistake;
use service::exit::Failure;

use crate::commands::{Outcome, connect_to};
use crate::hosts::compare::{self, Compared};
use crate::hosts::{self, FilterArgs};
use crate::master::Master;
use crate::render;

/// Check a DeepSpeed hostfile
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(CheckArgs),
}

/// Check a hostfile's grammar, then whether the cluster has its hosts and slots
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A line is HOST slots=N; blank lines and what follows # are ignored. HOST is a worker's name, its
node's hostname or its address. A filter is HOST or HOST:SLOT,SLOT, joined by @.

The grammar needs no coordinator: every mistake is told with its line, and the exit code is 78.
Where --master or RUSTSPEED_MASTER says one, its workers are compared with the file: a host
without a worker in service, or with too few slots, makes the exit code 1. Workers that the file
does not list are told.

Examples:
  rsctl hostfile check hosts.txt
  rsctl hostfile check hosts.txt --master 192.168.1.100
  rsctl hostfile check hosts.txt --include gpu-node-01@gpu-node-02:0,2
  rsctl hostfile check hosts.txt --offline --json | jq .slots")]
struct CheckArgs {
    /// The hostfile
    #[arg(value_name = "FILE")]
    hostfile: PathBuf,
    #[command(flatten)]
    filter: FilterArgs,
    /// Compare with the workers of this coordinator; the port is 29500 unless given
    #[arg(long, value_name = "HOST[:PORT]", env = "RUSTSPEED_MASTER", hide_env_values = true)]
    master: Option<Master>,
    /// Compare with no workers, whatever RUSTSPEED_MASTER says
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let Command::Check(args) = args.command;
    check(args).await
}

/// A file that is no hostfile.
#[derive(Debug, Serialize)]
struct Refused {
    file: String,
    ok: bool,
    mistakes: Vec<Mistake>,
}

async fn check(args: CheckArgs) -> Outcome {
    let chosen = match hosts::choose(&args.hostfile, &args.filter) {
        Ok(chosen) => chosen,
        Err(hosts::Error::Mistakes(mistakes)) if args.json => {
            let file = args.hostfile.display().to_string();
            render::json(&Refused { file, ok: false, mistakes: mistakes.told() })?;
            return Err(hosts::Error::Mistakes(mistakes).into());
        }
        Err(error) => return Err(error.into()),
    };
    chosen.warnings().iter().for_each(render::warning);
    let hosts = chosen.hosts()?;
    let workers = match args.master.filter(|_| !args.offline) {
        Some(master) => Some(connect_to(&master).await?.workers().await?),
        None => None,
    };
    if workers.is_none() && !args.offline {
        render::talk("not compared with workers: say which coordinator's with --master");
    }
    let compared = compare::compare(&chosen, &hosts, workers.as_deref());
    if args.json {
        render::json(&compared)?;
    } else {
        render::data(render::hostfile::table(&compared))?;
    }
    compared.advice().iter().for_each(render::talk);
    conclude(&compared)
}

fn conclude(compared: &Compared) -> Outcome {
    if compared.ok {
        return Ok(ExitCode::Done);
    }
    let wanting = compared.hosts.iter().filter(|host| !host.state.is_fine()).count();
    let (hosts, file) = (compared.hosts.len(), &compared.file);
    let error = anyhow!("{wanting} of {hosts} hosts of {file} could not serve a job now");
    Err(Failure::new(ExitCode::Failed, error))
}
