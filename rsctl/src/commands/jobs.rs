//! `rsctl jobs`.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::builder::PossibleValuesParser;

use common::exit::ExitCode;
use common::status::{JobRow, JobState};
use service::exit::Failure;

use crate::commands::watch::PatienceArgs;
use crate::commands::{Outcome, connect};
use crate::coordinator::{Coordinator, JobFilter};
use crate::follow::Patience;
use crate::master::MasterArgs;
use crate::{clock, render};

/// Between two looks with --watch.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// List jobs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl jobs
  rsctl jobs --state running,queued --watch
  rsctl jobs --group lr-sweep          the jobs of a sweep
  rsctl jobs --label team=ocean --limit 10
  rsctl jobs --json | jq -r '.[] | select(.step > 100) | .job_id'")]
pub(crate) struct Args {
    /// Only jobs that were submitted in this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only jobs in these states
    #[arg(long, value_name = "STATE[,STATE]", value_delimiter = ',', hide_possible_values = true,
          value_parser = PossibleValuesParser::new(JobState::ALL.map(JobState::as_str)))]
    state: Vec<String>,
    /// Only jobs with this label; may repeat, then all must be there
    #[arg(long, value_name = "KEY=V", value_parser = label)]
    label: Vec<(String, String)>,
    /// At most the newest N
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Show the list again whenever it changes, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON: a list, or with --watch one list a line
    #[arg(long)]
    json: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE, such as team=ocean".to_owned()),
    }
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    if args.watch {
        return watch(coordinator, &args).await;
    }
    let rows = select(&args, coordinator.jobs(&filter(&args)).await?);
    if args.json {
        render::json(&rows)?;
    } else {
        render::data(render::status::jobs(&rows, clock::now()))?;
    }
    Ok(ExitCode::Done)
}

/// What the coordinator itself selects by.
fn filter(args: &Args) -> JobFilter {
    let is_asked = |state: &JobState| args.state.iter().any(|asked| asked == state.as_str());
    JobFilter {
        group: args.group.clone(),
        states: JobState::ALL.into_iter().filter(is_asked).collect(),
        ..JobFilter::default()
    }
}

/// The rows that were asked for, in the order of submission.
fn select(args: &Args, mut rows: Vec<JobRow>) -> Vec<JobRow> {
    let has_label = |row: &JobRow, (key, value): &(String, String)| {
        row.labels.get(key).is_some_and(|found| found == value)
    };
    rows.retain(|row| {
        let is_state = args.state.is_empty() || args.state.iter().any(|s| s == row.state.as_str());
        is_state && args.label.iter().all(|label| has_label(row, label))
    });
    rows.sort_by(|a, b| (a.submitted_at, &a.job_id).cmp(&(b.submitted_at, &b.job_id)));
    let surplus = args.limit.map_or(0, |limit| rows.len().saturating_sub(limit));
    rows.split_off(surplus)
}

/// Until Ctrl-C, across restarts of the coordinator.
async fn watch(mut coordinator: Coordinator, args: &Args) -> Outcome {
    let mut patience = Patience::new(args.patience.reconnect_timeout);
    let mut shown: Option<Vec<JobRow>> = None;
    let looking = async {
        loop {
            match coordinator.jobs(&filter(args)).await {
                Ok(rows) => {
                    if patience.found() {
                        render::talk("the coordinator is back");
                    }
                    let rows = select(args, rows);
                    if shown.as_ref() != Some(&rows) {
                        show(args, &rows)?;
                        shown = Some(rows);
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) if error.is_retryable() => patience.lost(error, render::talk).await?,
                Err(error) => return Err(Failure::from(error)),
            }
        }
    };
    tokio::select! {
        ended = looking => ended,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt.map_err(|error| Failure::new(ExitCode::Failed, error))?;
            Ok(ExitCode::Detached)
        }
    }
}

fn show(args: &Args, rows: &[JobRow]) -> Result<(), Failure> {
    if args.json {
        return render::json_line(&rows);
    }
    let table = render::status::jobs(rows, clock::now());
    // A terminal shows one list that changes, a pipe gets them one after the other.
    match std::io::stdout().is_terminal() {
        true => render::data(format_args!("\x1b[H\x1b[2J{table}")),
        false => render::data(format_args!("{table}\n")),
    }
}
