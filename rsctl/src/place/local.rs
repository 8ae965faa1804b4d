//! Checkpoints on this machine.

use std::path::{Path, PathBuf};

use checkpoint::{MANIFEST_FILE, Root};
use common::exit::ExitCode;
use common::spec::Resume;
use service::exit::Failure;

/// The folder of a run that holds its checkpoints, unless the job says otherwise.
const FOLDER_OF_RUN: &str = "checkpoints";

/// What a path holds.
#[derive(Debug)]
pub(crate) enum Local {
    /// The folder of one checkpoint, whole or not.
    One(PathBuf),
    Many(Root),
}

/// Is this one checkpoint, a root that holds some, or the folder of a run?
pub(super) fn is_checkpoints(path: &Path) -> bool {
    let is_root = || {
        let is_checkpoint = |entry: fs_err::DirEntry| entry.path().join(MANIFEST_FILE).is_file();
        fs_err::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_checkpoint))
    };
    // An empty folder is no job either: its user is told that it is empty.
    let is_empty = || fs_err::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let is_one = path.join(MANIFEST_FILE).is_file();
    is_one || path.join(FOLDER_OF_RUN).is_dir() || is_root() || is_empty()
}

impl Local {
    /// A path or `file://` URL of a checkpoint, a root, or a run's folder.
    pub(crate) fn open(text: &str) -> Result<Self, Failure> {
        let path = checkpoint::local_path(text).map_err(failed)?;
        if path.join(MANIFEST_FILE).symlink_metadata().is_ok() {
            return Ok(Self::One(path));
        }
        let of_run = path.join(FOLDER_OF_RUN);
        Ok(Self::Many(Root::at(if of_run.is_dir() { &of_run } else { &path })))
    }

    /// The folder of the one checkpoint that is meant; of several, the newest or the one with
    /// `tag`.
    pub(crate) fn checkpoint(self, tag: Option<&str>) -> Result<PathBuf, Failure> {
        let root = match self {
            Self::One(folder) => return Ok(folder),
            Self::Many(root) => root,
        };
        let wanted = match tag {
            None | Some("latest") => Resume::Latest,
            Some("best") => Resume::Best,
            Some(tag) => wanted(tag)?,
        };
        let candidates = root.resolve(&wanted).map_err(failed)?;
        candidates.candidates().first().map(|found| found.path.clone()).ok_or_else(|| {
            let root = root.path().display();
            Failure::new(ExitCode::Failed, anyhow::anyhow!("no whole checkpoint in {root}"))
        })
    }
}

/// `step-120`, `step-00000120`, `epoch-3`.
fn wanted(tag: &str) -> Result<Resume, Failure> {
    let number = |prefix: &str| tag.strip_prefix(prefix).and_then(|digits| digits.parse().ok());
    match (number("step-"), number("epoch-")) {
        (Some(step), _) => Ok(Resume::Step(step)),
        (_, Some(epoch)) => Ok(Resume::Epoch(epoch)),
        (None, None) => {
            let error = anyhow::anyhow!("`{tag}` is no tag of a checkpoint");
            Err(Failure::new(ExitCode::Usage, error)
                .hint("write step-120, epoch-3, best or latest"))
        }
    }
}

pub(crate) fn failed(error: checkpoint::Error) -> Failure {
    Failure::new(ExitCode::Failed, error)
}
