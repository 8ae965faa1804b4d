//! `rsctl cancel`.

use common::exit::ExitCode;

use crate::commands::{Outcome, connect};
use crate::master::MasterArgs;
use crate::{job, render};

/// Stop a job: after a last checkpoint, or at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl cancel co2-lstm-x7k2p9         finish the step, save, stop
  rsctl cancel co2-lstm-x7k2p9 --now   kill the trainers")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    /// Kill the trainers instead of saving first
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    let state = coordinator.cancel(&id, args.now).await?;
    if args.json {
        render::json(&serde_json::json!({ "job_id": id, "state": state }))?;
    } else {
        render::data(format_args!("{id} {state}"))?;
    }
    Ok(ExitCode::Done)
}
