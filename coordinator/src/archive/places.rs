//! Where things are in the data folder: `metrics/JOB`, and a folder for each rank's log of each
//! generation. The first generation's stand directly in `logs/JOB`, as they did before there were
//! restarts.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use common::ids::JobId;

/// One rank's log of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogKey {
    pub(crate) generation: u64,
    pub(crate) rank: u32,
}

pub(super) fn metrics_folder(data: &Path, job_id: &JobId) -> PathBuf {
    data.join("metrics").join(job_id.as_str())
}

pub(super) fn logs_folder(data: &Path, job_id: &JobId) -> PathBuf {
    data.join("logs").join(job_id.as_str())
}

/// Jobs of which there is a folder. What is not named as a job is not ours.
pub(super) fn jobs(data: &Path) -> io::Result<BTreeSet<JobId>> {
    let mut jobs = BTreeSet::new();
    for kind in ["metrics", "logs"] {
        for entry in fs_err::read_dir(data.join(kind))? {
            let entry = entry?;
            let name = entry.file_name();
            let job_id = name.to_str().and_then(|name| name.parse::<JobId>().ok());
            jobs.extend(job_id.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())));
        }
    }
    Ok(jobs)
}

fn generation_folder(data: &Path, job_id: &JobId, generation: u64) -> PathBuf {
    let logs = logs_folder(data, job_id);
    if generation <= 1 { logs } else { logs.join(format!("generation-{generation}")) }
}

pub(super) fn log_folder(data: &Path, job_id: &JobId, key: LogKey) -> PathBuf {
    generation_folder(data, job_id, key.generation).join(format!("rank-{}", key.rank))
}

/// Every log of a job, by generation and rank.
pub(super) fn logs(data: &Path, job_id: &JobId) -> io::Result<BTreeSet<LogKey>> {
    let mut keys = BTreeSet::new();
    for generation in generations(data, job_id)? {
        let folder = generation_folder(data, job_id, generation);
        let ranks = numbers(&folder, "rank-")?;
        let ranks = ranks.into_iter().filter_map(|rank| u32::try_from(rank).ok());
        keys.extend(ranks.map(|rank| LogKey { generation, rank }));
    }
    Ok(keys)
}

/// Generations of which there may be logs.
pub(super) fn generations(data: &Path, job_id: &JobId) -> io::Result<BTreeSet<u64>> {
    let mut generations = numbers(&logs_folder(data, job_id), "generation-")?;
    generations.insert(1);
    Ok(generations)
}

/// Removes the logs of a generation after the first, if there are any.
pub(super) fn remove_generation(data: &Path, job_id: &JobId, generation: u64) -> io::Result<()> {
    debug_assert!(generation > 1, "the first generation's folder holds all the others");
    match fs_err::remove_dir_all(generation_folder(data, job_id, generation)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The numbers `N` of the entries `<prefix>N` of a folder, which need not exist.
fn numbers(folder: &Path, prefix: &str) -> io::Result<BTreeSet<u64>> {
    let listed = match fs_err::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let mut found = BTreeSet::new();
    for entry in listed {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|n| n.strip_prefix(prefix)?.parse::<u64>().ok()));
    }
    Ok(found)
}
