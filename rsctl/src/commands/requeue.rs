//! `rsctl requeue`.

use proto::v1;

use crate::commands::follow::FollowArgs;
use crate::commands::{Outcome, connect};
use crate::job;
use crate::master::MasterArgs;

/// Queue a job that has ended once more, as a new job; print its id
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A job that failed or was cancelled goes on from its newest whole checkpoint, where it has one; a job
that succeeded, and any with --from-start, starts anew. The old job and its results stay.

Examples:
  rsctl requeue co2-lstm-x7k2p9
  rsctl requeue co2-lstm-x7k2p9 --from-start --watch
  id=$(rsctl requeue co2-lstm-x7k2p9 --json | jq -r .job_id)")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    /// Do not go on from its newest checkpoint
    #[arg(long)]
    from_start: bool,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    master: MasterArgs,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let ended = job::find(&mut coordinator, &args.job).await?;
    let request = v1::RequeueRequest {
        job_id: ended.to_string(),
        request_id: uuid::Uuid::new_v4().to_string(),
        from_start: args.from_start,
        command_secret: job::known_secret(),
    };
    let id = coordinator.requeue(request).await?;
    args.follow.follow(coordinator, &id).await
}
