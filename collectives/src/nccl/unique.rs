//! The meeting point of one NCCL communicator, as bytes that travel through the rendezvous.

use std::fmt;

/// As NCCL has it.
pub(super) const LEN: usize = 128;

/// Where ranks meet: rank 0's address and a random number. Who knows it can join, so it is told to
/// the ranks of one attempt only, and never logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UniqueId(pub(super) [u8; LEN]);

impl UniqueId {
    /// None where the length is not an id's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For the rendezvous.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId(..)")
    }
}
