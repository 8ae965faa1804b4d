//! One safetensors file with torch's names, made from the shards of any world.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::disk::{self, CHUNK, Existing, Staged, failed};
use crate::error::Error;
use crate::header;
use crate::reader::{Reader, TensorRow};
use crate::tensor::TensorKind;

/// What [`export`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    pub path: PathBuf,
    pub tensors: usize,
    /// Elements of all tensors.
    pub elements: u64,
    pub bytes: u64,
    /// Of the file, in hex.
    pub blake3: String,
}

/// Writes the parameters and buffers of a checkpoint to `out`, whole or not at all; a file that is
/// there is replaced. The shards' hashes are checked first: damage is not passed on.
pub fn export(folder: &Path, out: &Path) -> Result<Exported, Error> {
    let reader = Reader::open(folder)?;
    for rank in 0..reader.manifest().world_size {
        reader.verify_shard(rank)?;
    }
    let tensors = exported_tensors(&reader)?;
    let entries = tensors.iter().map(|row| (row.name.clone(), row.shape.clone(), row.dtype));
    // transformers and others refuse a file that does not say whose layout it has.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = header::encode_entries(entries, metadata)
        .map_err(|problem| Error::InvalidSlice { file: out.display().to_string(), problem })?;
    let data: u64 = tensors.iter().map(|row| row.elements * row.dtype.size()).sum();
    let bytes = header.len() as u64 + data;

    let invalid = || failed("write", out)(std::io::ErrorKind::InvalidFilename.into());
    let name = out.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    let mut staged = Staged::create(beside, name, bytes)?;
    staged.write(&header)?;
    for row in &tensors {
        copy(&reader, row, &mut staged)?;
    }
    let blake3 = staged.hash().to_hex().to_string();
    staged.publish(Existing::Replace)?;
    disk::sync_folder(beside)?;
    let elements = tensors.iter().map(|row| row.elements).sum();
    Ok(Exported { path: out.to_owned(), tensors: tensors.len(), elements, bytes, blake3 })
}

/// Wide types first, which keeps every tensor aligned; then by kind and name.
fn exported_tensors(reader: &Reader) -> Result<Vec<TensorRow>, Error> {
    let mut tensors = reader.tensors();
    tensors.retain(|row| matches!(row.kind, TensorKind::Parameter | TensorKind::Buffer));
    let mut names = BTreeSet::new();
    for row in &tensors {
        if !names.insert(row.name.clone()) {
            return Err(Error::NameTwice { name: row.name.clone() });
        }
    }
    tensors.sort_by_key(|row| std::cmp::Reverse(row.dtype.size()));
    Ok(tensors)
}

fn copy(reader: &Reader, row: &TensorRow, to: &mut Staged) -> Result<(), Error> {
    let step = CHUNK as u64 / row.dtype.size();
    let mut at = 0;
    while at < row.elements {
        let end = row.elements.min(at + step);
        to.write(&reader.read(row.kind, &row.name, at..end)?)?;
        at = end;
    }
    Ok(())
}
