//! `rsctl jobs`.

use common::exit::ExitCode;

use crate::commands::{Outcome, connect};
use crate::master::MasterArgs;
use crate::{clock, render};

/// List jobs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl jobs
  rsctl jobs --json | jq -r '.[] | select(.state == \"running\") | .job_id'")]
pub(crate) struct Args {
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut rows = connect(&args.master).await?.jobs().await?;
    rows.sort_by(|a, b| (a.submitted_at, &a.job_id).cmp(&(b.submitted_at, &b.job_id)));
    if args.json {
        render::json(&rows)?;
    } else {
        render::data(render::status::jobs(&rows, clock::now()))?;
    }
    Ok(ExitCode::Done)
}
