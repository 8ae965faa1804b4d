//! Where a communicator is in its sequence of operations, to be read while it works: of ranks that
//! hang, who waits for whom. One store at an operation's begin and one at its end; no locks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{OpKind, Signature};

/// Before the first operation.
const NOWHERE: u64 = u64::MAX;

/// A read that meets a change tries again; a communicator that is this fast does not hang.
const TRIES: u32 = 8;

/// The place of one communicator. Written by the thread that runs it, read by any.
#[derive(Debug)]
pub struct Whereabouts {
    channel: u32,
    /// Sequence number, kind and whether the operation is under way, in one word.
    word: AtomicU64,
    bytes: AtomicU64,
}

/// The newest operation that a communicator has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its sequence number; of a transfer that of its pair of ranks.
    pub sequence: u64,
    /// What it is.
    pub kind: OpKind,
    /// Bytes per rank as the caller gave them.
    pub bytes: u64,
    /// It has not ended: the rank works in it, or waits there for a peer.
    pub is_inside: bool,
}

impl Whereabouts {
    pub(crate) fn new(channel: u32) -> Self {
        Self { channel, word: AtomicU64::new(NOWHERE), bytes: AtomicU64::new(0) }
    }

    /// The channel of the communicator.
    #[must_use]
    pub fn channel(&self) -> u32 {
        self.channel
    }

    /// None before the first operation.
    #[must_use]
    pub fn now(&self) -> Option<At> {
        let mut word = self.word.load(Ordering::Acquire);
        for _ in 0..TRIES {
            let bytes = self.bytes.load(Ordering::Acquire);
            let again = self.word.load(Ordering::Acquire);
            if word == again {
                return At::decode(word, bytes);
            }
            word = again;
        }
        At::decode(word, self.bytes.load(Ordering::Acquire))
    }

    pub(crate) fn enter(&self, sequence: u64, signature: &Signature) {
        self.bytes.store(signature.bytes, Ordering::Release);
        let word = (sequence << 4) | (u64::from(signature.kind.code()) << 1) | 1;
        self.word.store(word, Ordering::Release);
    }

    pub(crate) fn leave(&self) {
        self.word.fetch_and(!1, Ordering::Release);
    }
}

impl At {
    fn decode(word: u64, bytes: u64) -> Option<Self> {
        if word == NOWHERE {
            return None;
        }
        let kind = OpKind::from_code(((word >> 1) & 0b111) as u8)?;
        Some(Self { sequence: word >> 4, kind, bytes, is_inside: word & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_seen_from_its_begin_to_its_end() {
        let here = Whereabouts::new(1);
        assert_eq!(here.now(), None);
        for (sequence, kind) in (0..).zip(OpKind::ALL) {
            let signature = Signature { kind, bytes: 10 + sequence, reduction: None, root: None };
            here.enter(sequence, &signature);
            let at = At { sequence, kind, bytes: 10 + sequence, is_inside: true };
            assert_eq!(here.now(), Some(at));
            here.leave();
            assert_eq!(here.now(), Some(At { is_inside: false, ..at }));
        }
    }
}
