//! `rsctl preempt`.

use std::time::Duration;

use common::exit::ExitCode;
use common::ids::{AttemptId, JobId};
use common::status::JobStatus;
use proto::v1;
use service::exit::Failure;

use crate::commands::{Outcome, connect, grace_ms};
use crate::coordinator::Coordinator;
use crate::master::MasterArgs;
use crate::{job, render};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Make a running job save and leave its slots; it goes on from there when it has its turn again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Jobs of its priority that wait by then go first. It costs the job's budget for preemptions
(restart.preemption, without a bound by default). No step is lost of what is saved in time.

Examples:
  rsctl preempt co2-lstm-x7k2p9
  rsctl preempt co2-lstm-x7k2p9 --grace 30s --reason deadline-of-ada --wait")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    /// Its ranks have this long to save; then they are killed [default: as for a cancel, 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
    /// Why, for the one whose job it is
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Return when its ranks have left
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
    let id = job::find(&mut coordinator, &args.job).await?;
    let request = v1::PreemptRequest {
        job_id: id.to_string(),
        reason: args.reason.unwrap_or_default(),
        grace_ms: grace_ms(args.grace),
    };
    let attempt = coordinator.preempt(request).await?;
    let status = match args.wait {
        true => until_left(&mut coordinator, &id, attempt).await?,
        false => coordinator.job(&id).await?,
    };
    let (state, reason) = (status.row.state, &status.row.reason);
    if args.json {
        let document = serde_json::json!({
            "job_id": id, "attempt": attempt, "state": state, "reason": reason,
        });
        render::json(&document)?;
    } else {
        render::data(format_args!("{id} {state}: {reason}"))?;
    }
    Ok(ExitCode::Done)
}

/// Bounded by the coordinator: it kills what does not save within its grace.
async fn until_left(
    coordinator: &mut Coordinator,
    id: &JobId,
    attempt: AttemptId,
) -> Result<JobStatus, Failure> {
    loop {
        let status = coordinator.job(id).await?;
        let is_there =
            status.attempts.iter().any(|one| one.attempt == attempt && one.ended_at.is_none());
        if !is_there {
            return Ok(status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
