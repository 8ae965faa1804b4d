//! `rsctl doctor`.

use std::path::PathBuf;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::units::count;
use service::exit::Failure;

use crate::commands::Outcome;
use crate::doctor::{Status, cluster, here, look};
use crate::master::Master;
use crate::render;

/// Look at this machine and the cluster; say what is wrong and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at this machine: the four programs, libtorch and whether the trainer starts on it, CPU,
memory, GPUs, NCCL, limits, the disk, ports, this machine's name. Where --master or
RUSTSPEED_MASTER says a coordinator, also at its version and clock, at every worker, and whether
each worker reaches each other on a port that it opens for that (seconds, where one does not).

A line is ok, warn or FAIL, what was looked at, what was found, and what to do. The exit code is 0
where nothing fails, else 1. Run it on each node: only the node itself can see its limits.

Examples:
  rsctl doctor
  rsctl doctor --master 192.168.1.100
  rsctl doctor --output-dir /scratch/runs
  rsctl doctor --json | jq -r '.[] | select(.status != \"ok\") | .id'")]
pub(crate) struct Args {
    /// Look at the cluster of this coordinator, too; the port is 29500 unless given
    #[arg(long, value_name = "HOST[:PORT]", env = "RUSTSPEED_MASTER", hide_env_values = true)]
    master: Option<Master>,
    /// Where results would go
    #[arg(long, value_name = "DIR", default_value = "runs")]
    output_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut checks = here::judge(&look::here(&args.output_dir, args.master.as_ref()).await);
    if let Some(master) = &args.master {
        checks.extend(cluster::judge(&look::cluster(master).await));
    }
    if args.json {
        render::json(&checks)?;
    } else {
        render::data(render::doctor::lines(&checks))?;
    }
    let failed = checks.iter().filter(|check| check.status == Status::Fail).count();
    if failed == 0 {
        return Ok(ExitCode::Done);
    }
    let error = anyhow!("{failed} of {} failed", count(checks.len() as u64, "check"));
    Err(Failure::new(ExitCode::Failed, error))
}
