//! `manifest.json`: what a checkpoint is and which files are its own. Written last; a folder
//! without it is not a checkpoint.

use std::fmt::Display;
use std::path::Path;

use serde::{Deserialize, Serialize};

use common::ids::{Generation, JobId};

use crate::disk;
use crate::error::{Defect, Error};
use crate::shard::ShardName;

pub const MANIFEST_FILE: &str = "manifest.json";

/// Grows when an older build could misread a newer manifest; added fields do not count.
pub const SCHEMA_VERSION: u64 = 1;

/// The largest manifest: 65 536 shards take 12 MiB, the train state is numbers.
const MAX_MANIFEST: u64 = 32 * 1024 * 1024;

/// More ranks than this no job has; a foreign manifest cannot make us open more files.
const MAX_WORLD: u32 = 65_536;

/// One checkpoint. The fields that say how to resume (`model`, `train_state`) are the engine's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema_version: u64,
    pub job_id: JobId,
    pub generation: Generation,
    pub world_size: u32,
    /// ZeRO stage at the time of the save; any stage reads it.
    pub stage: u8,
    /// What the model trained in, in a job file's words; the tensors here are f32 all the same.
    #[serde(default)]
    pub precision: Option<String>,
    /// Optimizer updates done.
    pub step: u64,
    /// Passes over the data done.
    pub epoch: u64,
    /// Samples seen over all ranks.
    pub samples: u64,
    pub seed: u64,
    pub threads_per_rank: u32,
    /// With the same seed, world, stage, threads and build, it decides the bits (A12).
    pub instruction_set: String,
    /// Training loss of the last step; None where it was not finite.
    pub loss: Option<f64>,
    pub val_loss: Option<f64>,
    /// What makes the model this one.
    pub model: serde_json::Value,
    /// Position in the data, best so far, early stopping, optimizer step, schedule.
    pub train_state: serde_json::Value,
    /// One per rank, in rank order.
    pub shards: Vec<ShardEntry>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    pub file: ShardName,
    pub bytes: u64,
    /// Of the whole file, in hex.
    pub blake3: String,
}

impl Manifest {
    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.saturating_add(shard.bytes))
    }

    /// Reads and checks the manifest of a folder; the shards are not looked at.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let bytes = match disk::read_small(folder, MANIFEST_FILE, MAX_MANIFEST) {
            Err(Error::Defective { path, defect: Defect::Missing { .. } }) => {
                if !folder.exists() {
                    return Err(Error::NoFolder { path });
                }
                return Err(Error::Defective { path, defect: Defect::NoManifest });
            }
            other => other?,
        };
        Self::parse(&bytes).map_err(|defect| Error::Defective { path: folder.to_owned(), defect })
    }

    fn parse(bytes: &[u8]) -> Result<Self, Defect> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u64,
        }
        let syntax = |source| Defect::Syntax { file: MANIFEST_FILE.to_owned(), source };
        // First the version alone: a newer schema must not be reported as bad JSON.
        let Version { schema_version: found } = serde_json::from_slice(bytes).map_err(syntax)?;
        if !(1..=SCHEMA_VERSION).contains(&found) {
            let file = MANIFEST_FILE.to_owned();
            return Err(Defect::Schema { file, found, supported: SCHEMA_VERSION });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(syntax)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The file's text; refused where no reader would take it (too large, too deep).
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Defect> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("keys are strings");
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(Defect::TooLarge { file: MANIFEST_FILE.to_owned(), limit: MAX_MANIFEST });
        }
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// Holds what every reader relies on: one shard per rank of this world and generation, in rank
    /// order. Shard names are [`ShardName`]s, so none leaves the folder.
    pub(crate) fn check(&self) -> Result<(), Defect> {
        if !(1..=MAX_WORLD).contains(&self.world_size) {
            return Err(field("world_size", self.world_size, format!("1 to {MAX_WORLD}")));
        }
        if self.shards.len() != self.world_size as usize {
            let expected = format!("{}, one per rank", self.world_size);
            return Err(field("number of shards", self.shards.len(), expected));
        }
        for (rank, shard) in (0..self.world_size).zip(&self.shards) {
            let expected = ShardName { rank, world: self.world_size, generation: self.generation };
            if shard.file != expected {
                return Err(field("shard", shard.file, expected.to_string()));
            }
            let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if shard.blake3.len() != 64 || !shard.blake3.bytes().all(is_hex) {
                let found = shard.blake3.chars().take(80).collect::<String>();
                return Err(field("blake3", format!("{found:?}"), "64 hex digits".to_owned()));
            }
        }
        Ok(())
    }
}

fn field(field: &'static str, found: impl Display, expected: String) -> Defect {
    Defect::Field { file: MANIFEST_FILE.to_owned(), field, found: found.to_string(), expected }
}
