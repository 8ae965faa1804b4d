//! How `run`, `watch` and `submit --watch` show a job's end.

use anyhow::anyhow;

use common::status::{JobState, JobStatus};
use service::exit::Failure;

use crate::commands::Outcome;
use crate::{follow, render};

/// What is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Print {
    Summary,
    /// The final status as one document.
    Json,
    /// Statuses were printed as they came; nothing is left to print.
    Nothing,
}

/// Prints a final status; a job that failed is an error with its reason.
pub(crate) fn conclude(status: &JobStatus, print: Print) -> Outcome {
    match print {
        Print::Json => render::json(status)?,
        Print::Summary => {
            let summary = render::summary::render(status);
            if !summary.is_empty() {
                render::data(summary)?;
            }
        }
        Print::Nothing => {}
    }
    let code = follow::exit_code(status);
    let row = &status.row;
    if row.state != JobState::Failed {
        return Ok(code);
    }
    let last_lines = render::status::last_lines(status);
    if !last_lines.is_empty() {
        render::talk(last_lines);
    }
    // The reason says more where the job was not started again.
    let failure = status.failure.as_ref().filter(|f| !row.reason.starts_with(&f.message));
    let why = failure.map_or(row.reason.as_str(), |failure| &failure.message);
    let failure = Failure::new(code, anyhow!("job {} failed: {why}", row.job_id));
    Err(match hint(status) {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

fn hint(status: &JobStatus) -> Option<String> {
    let mut parts = Vec::new();
    let has_run = status.failure.as_ref().is_some_and(|failure| failure.rank.is_some());
    if let Some(folder) = status.output_dir.as_ref().filter(|_| has_run) {
        parts.push(format!("the ranks' logs are in {folder}/logs"));
    }
    if let Some(checkpoint) = &status.latest_checkpoint {
        parts.push(format!("--resume {checkpoint} goes on from the newest checkpoint"));
    }
    let help = status.failure.as_ref().and_then(common::help::of_failure);
    parts.extend(help.map(|help| format!("see {help}")));
    (!parts.is_empty()).then(|| parts.join("; "))
}
