//! `rsctl status`.

use common::exit::ExitCode;

use crate::commands::{Outcome, connect};
use crate::master::MasterArgs;
use crate::{clock, job, render};

/// Show one job: state, progress, attempts, ranks, failure
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl status co2-lstm-x7k2p9
  rsctl status co2             a prefix is enough where only one job has it
  rsctl status co2 --json | jq .latest_checkpoint")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    let status = coordinator.job(&id).await?;
    if args.json {
        render::json(&status)?;
    } else {
        render::data(render::status::job(&status, clock::now()))?;
    }
    Ok(ExitCode::Done)
}
