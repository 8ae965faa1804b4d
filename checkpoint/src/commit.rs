//! The moment at which a checkpoint comes to be: its manifest gets its name.

use crate::disk::{self, Existing, Staged};
use crate::error::Error;
use crate::fence::{Fence, Locked};
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::root::{Found, Root};
use crate::shard;
use crate::sweep;

impl Root {
    /// Publishes a checkpoint whose shards all ranks wrote (rank 0, the last step of a save).
    ///
    /// Returns only when the checkpoint outlives a loss of power (A14). Never replaces one: a
    /// committed step is [`Error::AlreadyCommitted`]. A generation that is not the root's is
    /// [`Error::Superseded`] and changes nothing (A4, A6).
    pub fn commit(&self, manifest: &Manifest) -> Result<Found, Error> {
        let folder = self.folder(manifest.step);
        let refused = |defect| Error::Defective { path: folder.clone(), defect };
        let bytes = manifest.to_bytes().map_err(refused)?;
        for entry in &manifest.shards {
            shard::open(&folder, entry)?;
        }
        // The shards and their names are durable: each rank votes after its own sync.
        let mut staged = Staged::create(&folder, MANIFEST_FILE, bytes.len() as u64)?;
        staged.write(&bytes)?;

        let locked = Locked::take(self.path())?;
        let mine = Fence { job_id: manifest.job_id.clone(), generation: manifest.generation };
        if let Err(error) = locked.check(&mine) {
            sweep::give_up(staged, &folder, &locked);
            return Err(error);
        }
        staged.publish(Existing::Refuse)?;
        disk::sync_folder(&folder)?;
        disk::sync_folder(self.path())?;
        drop(locked);
        Ok(Found::new(&folder, manifest))
    }

    /// Removes what this attempt wrote for a step that it could not commit, so that one failed
    /// save does not keep the disk full. A committed checkpoint is not touched.
    pub fn discard(&self, step: u64, fence: &Fence) -> Result<(), Error> {
        let folder = self.folder(step);
        let locked = Locked::take(self.path())?;
        locked.check(fence)?;
        let is_mine = |generation| generation == fence.generation;
        sweep::clear_uncommitted(&folder, is_mine).map(|_| ())
    }
}
