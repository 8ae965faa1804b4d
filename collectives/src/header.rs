//! The 32 bytes that open every operation on every link: sequence number, operation, sizes (A7).

use crate::{DataType, OpKind, ReduceOp, Signature};

/// The header's size.
pub(crate) const BYTES: usize = 32;

const MAGIC: u16 = 0x5352;
const NONE: u8 = u8::MAX;
const NO_ROOT: u32 = u32::MAX;

/// What a rank says before it exchanges bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) signature: Signature,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; BYTES] {
        let Signature { kind, bytes, reduction, root } = self.signature;
        let (data_type, op) = match reduction {
            Some((data_type, op)) => (data_type.code(), op.code()),
            None => (NONE, NONE),
        };
        let mut encoded = [0; BYTES];
        encoded[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        encoded[2..5].copy_from_slice(&[kind.code(), data_type, op]);
        encoded[8..12].copy_from_slice(&root.unwrap_or(NO_ROOT).to_le_bytes());
        encoded[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        encoded[24..32].copy_from_slice(&bytes.to_le_bytes());
        encoded
    }

    /// None if the bytes are no header.
    pub(crate) fn decode(encoded: &[u8; BYTES]) -> Option<Self> {
        let word = |at: usize| -> u64 {
            let bytes = encoded[at..at + 8].try_into().expect("a range of eight bytes");
            u64::from_le_bytes(bytes)
        };
        if u16::from_le_bytes([encoded[0], encoded[1]]) != MAGIC {
            return None;
        }
        let kind = OpKind::from_code(encoded[2])?;
        let reduction = match (encoded[3], encoded[4]) {
            (NONE, NONE) => None,
            (data_type, op) => Some((DataType::from_code(data_type)?, ReduceOp::from_code(op)?)),
        };
        let root = u32::try_from(word(8) & u64::from(u32::MAX)).expect("masked to 32 bits");
        let root = (root != NO_ROOT).then_some(root);
        let signature = Signature { kind, bytes: word(24), reduction, root };
        Some(Self { sequence: word(16), signature })
    }
}
