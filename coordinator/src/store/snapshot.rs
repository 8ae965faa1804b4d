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

/// Writes a snapshot whole or not at all, removes the oldest, and says which is the oldest that is
/// left: events up to it are not needed any more.
pub(super) fn write(folder: &Path, seq: u64, state: &[u8]) -> io::Result<u64> {
    let path = folder.join(format!("{PREFIX}{seq:020}{SUFFIX}"));
    service::files::replace(&path, &frame::encode_whole(state))?;
    let all = list(folder)?;
    let (old, kept) = all.split_at(all.len().saturating_sub(KEPT));
    for (_, path) in old {
        fs::remove_file(path)?;
    }
    Ok(kept.first().map_or(0, |(seq, _)| *seq))
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
        let bytes = fs::read(&path)?;
        match frame::decode(&bytes) {
            Ok(frame) if !is_known(seq, frame.payload) => {
                tracing::error!(path = %path.display(), "snapshot is not the one that was written, trying an older one");
            }
            Ok(frame) => {
                return Ok(Newest::Found(Snapshot { seq, state: frame.payload.to_vec() }));
            }
            Err(FrameError::Newer(version)) => return Ok(Newest::Newer(version)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "snapshot is damaged, trying an older one");
            }
        }
    }
    Ok(Newest::None)
}
