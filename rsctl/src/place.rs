//! Where a checkpoint is, as a user says it: `JOB`, `JOB:TAG`, or a path (a checkpoint, a root, a
//! run's folder) or URL.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use checkpoint::Found;
use common::exit::ExitCode;
use common::status::CheckpointRow;
use service::exit::Failure;

use crate::coordinator::Coordinator;
use crate::job;

mod local;

pub(crate) use local::{Local, failed};

/// A checkpoint argument, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Job {
        job: String,
        tag: Option<String>,
    },
    /// A path or URL, as typed.
    Path(String),
}

impl Place {
    /// What exists as a folder, or could only be a path, is one; anything else is a job.
    pub(crate) fn read(text: &str) -> Self {
        let is_path = text.contains(['/', '.']) || local::is_checkpoints(Path::new(text));
        if is_path {
            return Self::Path(text.to_owned());
        }
        match text.split_once(':') {
            Some((job, tag)) => Self::Job { job: job.to_owned(), tag: Some(tag.to_owned()) },
            None => Self::Job { job: text.to_owned(), tag: None },
        }
    }
}

/// Does `wanted` mean the checkpoint `tag` of `step`? `step-120` is `step-00000120`.
fn is_meant(wanted: &str, row: &CheckpointRow) -> bool {
    wanted == row.tag
        || wanted.strip_prefix("step-").and_then(|digits| digits.parse::<u64>().ok())
            == Some(row.step)
}

/// The checkpoint that a tag means; None means the newest.
pub(crate) fn choose<'a>(
    rows: &'a [CheckpointRow],
    tag: Option<&str>,
    whose: &str,
) -> Result<&'a CheckpointRow, Failure> {
    let newest = rows.iter().max_by_key(|row| row.step);
    let Some(newest) = newest else {
        return Err(Failure::new(ExitCode::Failed, anyhow!("{whose} has no checkpoint yet")));
    };
    match tag {
        None | Some("latest") => Ok(newest),
        Some("best") => Ok(rows.iter().min_by(|a, b| a.by_quality(b)).unwrap_or(newest)),
        Some(wanted) => rows.iter().find(|row| is_meant(wanted, row)).ok_or_else(|| {
            let tags: Vec<&str> = rows.iter().map(|row| row.tag.as_str()).collect();
            Failure::new(ExitCode::Failed, anyhow!("{whose} has no checkpoint `{wanted}`"))
                .hint(format!("it has {}; best and latest work too", tags.join(", ")))
        }),
    }
}

/// `--resume` of `submit`: the path as the workers see it.
pub(crate) async fn for_submit(
    coordinator: &mut Coordinator,
    text: &str,
) -> Result<PathBuf, Failure> {
    match Place::read(text) {
        // The workers may see folders that this machine does not: they check before they start.
        Place::Path(path) => match Local::open(&path)?.checkpoint(None) {
            Ok(folder) => Ok(folder),
            Err(_) => checkpoint::local_path(&path).map_err(failed),
        },
        Place::Job { job, tag } => {
            let id = job::find(coordinator, &job).await?;
            let rows = coordinator.checkpoints(&id).await?;
            let row = choose(&rows, tag.as_deref(), &format!("job {id}"))?;
            Ok(PathBuf::from(&row.path))
        }
    }
}

/// `--resume` of `run`: a checkpoint on this machine. A job is a folder of `output_dir`.
pub(crate) fn for_run(text: &str, output_dir: &Path) -> Result<PathBuf, Failure> {
    let found = match Place::read(text) {
        Place::Path(path) => Local::open(&path).and_then(|local| local.checkpoint(None)),
        Place::Job { job, tag } => job_folder(&job, output_dir)
            .and_then(|folder| Local::open(&folder.display().to_string()))
            .and_then(|local| local.checkpoint(tag.as_deref())),
    };
    let whole = found.and_then(|folder| Found::at(&folder).map_err(failed));
    // What a run is to start from is part of its configuration.
    whole
        .map(|found| found.path)
        .map_err(|failure| Failure { code: ExitCode::BadConfiguration, ..failure })
}

/// The folder of a job that ran here, by its id or a unique prefix.
fn job_folder(job: &str, output_dir: &Path) -> Result<PathBuf, Failure> {
    let entries = fs_err::read_dir(output_dir).map(|entries| {
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect::<Vec<_>>()
    });
    // No folder yet: no job has run here.
    let id = job::choose(job, &entries.unwrap_or_default()).map_err(|failure| {
        let error = failure.error.context(format!("look in {}", output_dir.display()));
        Failure { code: failure.code, error, hint: Some("give the checkpoint's path".to_owned()) }
    })?;
    Ok(output_dir.join(id.as_str()))
}

#[cfg(test)]
mod tests;
