//! `rsctl cancel`.

use common::exit::ExitCode;
use common::ids::JobId;
use common::status::JobState;
use service::exit::Failure;

use crate::commands::{Outcome, connect};
use crate::coordinator::{Coordinator, JobFilter};
use crate::master::MasterArgs;
use crate::{job, render};

/// Stop a job, queued or running: after a last checkpoint, or at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl cancel co2-lstm-x7k2p9         finish the step, save, stop
  rsctl cancel co2-lstm-x7k2p9 --now   kill the trainers
  rsctl cancel --group lr-sweep        every job of a sweep that has not ended")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    #[arg(required_unless_present = "group")]
    job: Option<String>,
    /// All jobs that were submitted in this group
    #[arg(long, value_name = "GROUP", conflicts_with = "job")]
    group: Option<String>,
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
    let ids = match (&args.job, &args.group) {
        (Some(job), _) => vec![job::find(&mut coordinator, job).await?],
        (None, group) => open_jobs(&mut coordinator, group.as_deref().unwrap_or_default()).await?,
    };
    if ids.is_empty() {
        render::talk("every job of the group has ended");
    }
    let mut states = Vec::new();
    // The last first: a job that waits for another one's end must not start because of it.
    for id in ids.iter().rev() {
        states.push((id, coordinator.cancel(id, args.now).await?));
    }
    let row =
        |(id, state): &(&JobId, JobState)| serde_json::json!({ "job_id": id, "state": state });
    match (args.json, args.job.is_some()) {
        (true, true) => render::json(&states.first().map(row))?,
        (true, false) => render::json(&states.iter().map(row).collect::<Vec<_>>())?,
        (false, _) => {
            for (id, state) in &states {
                render::data(format_args!("{id} {state}"))?;
            }
        }
    }
    Ok(ExitCode::Done)
}

async fn open_jobs(coordinator: &mut Coordinator, group: &str) -> Result<Vec<JobId>, Failure> {
    let filter = JobFilter { group: Some(group.to_owned()), ..JobFilter::default() };
    let rows = coordinator.jobs(&filter).await?;
    if rows.is_empty() {
        let error = anyhow::anyhow!("there is no job in group `{group}`");
        return Err(Failure::new(ExitCode::Failed, error));
    }
    Ok(rows.into_iter().filter(|row| !row.state.is_final()).map(|row| row.job_id).collect())
}
