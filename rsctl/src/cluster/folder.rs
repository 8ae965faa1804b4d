//! The temporary folder of a private cluster. It is locked while its rsctl lives, so that a later
//! one can remove what a killed one left.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use service::lock::FolderLock;

use crate::cluster::Error;

const PREFIX: &str = "rsctl-run-";
/// A folder is made before it is locked, and daemons that lost their rsctl still write a moment.
const LEFT_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Folder {
    // The lock goes first: its file lies in the folder.
    _lock: FolderLock,
    folder: TempDir,
}

impl Folder {
    /// Makes a folder below `parent`, after removing those that nobody holds any more.
    pub(crate) fn create(parent: &Path) -> Result<Self, Error> {
        sweep(parent);
        let folder =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(Error::Folder)?;
        let lock = lock(folder.path()).map_err(|error| Error::Folder(io::Error::other(error)))?;
        Ok(Self { _lock: lock, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn lock(folder: &Path) -> Result<FolderLock, service::lock::Error> {
    FolderLock::acquire(folder, "temporary folder", "TMPDIR")
}

/// Best effort: what cannot be looked at or removed stays.
fn sweep(parent: &Path) {
    let Ok(entries) = fs_err::read_dir(parent) else { return };
    let user = nix::unistd::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_named_so = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        if is_named_so && is_left(&metadata, user) && lock(&entry.path()).is_ok() {
            // Another rsctl may be removing it at this moment.
            let _ = fs_err::remove_dir_all(entry.path());
        }
    }
}

/// A folder of this user, and old. Others may make folders of that name in a shared `/tmp`: even a root
/// user's rsctl touches nothing in those.
fn is_left(metadata: &Metadata, user: u32) -> bool {
    let is_old =
        metadata.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age >= LEFT_AFTER));
    metadata.is_dir() && metadata.uid() == user && is_old
}

#[cfg(test)]
mod tests;
