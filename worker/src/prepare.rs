//! Before a job's trainers start here: its uploads fetched, its inputs checked, its folder made and
//! the trainers' environment composed; or its command found. Starts nothing.

mod command;
mod environment;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use common::spec::{Command, JobSpec, Resume};
use fs_err as fs;
use proto::v1::StartTrainers;

use crate::blobs;
use crate::config::Config;
use crate::libtorch::Libtorch;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read the job that the coordinator sent")]
    Spec {
        #[source]
        source: proto::convert::Error,
    },
    #[error("worker `{worker}` has no trainer program at `{}`", .path.display())]
    NoTrainer { worker: String, path: PathBuf },
    #[error("worker `{worker}` has no libtorch for its trainers: {why}")]
    NoLibtorch { worker: String, why: String },
    #[error("{key} `{}` cannot be read on worker `{worker}`", .path.display())]
    Input {
        key: &'static str,
        path: PathBuf,
        worker: String,
        #[source]
        source: io::Error,
    },
    #[error("output folder `{}` cannot be written on worker `{worker}`", .path.display())]
    Output {
        path: PathBuf,
        worker: String,
        #[source]
        source: io::Error,
    },
    #[error("checkpoint.dir `{}` cannot be written on worker `{worker}`", .path.display())]
    CheckpointDir {
        path: PathBuf,
        worker: String,
        #[source]
        source: io::Error,
    },
    #[error("worker `{worker}` runs no commands: it was started without --allow-commands")]
    NoCommands { worker: String },
    #[error(
        "job.env.{variable} has the trainer load a library of the job's, and worker `{worker}` runs no \
         code that jobs bring: it was started without --allow-commands"
    )]
    NoLibraries { variable: String, worker: String },
    #[error("job.working-dir `{}` cannot be entered on worker `{worker}`", .path.display())]
    WorkingDir {
        path: PathBuf,
        worker: String,
        #[source]
        source: io::Error,
    },
    #[error("worker `{worker}` cannot run `{program}`, the program of job.command: {why}")]
    Program { program: String, worker: String, why: String },
    #[error("upload of `{path}` for worker `{worker}`")]
    Upload {
        path: String,
        worker: String,
        #[source]
        source: blobs::Error,
    },
}

impl Error {
    /// Whether the job itself asks for what cannot be; such a job is never retried.
    pub(crate) fn is_configuration(&self) -> bool {
        use io::ErrorKind::{
            AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied,
            ReadOnlyFilesystem,
        };
        match self {
            Self::Input { source, .. }
            | Self::Output { source, .. }
            | Self::CheckpointDir { source, .. }
            | Self::WorkingDir { source, .. } => matches!(
                source.kind(),
                // That is a file where a folder should be.
                AlreadyExists
                    | NotFound
                    | PermissionDenied
                    | NotADirectory
                    | IsADirectory
                    | ReadOnlyFilesystem
            ),
            Self::Program { .. } | Self::NoLibraries { .. } => true,
            Self::Spec { .. }
            | Self::NoCommands { .. }
            | Self::NoTrainer { .. }
            | Self::NoLibtorch { .. }
            | Self::Upload { .. } => false,
        }
    }
}

/// What trainers of this job share on this node.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) spec_json: String,
    pub(crate) run_dir: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// That each rank computes with.
    pub(crate) threads: u32,
    pub(crate) runs: Runs,
}

/// What a rank's process is.
#[derive(Debug)]
pub(crate) enum Runs {
    Trainer,
    Command(FoundCommand),
}

/// A command that can be started here.
#[derive(Debug)]
pub(crate) struct FoundCommand {
    pub(crate) command: Command,
    /// Where its program is.
    pub(crate) program: PathBuf,
    pub(crate) max_restarts: u32,
    /// Said at its start.
    pub(crate) notes: Vec<String>,
}

/// Checks and makes everything that the trainers of `order` need here.
pub(crate) async fn prepare(order: &StartTrainers, config: &Config) -> Result<Prepared, Error> {
    let spec = proto::convert::spec(&order.spec_json).map_err(|source| Error::Spec { source })?;
    match spec.command.clone() {
        Some(command) => command::prepare(order, spec, command, config).await,
        None => prepare_trainers(order, spec, config).await,
    }
}

async fn prepare_trainers(
    order: &StartTrainers,
    mut spec: JobSpec,
    config: &Config,
) -> Result<Prepared, Error> {
    let worker = || config.name.clone();
    if let Some(variable) = spec.library_variable().filter(|_| !config.allow_commands) {
        return Err(Error::NoLibraries { variable: variable.to_owned(), worker: worker() });
    }
    if !config.trainer.is_file() {
        let path = config.trainer.clone();
        return Err(Error::NoTrainer { worker: worker(), path });
    }
    if let Libtorch::Missing(why) = &config.libtorch {
        return Err(Error::NoLibtorch { worker: worker(), why: why.clone() });
    }
    let job_id = proto::convert::job_id(&order.job_id).map_err(|source| Error::Spec { source })?;
    for (path, hash) in &order.uploads {
        let original = Path::new(path);
        let fetching = blobs::local_path(hash, original, &config.state_dir, &config.master);
        let local = fetching.await.map_err(|source| Error::Upload {
            path: path.clone(),
            worker: worker(),
            source,
        })?;
        replace_path(&mut spec, original, &local);
    }
    let run_dir = spec.job.output_dir.join(job_id.as_str());
    let job_toml = has_rank_0(order).then(|| order.job_toml.clone());
    let checking = {
        let (spec, run_dir, name) = (spec.clone(), run_dir.clone(), worker());
        let has_rank_0 = job_toml.is_some();
        move || {
            check_inputs(&spec, &name)?;
            if has_rank_0 {
                check_checkpoint_dir(spec.checkpoint.dir.as_deref(), &name)?;
            }
            make_run_dir(&run_dir, job_toml.as_deref()).map_err(|source| Error::Output {
                path: run_dir,
                worker: name,
                source,
            })
        }
    };
    blocking(&run_dir, &config.name, checking).await?;
    let threads = spec.resources.threads_per_rank;
    let env =
        environment::of_trainers(std::env::vars_os(), &spec.job.env, threads, &config.network);
    let spec_json = proto::convert::spec_json(&spec);
    Ok(Prepared { spec_json, run_dir, env, threads, runs: Runs::Trainer })
}

fn has_rank_0(order: &StartTrainers) -> bool {
    order.ranks.iter().any(|rank| rank.rank == 0)
}

/// Disks can be slow and network disks can hang: not on a thread that others share.
async fn blocking<T: Send + 'static>(
    run_dir: &Path,
    worker: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let (path, worker) = (run_dir.to_owned(), worker.to_owned());
        Err(Error::Output { path, worker, source: io::Error::other(error) })
    })
}

/// Every input path of a job, with the key that names it.
fn inputs(spec: &mut JobSpec) -> Vec<(&'static str, &mut PathBuf)> {
    let mut inputs = Vec::new();
    if let Some(path) = spec.data.source.path_mut() {
        inputs.push(("data.path", path));
    }
    if let Some(path) = spec.model.init_from_mut() {
        inputs.push(("model.init-from", path));
    }
    if let Resume::Path(path) = &mut spec.checkpoint.resume {
        inputs.push(("checkpoint.resume", path));
    }
    inputs
}

fn replace_path(spec: &mut JobSpec, from: &Path, to: &Path) {
    for (_, path) in inputs(spec) {
        if path == from {
            to.clone_into(path);
        }
    }
}

fn check_inputs(spec: &JobSpec, worker: &str) -> Result<(), Error> {
    for (key, path) in inputs(&mut spec.clone()) {
        let is_folder_right = key == "checkpoint.resume";
        let readable = match std::fs::metadata(&*path) {
            Ok(found) if found.is_dir() && is_folder_right => std::fs::read_dir(&*path).map(drop),
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => std::fs::File::open(&*path).map(drop),
            Err(error) => Err(error),
        };
        // Not fs_err: the error here names key, path and node already.
        readable.map_err(|source| Error::Input {
            key,
            path: path.clone(),
            worker: worker.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Rank 0's node alone must be able to write there: where the others cannot, it writes for them.
/// The folder is made, and a file in it, because permissions alone do not tell (read-only mounts,
/// root, quotas).
fn check_checkpoint_dir(dir: Option<&str>, worker: &str) -> Result<(), Error> {
    let Some(dir) = dir else { return Ok(()) };
    let path = PathBuf::from(dir.strip_prefix("file://").unwrap_or(dir));
    let trial = path.join(format!(".trial-{}", std::process::id()));
    fs::create_dir_all(&path)
        .and_then(|()| fs::write(&trial, b"trial"))
        .and_then(|()| fs::remove_file(&trial))
        .map_err(|source| Error::CheckpointDir { path, worker: worker.to_owned(), source })
}

fn make_run_dir(run_dir: &Path, job_toml: Option<&str>) -> io::Result<()> {
    fs::create_dir_all(run_dir.join("logs"))?;
    match job_toml {
        Some(text) => service::files::replace(&run_dir.join("job.toml"), text.as_bytes()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
