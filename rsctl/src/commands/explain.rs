//! `rsctl explain`.

use common::exit::ExitCode;

use crate::commands::{Outcome, connect};
use crate::master::MasterArgs;
use crate::{job, render};

/// Say why a job waits, was restarted, is slow or stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "\
From what was recorded: decisions with their times, each attempt's end with the rank that failed
first and its last lines, and what each worker lacks for a job that waits. Where ranks report
rank/compute-seconds and rank/wait-seconds, each has a score: the median time to compute over its
own; below 0.8 it is a straggler that the others wait for.

Examples:
  rsctl explain co2
  rsctl explain co2 --json | jq -r '.answers[].text'
  rsctl explain co2 --json | jq '.pace | min_by(.score)'")]
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
    let explained = coordinator.explain(&id).await?;
    if args.json {
        render::json(&explained)?;
    } else {
        render::data(render::explain::render(&explained))?;
    }
    Ok(ExitCode::Done)
}
