//! `rsctl workers`.

use common::exit::ExitCode;
use proto::v1;

use crate::commands::{Outcome, connect};
use crate::coordinator::Coordinator;
use crate::master::MasterArgs;
use crate::{clock, render};

/// List workers and their slots
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A worker at whose fault two jobs broke off within 24 hours is `excluded`: a job goes there only where the
others could never hold it, until a day has passed or --allow forgives it.

Examples:
  rsctl workers
  rsctl workers --master 192.168.1.100 --json
  rsctl workers --allow node07    its fault is mended: use it again")]
pub(crate) struct Args {
    /// Use this worker again, although attempts broke off there
    #[arg(long, value_name = "NAME")]
    allow: Option<String>,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    if let Some(worker) = args.allow {
        return allow(&mut coordinator, worker, args.json).await;
    }
    let mut rows = coordinator.workers().await?;
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if args.json {
        render::json(&rows)?;
    } else {
        render::data(render::status::workers(&rows, clock::now()))?;
    }
    Ok(ExitCode::Done)
}

async fn allow(coordinator: &mut Coordinator, worker: String, as_json: bool) -> Outcome {
    let request = v1::DrainRequest { worker: worker.clone(), allow: true, ..Default::default() };
    let state = coordinator.drain(request).await?;
    let shown = if state.is_empty() { "not connected" } else { state.as_str() };
    if as_json {
        render::json(&serde_json::json!({ "worker": worker, "state": shown }))?;
    } else {
        render::data(format_args!("{worker} {shown}"))?;
    }
    Ok(ExitCode::Done)
}
