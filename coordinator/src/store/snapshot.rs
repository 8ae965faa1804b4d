//! Snapshots as files beside sled, so that a store that cannot be opened is not the end.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::store::frame::{self, FrameError};

/// One to use, and older ones in case it turns out to be unreadable.
const KEPT: usize = 3;

const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".bin";

#[derive(Debug)]
pub(super) struct Snapshot {
    /// The last event that it contains.
    pub(super) seq: u64,
    pub(super) state: Vec<u8>,
}

/// Where a snapshot is to be written, by any thread.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) folder: PathBuf,
    /// The last event that it contains.
    pub(super) seq: u64,
}

/// A snapshot that is there.
#[derive(Debug)]
pub(crate) struct Written {
    pub(super) seq: u64,
    pub(super) proof: Vec<u8>,
    /// The oldest that is left: events up to it are not needed any more.
    pub(super) oldest: u64,
}

impl Place {
    /// Writes a snapshot whole or not at all, and removes the oldest.
    pub(crate) fn write(self, state: &[u8]) -> io::Result<Written> {
        let Self { folder, seq } = self;
        let path = folder.join(format!("{PREFIX}{seq:020}{SUFFIX}"));
        service::files::replace(&path, &frame::encode_whole(state))?;
        let all = list(&folder)?;
        let (old, kept) = all.split_at(all.len().saturating_sub(KEPT));
        for (_, path) in old {
            fs::remove_file(path)?;
        }
        let oldest = kept.first().map_or(0, |(seq, _)| *seq);
        Ok(Written { seq, proof: proof(state), oldest })
    }
}

/// What tells a snapshot: its length and crc32c.
pub(super) fn proof(state: &[u8]) -> Vec<u8> {
    let mut proof = (state.len() as u64).to_be_bytes().to_vec();
    proof.extend(crc32c::crc32c(state).to_be_bytes());
    proof
}

/// Removes what writers that were killed have left of their snapshots.
pub(super) fn remove_partial(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let is_partial = |name: &str| name.starts_with(PREFIX) && name.ends_with(".tmp");
        if name.to_str().is_some_and(is_partial) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

/// Snapshots by their number, oldest first.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let Some(seq) = number.and_then(|n| n.parse().ok()) {
            all.push((seq, entry.path()));
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// What a search for a usable snapshot found.
#[derive(Debug)]
pub(super) enum Newest {
    Found(Snapshot),
    None,
    /// Whole, and written by a newer version.
    Newer(u16),
}

/// The newest snapshot of at most `up_to` that is whole and `is_known`; others are passed over.
pub(super) fn newest(
    folder: &Path,
    up_to: u64,
    is_known: impl Fn(u64, &[u8]) -> bool,
) -> io::Result<Newest> {
    for (seq, path) in list(folder)?.into_iter().rev().filter(|(seq, _)| *seq <= up_to) {
        let mut bytes = fs::read(&path)?;
        match frame::decode(&bytes) {
            Ok(frame) if !is_known(seq, frame.payload) => {
                tracing::error!(path = %path.display(), "snapshot is not the one that was written, trying an older one");
            }
            Ok(frame) => {
                let header = bytes.len() - frame.payload.len();
                bytes.drain(..header);
                return Ok(Newest::Found(Snapshot { seq, state: bytes }));
            }
            Err(FrameError::Newer(version)) => return Ok(Newest::Newer(version)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "snapshot is damaged, trying an older one");
            }
        }
    }
    Ok(Newest::None)
}
