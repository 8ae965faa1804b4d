//! Clears away what crashed attempts left. Never touches a file that a manifest lists, nor one of
//! the generation that sweeps.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use common::ids::Generation;

use crate::disk::{self, Staged, failed};
use crate::error::{Defect, Error};
use crate::fence::{Fence, Locked};
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::probe;
use crate::root::{Root, step_of};
use crate::shard::ShardName;

impl Root {
    /// Removes the unfinished saves of other generations (rank 0, after it raised the generation):
    /// fenced out, they can never be committed. Returns what was removed.
    pub fn sweep(&self, fence: &Fence) -> Result<Vec<PathBuf>, Error> {
        let locked = Locked::take(self.path())?;
        locked.check(fence)?;
        let mut removed = Vec::new();
        for entry in self.entries()? {
            let is_leftover =
                probe::is_probe(&entry.name) || disk::temporary_of(&entry.name).is_some();
            if is_leftover && !entry.is_folder && disk::remove_file(&entry.path)? {
                removed.push(entry.path);
            } else if entry.is_folder && step_of(&entry.name).is_some() {
                let is_old = |generation| generation != fence.generation;
                removed.append(&mut clear_uncommitted(&entry.path, is_old)?);
            }
        }
        Ok(removed)
    }
}

/// Removes the shards of chosen generations that no manifest lists, temporary files of theirs, and
/// the folder when it is empty. Other files stay: they are not ours.
pub(crate) fn clear_uncommitted(
    folder: &Path,
    is_chosen: impl Fn(Generation) -> bool,
) -> Result<Vec<PathBuf>, Error> {
    let listed: Option<HashSet<ShardName>> = match Manifest::read(folder) {
        Ok(manifest) => Some(manifest.shards.iter().map(|shard| shard.file).collect()),
        Err(Error::Defective { defect: Defect::NoManifest, .. }) => None,
        // No rank got as far as its folder, or another process was faster.
        Err(Error::NoFolder { .. }) => return Ok(Vec::new()),
        // A damaged manifest may still help a person: nothing in its folder is touched.
        Err(Error::Defective { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let is_listed = |name: &ShardName| listed.as_ref().is_some_and(|all| all.contains(name));
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        let goes = match disk::temporary_of(&name) {
            Some(MANIFEST_FILE) => listed.is_none(),
            Some(target) => target.parse().is_ok_and(|s: ShardName| is_chosen(s.generation)),
            None => {
                name.parse().is_ok_and(|s: ShardName| is_chosen(s.generation) && !is_listed(&s))
            }
        };
        if goes && disk::remove_file(&path)? {
            removed.push(path);
        }
    }
    if listed.is_none() && remove_if_empty(folder)? {
        removed.push(folder.to_owned());
    }
    Ok(removed)
}

/// Leaves nothing of a save that the fence has overtaken. Whichever of its ranks comes last finds
/// the folder empty; a successor that saves the same step has a file in it. Without locks that one
/// may be about to make its first, and the folder stays.
pub(crate) fn give_up(staged: Staged, folder: &Path, locked: &Locked<'_>) {
    drop(staged);
    if locked.excludes_others() {
        // An empty folder is no checkpoint: that this attempt lost the root is what must be told.
        let _ = remove_if_empty(folder);
    }
}

/// True if the folder is gone.
pub(crate) fn remove_if_empty(folder: &Path) -> Result<bool, Error> {
    match std::fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(failed("remove", folder)(error)),
    }
}
