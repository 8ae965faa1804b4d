//! `rsctl drain`.

use std::time::Duration;

use common::exit::ExitCode;
use proto::v1;
use service::exit::Failure;

use crate::commands::{Outcome, connect, grace_ms};
use crate::coordinator::Coordinator;
use crate::master::MasterArgs;
use crate::render;

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Take a node out of service: its jobs save and leave it, nothing new starts there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The node stays out of service, also over restarts of its worker and of the coordinator, until
--undo. Its worker keeps running and is listed as draining, then as drained.

Examples:
  rsctl drain node07 --reason new-kernel
  rsctl drain node07 --wait --grace 5m    return when nothing runs there any more
  rsctl drain node07 --undo               back into service")]
pub(crate) struct Args {
    /// The worker's name, as `rsctl workers` lists it
    node: String,
    /// Back into service
    #[arg(long, conflicts_with_all = ["reason", "grace", "wait"])]
    undo: bool,
    /// Why, for the ones whose jobs are moved
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// What runs there has this long to save [default: as for a cancel, 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
    /// Return when nothing runs there any more
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let request = v1::DrainRequest {
        worker: args.node.clone(),
        undo: args.undo,
        reason: args.reason.unwrap_or_default(),
        grace_ms: grace_ms(args.grace),
        allow: false,
    };
    let mut state = coordinator.drain(request).await?;
    if args.wait {
        state = until_idle(&mut coordinator, &args.node, state).await?;
    }
    let shown = if state.is_empty() { "not connected" } else { state.as_str() };
    if args.json {
        render::json(&serde_json::json!({ "worker": args.node, "state": shown }))?;
    } else {
        render::data(format_args!("{} {shown}", args.node))?;
    }
    Ok(ExitCode::Done)
}

/// Bounded by the coordinator: it kills what does not save within its grace.
async fn until_idle(
    coordinator: &mut Coordinator,
    node: &str,
    mut state: String,
) -> Result<String, Failure> {
    while state == "draining" {
        tokio::time::sleep(LOOK_EVERY).await;
        let rows = coordinator.workers().await?;
        let row = rows.into_iter().find(|row| row.name == node);
        state = row.map(|row| row.state).unwrap_or_default();
    }
    Ok(state)
}
