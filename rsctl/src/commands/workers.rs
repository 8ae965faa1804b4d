//! `rsctl workers`.

use common::exit::ExitCode;

use crate::commands::{Outcome, connect};
use crate::master::MasterArgs;
use crate::{clock, render};

/// List workers and their slots
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl workers
  rsctl workers --master 192.168.1.100 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut rows = connect(&args.master).await?.workers().await?;
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if args.json {
        render::json(&rows)?;
    } else {
        render::data(render::status::workers(&rows, clock::now()))?;
    }
    Ok(ExitCode::Done)
}
