//! Reads everything of a checkpoint and tells all that is wrong with it, file by file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::disk::failed;
use crate::error::{Defect, Error};
use crate::manifest::{MANIFEST_FILE, Manifest};
use crate::reader::{self, Index};
use crate::shard;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// None where it concerns a tensor over several files.
    pub file: Option<String>,
    pub problem: String,
}

/// What [`verify`] saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub path: PathBuf,
    pub step: u64,
    pub world_size: u32,
    /// Read and hashed.
    pub bytes: u64,
    pub tensors: usize,
    /// Files that the manifest does not list: they do not count, and do no harm.
    pub unlisted: Vec<String>,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Hashes every shard, compares headers with slices, and proves that the slices tile every tensor
/// exactly once. A folder without a readable manifest is an error, not a report.
pub fn verify(folder: &Path) -> Result<Report, Error> {
    let manifest = Manifest::read(folder)?;
    let mut findings = Vec::new();
    let mut shards = Vec::with_capacity(manifest.shards.len());
    let mut bytes = 0;
    for entry in &manifest.shards {
        let checked = shard::check_hash(folder, entry)
            .map(|()| bytes += entry.bytes)
            .and_then(|()| reader::read_header(folder, entry));
        match checked {
            Ok(slices) => shards.push(slices),
            Err(Error::Defective { defect, .. }) => {
                findings.push(Finding::new(Some(entry.file.to_string()), &defect));
            }
            Err(error) => return Err(error),
        }
    }
    let mut tensors = 0;
    // With a shard missing, gaps would only repeat what was said.
    if findings.is_empty() {
        match Index::build(&manifest.shards, shards) {
            Ok(index) => tensors = index.len(),
            Err(defect) => findings.push(Finding::new(None, &defect)),
        }
    }
    Ok(Report {
        path: folder.to_owned(),
        step: manifest.step,
        world_size: manifest.world_size,
        bytes,
        tensors,
        unlisted: unlisted(folder, &manifest)?,
        findings,
    })
}

impl Finding {
    fn new(file: Option<String>, defect: &Defect) -> Self {
        Self { file, problem: defect.chain() }
    }
}

fn unlisted(folder: &Path, manifest: &Manifest) -> Result<Vec<String>, Error> {
    let listed: HashSet<_> = manifest.shards.iter().map(|shard| shard.file.to_string()).collect();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != MANIFEST_FILE && !listed.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
