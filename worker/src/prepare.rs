//! Before a job's trainers start here: its uploads fetched, its inputs checked, its folder made and
//! the trainers' environment composed. Starts nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use common::spec::{JobSpec, Resume};
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
            | Self::CheckpointDir { source, .. } => matches!(
                source.kind(),
                // That is a file where a folder should be.
                AlreadyExists
                    | NotFound
                    | PermissionDenied
                    | NotADirectory
                    | IsADirectory
                    | ReadOnlyFilesystem
            ),
            Self::Spec { .. }
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
}

/// Checks and makes everything that the trainers of `order` need here.
pub(crate) async fn prepare(order: &StartTrainers, config: &Config) -> Result<Prepared, Error> {
    let worker = || config.name.clone();
    if !config.trainer.is_file() {
        let path = config.trainer.clone();
        return Err(Error::NoTrainer { worker: worker(), path });
    }
    if let Libtorch::Missing(why) = &config.libtorch {
        return Err(Error::NoLibtorch { worker: worker(), why: why.clone() });
    }
    let job_id = proto::convert::job_id(&order.job_id).map_err(|source| Error::Spec { source })?;
    let mut spec =
        proto::convert::spec(&order.spec_json).map_err(|source| Error::Spec { source })?;
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
    let job_toml = order.ranks.iter().any(|r| r.rank == 0).then(|| order.job_toml.clone());
    let blocking = {
        let (spec, run_dir, name) = (spec.clone(), run_dir.clone(), worker());
        let has_rank_0 = job_toml.is_some();
        // Disks can be slow and network disks can hang: not on a thread that others share.
        tokio::task::spawn_blocking(move || {
            check_inputs(&spec, &name)?;
            if has_rank_0 {
                check_checkpoint_dir(spec.checkpoint.dir.as_deref(), &name)?;
            }
            make_run_dir(&run_dir, job_toml.as_deref()).map_err(|source| Error::Output {
                path: run_dir,
                worker: name,
                source,
            })
        })
    };
    blocking.await.unwrap_or_else(|error| {
        let source = io::Error::other(error);
        Err(Error::Output { path: run_dir.clone(), worker: worker(), source })
    })?;
    let threads = spec.resources.threads_per_rank;
    let env = environment(std::env::vars_os(), &spec.job.env, threads);
    Ok(Prepared { spec_json: proto::convert::spec_json(&spec), run_dir, env })
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

/// glibc's allocator returns and re-faults libtorch's workspaces on every step; kept, a recurrent
/// model's step takes up to a quarter less. Above 2 GiB only the environment can say it: `mallopt`
/// takes an int.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "4000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "8000000000"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// What other launchers leave behind would be misread inside a trainer.
const LAUNCHER_LEFTOVERS: [&str; 8] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
];

/// Of our own variables the one that is for trainers.
const NCCL_LIBRARY: &str = "RUSTSPEED_NCCL_LIB";

/// The worker's environment without its own and other launchers' settings, then ours, then the
/// job's, which wins.
fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    job: &BTreeMap<String, String>,
    threads_per_rank: u32,
) -> Vec<(OsString, OsString)> {
    let is_kept = |key: &str| {
        (key == NCCL_LIBRARY || !key.starts_with("RUSTSPEED_"))
            && !LAUNCHER_LEFTOVERS.contains(&key)
    };
    let mut env: BTreeMap<OsString, OsString> =
        inherited.filter(|(key, _)| key.to_str().is_some_and(is_kept)).collect();
    let threads = threads_per_rank.to_string();
    let ours = [("OMP_NUM_THREADS", threads.as_str()), ("MKL_NUM_THREADS", &threads)];
    env.extend(ours.map(|(key, value)| (key.into(), value.into())));
    // A choice that the user made for the worker is the user's choice for its trainers.
    let unset = ALLOCATOR.iter().chain(&[("RUST_BACKTRACE", "1")]);
    for (key, value) in unset {
        env.entry(key.into()).or_insert_with(|| value.into());
    }
    env.extend(job.iter().map(|(key, value)| (key.into(), value.into())));
    env.into_iter().collect()
}

#[cfg(test)]
mod tests;
