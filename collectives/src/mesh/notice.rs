//! What a rank tells its peers outside of operations: that it leaves, or why it gave up.

/// Bytes of a reason that travel; the rest is cut.
const REASON_MAX: usize = 1024;

const HEAD: usize = 7;

/// A message on a control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The rank leaves in peace; its end of file is no fault for operations that do not need it.
    Goodbye,
    /// The rank gave up because of `rank`'s death.
    PeerLost { rank: u32 },
    /// The rank aborted.
    Aborted { reason: String },
}

/// What is at the front of the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Not all there yet.
    Incomplete,
    /// A notice and the bytes it took.
    Whole(Notice, usize),
    /// Not ours; the connection is of no more use.
    Garbage,
}

impl Notice {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, rank, reason) = match self {
            Self::Goodbye => (0, 0, ""),
            Self::PeerLost { rank } => (1, *rank, ""),
            Self::Aborted { reason } => (2, 0, cut(reason)),
        };
        let mut encoded = vec![kind];
        encoded.extend_from_slice(&rank.to_le_bytes());
        encoded.extend_from_slice(&(reason.len() as u16).to_le_bytes());
        encoded.extend_from_slice(reason.as_bytes());
        encoded
    }

    pub(crate) fn parse(bytes: &[u8]) -> Parsed {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Parsed::Incomplete;
        };
        let [kind, rank @ .., low, high] = *head;
        let rank = u32::from_le_bytes(rank);
        let len = usize::from(u16::from_le_bytes([low, high]));
        if len > REASON_MAX {
            return Parsed::Garbage;
        }
        let Some(reason) = rest.get(..len) else { return Parsed::Incomplete };
        let notice = match kind {
            0 => Self::Goodbye,
            1 => Self::PeerLost { rank },
            2 => Self::Aborted { reason: String::from_utf8_lossy(reason).into_owned() },
            _ => return Parsed::Garbage,
        };
        Parsed::Whole(notice, HEAD + len)
    }
}

fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
