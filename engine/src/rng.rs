//! Chance, from seeds alone: streams of numbers that are the same on every rank, machine and
//! build, masks included. Uses ChaCha8 keyed by a BLAKE3 hash of a purpose and its
//! numbers, and `libm` instead of the system's mathematics, so that no glibc or instruction set
//! changes a bit. Knows no entropy and keeps no state of its own.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// An endless sequence of numbers that its purpose and keys determine.
#[derive(Debug, Clone)]
pub struct Stream {
    source: ChaCha8Rng,
    /// The polar method makes normals in pairs.
    spare_normal: Option<f64>,
}

impl Stream {
    /// Streams of different purposes or keys are independent.
    pub fn new(purpose: &str, keys: &[u64]) -> Self {
        Self { source: ChaCha8Rng::from_seed(hash(purpose, keys)), spare_normal: None }
    }

    /// In [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.source.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// In [low, high).
    pub fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Below `bound`, without bias (Lemire's multiplication with rejection).
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "a number below 0 was asked for");
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.source.next_u32()) * u64::from(bound);
            // The low half is uniform; rejecting its first 2^32 mod bound values removes the bias.
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// 32 random bits each, fast.
    pub fn fill(&mut self, bits: &mut [u32]) {
        self.source.fill_bytes(bytemuck::cast_slice_mut(bits));
        bits.iter_mut().for_each(|value| *value = u32::from_le(*value));
    }

    /// Standard normal (Marsaglia's polar method).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        loop {
            let u = self.uniform_in(-1.0, 1.0);
            let v = self.uniform_in(-1.0, 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                let factor = libm::sqrt(-2.0 * libm::log(s) / s);
                self.spare_normal = Some(v * factor);
                return u * factor;
            }
        }
    }
}

/// Where a run draws masks of dropout: a resumed one draws those that an uninterrupted one would
/// have drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    pub seed: u64,
    pub rank: u32,
    pub step: u64,
    pub micro_step: u64,
}

/// The masks of one unit of the model there.
pub fn dropout(key: DropoutKey, unit: u64) -> Stream {
    let DropoutKey { seed, rank, step, micro_step } = key;
    Stream::new("dropout", &[seed, u64::from(rank), step, micro_step, unit])
}

fn hash(purpose: &str, keys: &[u64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // The length first, so that no purpose is another's prefix followed by keys.
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    for key in keys {
        hasher.update(&key.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
