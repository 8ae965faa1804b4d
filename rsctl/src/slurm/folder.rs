//! Where a job in an allocation keeps what must survive a requeue: `<output-dir>/.slurm/
//! <cluster>-<SLURM job>-<job name>` with the coordinator's data, the workers' state and the logs
//! of all of them. It is there exactly as long as the job is unfinished.

use std::io;
use std::path::{Path, PathBuf};

use common::exit::ExitCode;
use common::spec::JobSpec;
use service::exit::Failure;
use service::lock::FolderLock;

use crate::render;
use crate::slurm::allocation::Allocation;

const PARENT: &str = ".slurm";
const COORDINATOR: &str = "coordinator";
/// Of a job's name, in that of the folder.
const NAME_CHARS: usize = 60;

#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    lock: FolderLock,
    /// Whether an earlier life of this SLURM job has left its data.
    pub(crate) is_continued: bool,
}

impl Folder {
    /// The folder of this job in this allocation, locked. What a call before this one left is
    /// taken up only where SLURM has queued the job again.
    pub(crate) fn open(spec: &JobSpec, allocation: &Allocation) -> Result<Self, Failure> {
        let path = spec.job.output_dir.join(PARENT).join(name(&spec.job.name, allocation));
        let lock = FolderLock::acquire(&path, "folder", "--set job.name=NAME")?;
        let has_data = path.join(COORDINATOR).is_dir();
        if has_data && allocation.restarts == 0 {
            clear(&path).map_err(|error| {
                let what = format!("remove what an earlier call left in {}", path.display());
                Failure::new(ExitCode::Failed, anyhow::Error::new(error).context(what))
            })?;
            render::talk(format_args!(
                "an earlier call in this allocation did not end its job: this is a new one"
            ));
        }
        Ok(Self { path, lock, is_continued: has_data && allocation.restarts > 0 })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn coordinator(&self) -> PathBuf {
        self.path.join(COORDINATOR)
    }

    /// One folder for each node below it.
    pub(crate) fn workers(&self) -> PathBuf {
        self.path.join("workers")
    }

    /// The job has ended: nothing is to be continued.
    pub(crate) fn remove(self) {
        let Self { path, lock, .. } = self;
        // First: on NFS a file that is still open keeps its folder.
        drop(lock);
        if let Err(error) = fs_err::remove_dir_all(&path) {
            render::warning(format_args!("a folder is left: {error}"));
            return;
        }
        // Not empty while other SLURM jobs keep theirs in it.
        let _ = path.parent().map(fs_err::remove_dir);
    }
}

/// Removes everything but the lock.
fn clear(path: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs_err::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn name(job: &str, allocation: &Allocation) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain = |text: &str| -> String {
        text.chars().take(NAME_CHARS).map(|c| if is_plain(c) { c } else { '-' }).collect()
    };
    let cluster = allocation.cluster.as_deref().map(|cluster| plain(cluster) + "-");
    format!("{}{}-{}", cluster.unwrap_or_default(), allocation.job, plain(job))
}

#[cfg(test)]
mod tests;
