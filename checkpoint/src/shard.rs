//! Shards: one safetensors file per rank, with the slices that the rank owns.
//!
//! A shard appears under its name only when all its bytes are synced, and its blake3 was taken
//! from the bytes in memory, not read back: what the disk changes later shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use common::ids::Generation;

use crate::disk::{self, CHUNK, Existing, Staged};
use crate::error::{Defect, Error};
use crate::fence::{Fence, Locked};
use crate::header::{self, MAX_HEADER};
use crate::manifest::{MANIFEST_FILE, ShardEntry};
use crate::sweep;
use crate::tensor::{SliceMeta, SliceProblem};

/// `rank-00000-of-00002.g7.safetensors`. The only file names that a manifest can list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ShardName {
    pub rank: u32,
    pub world: u32,
    pub generation: Generation,
}

/// A text that names no shard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no shard name such as `rank-00000-of-00002.g1.safetensors`")]
pub struct InvalidShardName {
    text: String,
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, world, generation } = self;
        write!(f, "rank-{rank:05}-of-{world:05}.g{generation}.safetensors")
    }
}

impl FromStr for ShardName {
    type Err = InvalidShardName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidShardName { text: text.chars().take(120).collect() };
        let parse = || {
            let rest = text.strip_prefix("rank-")?.strip_suffix(".safetensors")?;
            let (ranks, generation) = rest.split_once(".g")?;
            let (rank, world) = ranks.split_once("-of-")?;
            let generation = Generation(generation.parse().ok()?);
            Some(Self { rank: rank.parse().ok()?, world: world.parse().ok()?, generation })
        };
        // One spelling per name: what does not print as it was read is refused.
        parse()
            .filter(|name| name.rank < name.world && name.to_string() == text)
            .ok_or_else(invalid)
    }
}

impl TryFrom<String> for ShardName {
    type Error = InvalidShardName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ShardName> for String {
    fn from(name: ShardName) -> Self {
        name.to_string()
    }
}

/// A shard in memory, ready for a file or a stream; borrows the tensors' bytes.
#[derive(Debug)]
pub struct Encoded<'a> {
    name: ShardName,
    header: Vec<u8>,
    parts: Vec<&'a [u8]>,
    bytes: u64,
}

impl<'a> Encoded<'a> {
    /// Lays out the slices: wide types first, so that all data is aligned, else in their order.
    pub fn new(name: ShardName, slices: &[(SliceMeta, &'a [u8])]) -> Result<Self, Error> {
        let invalid = |problem| Error::InvalidSlice { file: name.to_string(), problem };
        let mut keys = std::collections::HashSet::with_capacity(slices.len());
        for (meta, bytes) in slices {
            meta.check().map_err(invalid)?;
            let (expected, found) = (meta.bytes(), bytes.len() as u64);
            if expected != found {
                let name = meta.name.clone();
                return Err(invalid(SliceProblem::Bytes { name, expected, found }));
            }
            let key = meta.key();
            if keys.contains(&key) {
                return Err(invalid(SliceProblem::Twice { key }));
            }
            keys.insert(key);
        }
        let mut order: Vec<_> = slices.iter().collect();
        order.sort_by_key(|(meta, _)| std::cmp::Reverse(meta.dtype.size()));
        let metas: Vec<_> = order.iter().map(|(meta, _)| meta).collect();
        let header = header::encode(&metas).map_err(invalid)?;
        if header.len() as u64 > MAX_HEADER {
            let (found, limit) = (header.len() as u64, MAX_HEADER);
            return Err(invalid(SliceProblem::Header { found, limit }));
        }
        let parts: Vec<&[u8]> = order.iter().map(|(_, bytes)| *bytes).collect();
        let bytes = header.len() as u64 + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(Self { name, header, parts, bytes })
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file's bytes in order, in pieces of at most 512 KiB.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let header = self.header.chunks(CHUNK);
        header.chain(self.parts.iter().flat_map(|part| part.chunks(CHUNK)))
    }

    /// Size and hash of the file, for who receives it as a stream.
    pub fn entry(&self) -> ShardEntry {
        let mut hasher = blake3::Hasher::new();
        self.chunks().for_each(|chunk| {
            hasher.update(chunk);
        });
        let blake3 = hasher.finalize().to_hex().to_string();
        ShardEntry { file: self.name, bytes: self.bytes, blake3 }
    }

    /// Writes the file whole, synced, and hashed on the way. `folder` is made where it is missing
    /// (its parent, the root, must be there). Refused as superseded once another attempt has the
    /// root: what that one has voted for is not replaced (A6), and no folder of ours stays.
    pub fn write(&self, folder: &Path, fence: &Fence) -> Result<ShardEntry, Error> {
        let mut staged = stage(folder, self.name, self.bytes, fence)?;
        for chunk in self.chunks() {
            staged.write(chunk)?;
        }
        let blake3 = staged.hash().to_hex().to_string();
        finish(staged, folder, fence)?;
        Ok(ShardEntry { file: self.name, bytes: self.bytes, blake3 })
    }
}

/// Writes the slices of one rank as a shard of `folder`; see [`Encoded::write`].
pub fn write(
    folder: &Path,
    name: ShardName,
    fence: &Fence,
    slices: &[(SliceMeta, &[u8])],
) -> Result<ShardEntry, Error> {
    Encoded::new(name, slices)?.write(folder, fence)
}

/// A shard that arrives as a stream, where its rank cannot write to the root itself. Dropped
/// before [`Incoming::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    staged: Staged,
    folder: PathBuf,
    expected: ShardEntry,
    fence: Fence,
}

impl Incoming {
    /// Starts the file that the sender described with [`Encoded::entry`], if the root is this
    /// attempt's.
    pub fn create(folder: &Path, expected: ShardEntry, fence: &Fence) -> Result<Self, Error> {
        let staged = stage(folder, expected.file, expected.bytes, fence)?;
        Ok(Self { staged, folder: folder.to_owned(), expected, fence: fence.clone() })
    }

    /// Appends; more than was announced is refused at once.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let total = self.staged.written() + bytes.len() as u64;
        if total > self.expected.bytes {
            return Err(self.differs(total));
        }
        self.staged.write(bytes)
    }

    /// Publishes the file if size and hash are what the sender had and the root is still this
    /// attempt's.
    pub fn finish(self) -> Result<ShardEntry, Error> {
        let found = self.staged.hash().to_hex();
        let written = self.staged.written();
        if written != self.expected.bytes || found.as_str() != self.expected.blake3 {
            return Err(self.differs(written));
        }
        finish(self.staged, &self.folder, &self.fence)?;
        Ok(self.expected)
    }

    fn differs(&self, found_bytes: u64) -> Error {
        Error::Transfer {
            file: self.expected.file.to_string(),
            expected_bytes: self.expected.bytes,
            expected: self.expected.blake3.clone(),
            found_bytes,
            found: self.staged.hash().to_hex().to_string(),
        }
    }
}

/// Begins a shard. Its folder comes to be past the fence, and with a file in it before the lock is
/// given back: who comes too late makes none, and one that is empty under the lock is nobody's.
fn stage(folder: &Path, name: ShardName, bytes: u64, fence: &Fence) -> Result<Staged, Error> {
    let root = folder.parent().unwrap_or(folder);
    let locked = Locked::take(root)?;
    locked.check(fence)?;
    // The commit makes the folder's own name durable; before it nobody needs what is in there.
    disk::ensure_folder(folder)?;
    refuse_committed(folder)?;
    let staged = Staged::empty(folder, &name.to_string(), bytes)?;
    drop(locked);
    staged.reserve()?;
    Ok(staged)
}

fn finish(mut staged: Staged, folder: &Path, fence: &Fence) -> Result<(), Error> {
    staged.sync()?;
    // Generations count within a job: another one that took the root over may have written, and
    // voted for, the same names since `stage`, or even have committed them. A commit and a raise
    // hold this lock, so from here on the shard is either there before them, or refused.
    let locked = Locked::take(folder.parent().unwrap_or(folder))?;
    if let Err(error) = locked.check(fence) {
        sweep::give_up(staged, folder, &locked);
        return Err(error);
    }
    refuse_committed(folder)?;
    // What it replaces is not committed: this rank's own earlier try at the same step, or what an
    // attempt that lost the root had left.
    staged.publish(Existing::Replace)?;
    drop(locked);
    disk::sync_folder(folder)
}

/// A manifest has the hashes of its shards: nothing may change them any more.
fn refuse_committed(folder: &Path) -> Result<(), Error> {
    if folder.join(MANIFEST_FILE).symlink_metadata().is_ok() {
        return Err(Error::AlreadyCommitted { path: folder.to_owned() });
    }
    Ok(())
}

/// Opens a shard that a manifest lists and checks its size.
pub(crate) fn open(folder: &Path, entry: &ShardEntry) -> Result<std::fs::File, Error> {
    let name = entry.file.to_string();
    let (file, found) = disk::open_plain(folder, &name)?;
    if found != entry.bytes {
        let defect = Defect::Size { file: name, expected: entry.bytes, found };
        return Err(Error::Defective { path: folder.to_owned(), defect });
    }
    Ok(file)
}

/// Reads a whole shard and compares its hash with the manifest's.
pub(crate) fn check_hash(folder: &Path, entry: &ShardEntry) -> Result<(), Error> {
    let file = open(folder, entry)?;
    let name = entry.file.to_string();
    let (_, found) =
        disk::hash_file(&file).map_err(|error| disk::read_error(folder, &name, error))?;
    if found.to_hex().as_str() == entry.blake3 {
        return Ok(());
    }
    let (expected, found) = (entry.blake3.clone(), found.to_hex().to_string());
    let defect = Defect::Hash { file: name, expected, found };
    Err(Error::Defective { path: folder.to_owned(), defect })
}
