//! How two ranks prove to each other that they belong to the same attempt.
//!
//! The dialer sends a hello with a fresh nonce, the acceptor answers with its own nonce and a keyed
//! hash of both, the dialer answers with another; the token itself never travels. The labels keep one
//! side's hash from serving as the other's. This keeps strangers out; it does not encrypt.

use crate::{ConnectError, random};

const MAGIC: [u8; 8] = *b"RSMESH01";

/// The purpose of a connection that carries no channel.
const CONTROL: u32 = u32::MAX;

pub(crate) const HELLO_BYTES: usize = 48;
pub(crate) const CHALLENGE_BYTES: usize = 56;
pub(crate) const PROOF_BYTES: usize = 32;
pub(crate) const VERDICT_BYTES: usize = 5;

const DERIVE: &str = "rustspeed collectives 2026 mesh token";

/// The attempt's secret in the form the hashes want.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Notices and the peer's end; over a local socket also the shared memory.
    Control,
    /// One channel's bytes over TCP.
    Channel(u32),
}

/// The first message, by the dialer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) world: u32,
    pub(crate) channels: u32,
    pub(crate) purpose: Purpose,
    nonce: [u8; 16],
}

/// The acceptor's last word, once both have proven themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Welcome,
    /// Come again over TCP: this end does not share memory.
    UseTcp,
    /// This end insists on shared memory.
    NeedsSharedMemory,
    OtherWorld(u32),
    OtherChannels(u32),
}

impl Key {
    pub(crate) fn new(token: &[u8; 16]) -> Self {
        Self(blake3::derive_key(DERIVE, token))
    }

    fn hash(&self, label: &[u8; 8], hello: &[u8; HELLO_BYTES], nonce: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(label).update(hello).update(nonce);
        hasher.finalize()
    }
}

impl Hello {
    pub(crate) fn new(from: u32, to: u32, world: u32, channels: u32) -> Result<Self, ConnectError> {
        let nonce = random::bytes()?;
        Ok(Self { from, to, world, channels, purpose: Purpose::Control, nonce })
    }

    /// The same parties, another connection, another nonce.
    pub(crate) fn again(self, purpose: Purpose) -> Result<Self, ConnectError> {
        Ok(Self { purpose, nonce: random::bytes()?, ..self })
    }

    pub(crate) fn encode(self) -> [u8; HELLO_BYTES] {
        let purpose = match self.purpose {
            Purpose::Control => CONTROL,
            Purpose::Channel(channel) => channel,
        };
        let mut encoded = [0; HELLO_BYTES];
        encoded[..8].copy_from_slice(&MAGIC);
        let numbers = [self.from, self.to, self.world, self.channels, purpose];
        for (place, number) in encoded[8..28].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        encoded[32..].copy_from_slice(&self.nonce);
        encoded
    }

    /// None if the bytes are no hello.
    pub(crate) fn decode(encoded: &[u8; HELLO_BYTES]) -> Option<Self> {
        if encoded[..8] != MAGIC {
            return None;
        }
        let number = |at: usize| {
            u32::from_le_bytes(encoded[at..at + 4].try_into().expect("a range of four bytes"))
        };
        let purpose = match number(24) {
            CONTROL => Purpose::Control,
            channel => Purpose::Channel(channel),
        };
        let nonce = encoded[32..].try_into().expect("the rest is sixteen bytes");
        let (from, to, world, channels) = (number(8), number(12), number(16), number(20));
        Some(Self { from, to, world, channels, purpose, nonce })
    }
}

/// The acceptor's answer to a hello, and the proof it then expects.
pub(crate) fn challenge(
    key: &Key,
    hello: &[u8; HELLO_BYTES],
) -> Result<([u8; CHALLENGE_BYTES], blake3::Hash), ConnectError> {
    let nonce: [u8; 16] = random::bytes()?;
    let mut message = [0; CHALLENGE_BYTES];
    message[..8].copy_from_slice(&MAGIC);
    message[8..24].copy_from_slice(&nonce);
    message[24..].copy_from_slice(key.hash(b"acceptor", hello, &nonce).as_bytes());
    Ok((message, key.hash(b"dialer..", hello, &nonce)))
}

/// The dialer's proof; none if the acceptor did not prove that it has the token.
pub(crate) fn prove(
    key: &Key,
    hello: &[u8; HELLO_BYTES],
    challenge: &[u8; CHALLENGE_BYTES],
) -> Option<[u8; PROOF_BYTES]> {
    let nonce = &challenge[8..24];
    let told = blake3::Hash::from_slice(&challenge[24..]).ok()?;
    // Comparing hashes takes the same time wherever they differ.
    let is_genuine = challenge[..8] == MAGIC && key.hash(b"acceptor", hello, nonce) == told;
    is_genuine.then(|| *key.hash(b"dialer..", hello, nonce).as_bytes())
}

impl Verdict {
    pub(crate) fn encode(self) -> [u8; VERDICT_BYTES] {
        let (code, value) = match self {
            Self::Welcome => (0, 0),
            Self::UseTcp => (1, 0),
            Self::NeedsSharedMemory => (2, 0),
            Self::OtherWorld(world) => (3, world),
            Self::OtherChannels(channels) => (4, channels),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [code, a, b, c, d]
    }

    pub(crate) fn decode(encoded: [u8; VERDICT_BYTES]) -> Option<Self> {
        let [code, value @ ..] = encoded;
        let value = u32::from_le_bytes(value);
        match code {
            0 => Some(Self::Welcome),
            1 => Some(Self::UseTcp),
            2 => Some(Self::NeedsSharedMemory),
            3 => Some(Self::OtherWorld(value)),
            4 => Some(Self::OtherChannels(value)),
            _ => None,
        }
    }
}
