//! `rsctl watch`.

use std::time::Duration;

use common::exit::ExitCode;
use common::ids::JobId;
use service::exit::Failure;

use crate::commands::end::{self, Print};
use crate::commands::{Outcome, connect};
use crate::coordinator::Coordinator;
use crate::follow::{Follower, View};
use crate::master::MasterArgs;
use crate::render::progress::{self, JsonLines};
use crate::{job, render};

/// Follow a job to its end, across restarts of the coordinator; exit with the job's result
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ctrl-C leaves the job running (exit code 130).

Examples:
  rsctl watch co2-lstm-x7k2p9
  rsctl watch co2 --json | jq -c '[.state, .step]'
  rsctl watch co2 --reconnect-timeout 1h")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    #[command(flatten)]
    master: MasterArgs,
    #[command(flatten)]
    pub(crate) patience: PatienceArgs,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Unless it is said; long enough for people to start a coordinator again, if need be elsewhere.
pub(crate) const RECONNECT_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PatienceArgs {
    /// How long to go on without any coordinator
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) reconnect_timeout: Duration,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    to_the_end(coordinator, &id, args.patience.reconnect_timeout, args.json).await
}

/// Follows `id` and prints its end; Ctrl-C only detaches.
pub(crate) async fn to_the_end(
    coordinator: Coordinator,
    id: &JobId,
    patience: Duration,
    json: bool,
) -> Outcome {
    let mut view: Box<dyn View> = if json { Box::new(JsonLines) } else { progress::for_people() };
    let mut follower = Follower { coordinator, patience };
    let status = tokio::select! {
        status = follower.until_final(id, view.as_mut()) => status?,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt.map_err(|error| Failure::new(ExitCode::Failed, error))?;
            drop(view);
            render::talk(format_args!(
                "detached; {id} goes on. Watch it again: rsctl watch {id}; stop it: rsctl cancel {id}"
            ));
            return Ok(ExitCode::Detached);
        }
    };
    drop(view);
    end::conclude(&status, if json { Print::Nothing } else { Print::Summary })
}
