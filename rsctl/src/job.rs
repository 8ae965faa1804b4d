//! From what a user types for a job - a file with its flags, or an id - to what is meant.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use common::exit::ExitCode;
use common::ids::JobId;
use common::jobfile::{self, InvalidOverride, Loaded, Mistakes, Override};
use common::spec::JobSpec;
use common::status::JobStatus;
use service::exit::Failure;

use crate::coordinator::{Coordinator, JobFilter};
use crate::hosts::{self, Chosen, HostArgs};

/// The flags of every command that reads a job file.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JobArgs {
    /// Set a key of the job: V is TOML, or text where it is none; applied last, may repeat
    #[arg(long = "set", value_name = "KEY=V")]
    pub(crate) set: Vec<String>,
    /// Set an environment variable of every trainer (NCCL_DEBUG=INFO); may repeat
    #[arg(long = "env", value_name = "NAME=V")]
    pub(crate) env: Vec<String>,
    /// Train on N slots (GPUs or cores), whatever the job file says
    #[arg(long, value_name = "N", conflicts_with = "num_gpus",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) gpus: Option<u32>,
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    /// Unknown or ignored keys of the DeepSpeed configuration are errors too
    #[arg(long)]
    pub(crate) strict: bool,
}

/// A job file, read and right.
#[derive(Debug, Clone)]
pub(crate) struct JobFile {
    pub(crate) loaded: Loaded,
    /// As the user wrote it.
    pub(crate) text: String,
}

/// Why there is no job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read job file")]
    Read(#[source] std::io::Error),
    #[error("find the current folder")]
    CurrentFolder(#[source] std::io::Error),
    #[error(transparent)]
    Override(#[from] InvalidOverride),
    #[error(transparent)]
    Hosts(#[from] hosts::Error),
    #[error("{file} has {}:{}", count(.mistakes), list(.mistakes))]
    Mistakes { file: String, mistakes: Mistakes },
}

/// What a coordinator may want to hear from who has this job's programs run.
pub(crate) fn command_secret(spec: &JobSpec) -> String {
    if spec.brings_code() { known_secret() } else { String::new() }
}

/// [`command_secret`] where the coordinator alone knows what the job runs. No flag: command lines are
/// everybody's to read.
pub(crate) fn known_secret() -> String {
    std::env::var("RUSTSPEED_COMMAND_SECRET").unwrap_or_default()
}

/// A program of one's own has checkpoints of its own.
pub(crate) fn refuse_resume(spec: &JobSpec) -> Result<(), Failure> {
    if spec.command.is_none() {
        return Ok(());
    }
    let error = anyhow::anyhow!("--resume is for our trainer, and the job runs job.command");
    let hint = "tell the program itself where to go on";
    Err(Failure::new(ExitCode::Usage, error).hint(hint))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Hosts(error) => (error.exit_code(), error.hint()),
            Error::Read(_) => (
                ExitCode::BadConfiguration,
                Some("`rsctl init timeseries` writes a job file to start from"),
            ),
            Error::CurrentFolder(_) => (ExitCode::Failed, None),
            Error::Override(_) => (ExitCode::Usage, None),
            Error::Mistakes { .. } => (ExitCode::BadConfiguration, None),
        };
        let hint = match &error {
            Error::Mistakes { .. } => Some(format!("see {}", common::help::CONFIGURATION)),
            _ => hint.map(str::to_owned),
        };
        Self { code, hint, error: error.into() }
    }
}

fn count(mistakes: &Mistakes) -> String {
    match mistakes.mistakes.len() {
        1 => "a mistake".to_owned(),
        n => format!("{n} mistakes"),
    }
}

fn list(mistakes: &Mistakes) -> String {
    mistakes.mistakes.iter().fold(String::new(), |mut text, mistake| {
        let _ = write!(text, "\n  {mistake}");
        text
    })
}

impl JobArgs {
    /// Reads, checks and completes the job; nothing is printed.
    pub(crate) fn load(&self, file: &Path) -> Result<JobFile, Error> {
        self.load_with(file, &[])
    }

    /// [`Self::load`] with a command's own overrides before those of `--set`.
    pub(crate) fn load_with(&self, file: &Path, more: &[Override]) -> Result<JobFile, Error> {
        let text = read_regular(file).map_err(Error::Read)?;
        let caller_dir = std::env::current_dir().map_err(Error::CurrentFolder)?;
        let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        let base_dir = folder.map_or_else(|| caller_dir.clone(), |parent| caller_dir.join(parent));
        let name = file.display().to_string();
        let chosen = self.hosts.choose()?;
        let overrides = self.overrides(more, chosen.as_ref())?;
        let input = jobfile::Input {
            name: &name,
            text: &text,
            base_dir: &base_dir,
            caller_dir: &caller_dir,
            overrides: &overrides,
            strict: self.strict,
            read: &read_regular,
            variable: &|name| std::env::var(name).ok(),
        };
        let mut loaded = jobfile::load(&input)
            .map_err(|mistakes| Error::Mistakes { file: name.clone(), mistakes })?;
        loaded.warnings.extend(chosen.iter().flat_map(Chosen::warnings));
        Ok(JobFile { loaded, text })
    }

    fn overrides(
        &self,
        more: &[Override],
        chosen: Option<&Chosen>,
    ) -> Result<Vec<Override>, Error> {
        let world = |gpus: u32, flag: &str| {
            Override::flag("resources.world-size", i64::from(gpus), &format!("{flag} {gpus}"))
        };
        let gpus = self.gpus.map(|gpus| world(gpus, "--gpus"));
        // With a hostfile it is the slots of each host.
        let num_gpus = self.hosts.filter.num_gpus.filter(|_| chosen.is_none());
        let num_gpus = num_gpus.map(|gpus| world(gpus.get(), "--num-gpus"));
        let hosts = match chosen {
            Some(chosen) => Some(Override::hosts(&chosen.hosts()?, &chosen.flags)),
            None => None,
        };
        let gpus = gpus.or(num_gpus).into_iter().chain(hosts);
        let env = self.env.iter().map(|text| Override::env(text));
        let set = self.set.iter().map(|text| Override::set(text));
        let all = more.iter().cloned().chain(gpus).map(Ok).chain(env).chain(set);
        Ok(all.collect::<Result<_, InvalidOverride>>()?)
    }
}

/// No job file or DeepSpeed configuration comes near it.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The text of a regular file of a sane size: a pipe or a device could keep us reading for ever.
pub(crate) fn read_regular(path: &Path) -> io::Result<String> {
    // Looked at before it is opened: opening a pipe waits for its writer.
    if !fs_err::metadata(path)?.is_file() {
        let message = format!("`{}` is not a regular file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut text = String::new();
    fs_err::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let limit = MAX_FILE_BYTES >> 20;
        let message = format!("`{}` is larger than {limit} MiB", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(text)
}

/// Inputs of a job that must exist where a trainer runs: the key and the path.
pub(crate) fn inputs(spec: &common::spec::JobSpec) -> Vec<(&'static str, &PathBuf)> {
    let mut inputs = Vec::new();
    if let Some(path) = spec.data.source.path() {
        inputs.push(("data.path", path));
    }
    if let Some(path) = spec.model.init_from() {
        inputs.push(("model.init-from", path));
    }
    inputs
}

/// The job that `text` means: its id, or a prefix that only one job has.
pub(crate) async fn find(coordinator: &mut Coordinator, text: &str) -> Result<JobId, Failure> {
    let exact = text.parse::<JobId>();
    let filter = JobFilter { prefix: text.to_owned(), ..JobFilter::default() };
    let mut ids = ids(coordinator, &filter).await?;
    if ids.is_empty() {
        // For the ones that may have been meant.
        ids = self::ids(coordinator, &JobFilter::default()).await?;
    }
    match exact {
        Ok(id) if ids.contains(&id) => Ok(id),
        _ => choose(text, &ids),
    }
}

async fn ids(coordinator: &mut Coordinator, filter: &JobFilter) -> Result<Vec<JobId>, Failure> {
    Ok(coordinator.jobs(filter).await?.into_iter().map(|row| row.job_id).collect())
}

/// Refuses a rank that the job does not have: an empty answer would say that it was silent.
pub(crate) async fn check_rank(
    coordinator: &mut Coordinator,
    id: &JobId,
    rank: u32,
) -> Result<(), Failure> {
    let status = coordinator.job(id).await?;
    match no_such_rank(&status, rank, None) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Of this attempt, or of any: a later one may have fewer. A job that has not been placed yet may
/// still get any number of ranks.
pub(crate) fn no_such_rank(status: &JobStatus, rank: u32, attempt: Option<u32>) -> Option<Failure> {
    let is_meant = |number: u32| attempt.is_none_or(|attempt| attempt == number);
    let meant = status.attempts.iter().filter(|of| is_meant(of.attempt.0));
    let world = meant.map(|of| of.world_size).max().unwrap_or(0);
    if world == 0 || rank < world {
        return None;
    }
    let ranks = match world {
        1 => "rank 0 only".to_owned(),
        _ => format!("ranks 0 to {}", world - 1),
    };
    let job = &status.row.job_id;
    let whose = attempt.map_or(String::new(), |attempt| format!("attempt {attempt} of "));
    let error = anyhow::anyhow!("--rank {rank}: {whose}job {job} has {ranks}");
    Some(Failure::new(ExitCode::Usage, error))
}

/// The only job whose id starts with `text`.
pub(crate) fn choose(text: &str, ids: &[JobId]) -> Result<JobId, Failure> {
    let matching: Vec<&JobId> = ids.iter().filter(|id| id.as_str().starts_with(text)).collect();
    let no_job = || Failure::new(ExitCode::Failed, anyhow::anyhow!("there is no job `{text}`"));
    match matching.as_slice() {
        _ if text.is_empty() => Err(no_job()),
        [only] => Ok((*only).clone()),
        [] => {
            let near = nearest(text, ids);
            let hint = if near.is_empty() {
                "`rsctl jobs` lists them".to_owned()
            } else {
                format!("the nearest are {}", near.join(", "))
            };
            Err(no_job().hint(hint))
        }
        several => {
            let shown: Vec<&str> = several.iter().take(5).map(|id| id.as_str()).collect();
            let error = anyhow::anyhow!("`{text}` could be any of {} jobs", several.len());
            Err(Failure::new(ExitCode::Failed, error)
                .hint(format!("type more of one of {}", shown.join(", "))))
        }
    }
}

/// At most three ids that `text` may have meant, best first.
fn nearest<'a>(text: &str, ids: &'a [JobId]) -> Vec<&'a str> {
    // Below this two names have little in common.
    const SIMILAR: f64 = 0.7;
    let mut near: Vec<(f64, &str)> = ids
        .iter()
        .map(|id| (strsim::jaro_winkler(text, id.as_str()), id.as_str()))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    near.into_iter().take(3).map(|(_, id)| id).collect()
}
