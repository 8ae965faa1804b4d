//! Randomness from the kernel, for names and nonces.

use std::{fs::File, io::Read as _};

use crate::ConnectError;

/// `N` bytes nobody can guess.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], ConnectError> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|source| ConnectError::System { what: "read /dev/urandom".to_owned(), source })?;
    Ok(bytes)
}
