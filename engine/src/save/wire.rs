//! Small typed messages between the save threads: JSON over the byte operations of a communicator.
//!
//! Promise: bounded; what a peer sends that is not the expected message is a typed error.

use collectives::Communicator;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Votes and manifests are a few KB; a world of thousands stays below this.
const MAX_MESSAGE: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Communication(#[from] collectives::Error),
    #[error("a message of {bytes} bytes between ranks; the limit is {MAX_MESSAGE}")]
    TooLong { bytes: u64 },
    #[error("rank {rank} sent what is not a message of this version")]
    Garbled { rank: u32, source: serde_json::Error },
}

/// Rank 0's value on every rank; the others pass None.
pub(crate) fn broadcast<T: Serialize + DeserializeOwned>(
    communicator: &mut Communicator,
    value: Option<&T>,
) -> Result<T, Error> {
    let mut bytes = value.map(encode).unwrap_or_default();
    let mut len = (bytes.len() as u64).to_le_bytes();
    communicator.broadcast(&mut len, 0)?;
    bytes.resize(checked(u64::from_le_bytes(len))?, 0);
    communicator.broadcast(&mut bytes, 0)?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Garbled { rank: 0, source })
}

/// Every rank's value on every rank, in rank order.
pub(crate) fn gather<T: Serialize + DeserializeOwned>(
    communicator: &mut Communicator,
    value: &T,
) -> Result<Vec<T>, Error> {
    let world = communicator.world() as usize;
    let mut mine = encode(value);
    let mut lens = vec![0; world * size_of::<u64>()];
    communicator.all_gather(&(mine.len() as u64).to_le_bytes(), &mut lens)?;
    let lens = lens
        .chunks_exact(size_of::<u64>())
        .map(|len| checked(u64::from_le_bytes(len.try_into().expect("chunks of 8"))))
        .collect::<Result<Vec<usize>, _>>()?;
    // All parts of an all-gather are equally long.
    let longest = lens.iter().copied().max().unwrap_or(0);
    mine.resize(longest, 0);
    let mut all = vec![0; world * longest];
    communicator.all_gather(&mine, &mut all)?;
    let parts = (0_u32..).zip(lens).zip(all.chunks_exact(longest.max(1)));
    parts
        .map(|((rank, len), part)| {
            serde_json::from_slice(&part[..len]).map_err(|source| Error::Garbled { rank, source })
        })
        .collect()
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have only plain fields")
}

fn checked(len: u64) -> Result<usize, Error> {
    if len > MAX_MESSAGE { Err(Error::TooLong { bytes: len }) } else { Ok(len as usize) }
}

#[cfg(test)]
mod tests;
