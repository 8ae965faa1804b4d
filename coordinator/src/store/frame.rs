//! A value on disk: format version, flags, crc32c, payload.

use std::ops::RangeInclusive;

use crate::store::FORMAT_VERSION;

/// version (u16), flags (u8), crc32c (u32), all little-endian.
const HEADER: usize = 7;
const MORE_FOLLOWS: u8 = 1;

/// sled keeps values that are too large for a segment (512 KiB) in separate files, a path that was
/// never crash-tested; a larger payload goes into several values, in one transaction.
pub(super) const MAX_PIECE: usize = 64 * 1024;

/// One value: a payload or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) more_follows: bool,
    pub(super) payload: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("shorter than its header")]
    Short,
    #[error("checksum does not match")]
    Checksum,
    /// Whole, and not ours to read.
    #[error("format {0} is newer than {FORMAT_VERSION}")]
    Newer(u16),
}

/// Frames a payload as one or more values.
pub(super) fn encode(payload: &[u8]) -> Vec<Vec<u8>> {
    let pieces = payload.len().div_ceil(MAX_PIECE).max(1);
    let range = |piece: usize| piece * MAX_PIECE..payload.len().min((piece + 1) * MAX_PIECE);
    (0..pieces).map(|piece| encode_piece(&payload[range(piece)], piece + 1 < pieces)).collect()
}

/// Frames a payload of any size as one value, for files of our own.
pub(super) fn encode_whole(payload: &[u8]) -> Vec<u8> {
    encode_piece(payload, false)
}

fn encode_piece(payload: &[u8], more_follows: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend(FORMAT_VERSION.to_le_bytes());
    frame.push(if more_follows { MORE_FOLLOWS } else { 0 });
    frame.extend(checksum([frame[0], frame[1], frame[2]], payload).to_le_bytes());
    frame.extend(payload);
    frame
}

pub(super) fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(FrameError::Short);
    };
    let [v0, v1, flags, crc @ ..] = *header;
    if u32::from_le_bytes(crc) != checksum([v0, v1, flags], payload) {
        return Err(FrameError::Checksum);
    }
    let version = u16::from_le_bytes([v0, v1]);
    if !SUPPORTED.contains(&version) {
        return Err(FrameError::Newer(version));
    }
    Ok(Frame { more_follows: flags & MORE_FOLLOWS != 0, payload })
}

const SUPPORTED: RangeInclusive<u16> = 1..=FORMAT_VERSION;

fn checksum(head: [u8; 3], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}
