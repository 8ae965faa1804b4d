//! The header of one shard, read with distrust: 8 bytes of length, then JSON, padded to 8 bytes.
//!
//! Beside safetensors' own entries, `__metadata__["rustspeed.slices"]` lists the slices, each with
//! its tensor's name, kind and global shape. Both must say the same.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};

use crate::disk;
use crate::error::{Defect, Error};
use crate::tensor::{SliceMeta, SliceProblem};

/// Key of the slice list in `__metadata__`.
const SLICES_KEY: &str = "rustspeed.slices";

/// A header larger than this describes no model: about 200 bytes a slice.
pub(crate) const MAX_HEADER: u64 = 64 * 1024 * 1024;

/// The length field before the header.
const PREFIX: u64 = 8;

/// A slice and where its bytes lie in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) meta: SliceMeta,
    pub(crate) position: u64,
}

/// Length field and header of a shard with these slices, whose bytes must follow in this order.
pub(crate) fn encode(slices: &[&SliceMeta]) -> Result<Vec<u8>, SliceProblem> {
    let list = serde_json::to_string(slices).expect("names and numbers are always JSON");
    let metadata = HashMap::from([(SLICES_KEY.to_owned(), list)]);
    let entries = slices.iter().map(|slice| (slice.key(), slice.shape_in_shard(), slice.dtype));
    encode_entries(entries, metadata)
}

/// Length field and header of any safetensors file; the tensors' bytes must follow in this order.
pub(crate) fn encode_entries(
    entries: impl Iterator<Item = (String, Vec<u64>, crate::tensor::DataType)>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, SliceProblem> {
    let mut infos = Vec::new();
    let mut end = 0_usize;
    for (key, shape, dtype) in entries {
        let size = |value: u64| usize::try_from(value).ok();
        let too_large = || SliceProblem::Shape { name: key.clone(), shape: shape.clone() };
        let shape_here: Vec<_> =
            shape.iter().map(|v| size(*v)).collect::<Option<_>>().ok_or_else(too_large)?;
        let bytes = shape.iter().try_fold(dtype.size(), |product, s| product.checked_mul(*s));
        let start = end;
        end = bytes.and_then(size).and_then(|n| n.checked_add(start)).ok_or_else(too_large)?;
        let dtype = dtype.to_safetensors();
        infos.push((key, TensorInfo { dtype, shape: shape_here, data_offsets: (start, end) }));
    }
    let header = Metadata::new(Some(metadata), infos)
        .expect("offsets were made from these shapes, one after another");
    let mut json = serde_json::to_vec(&header).expect("names and numbers are always JSON");
    // torch and numpy map the data in place: it must start at a multiple of 8.
    json.resize(json.len().next_multiple_of(PREFIX as usize), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

/// The slices of an open shard of `size` bytes, in file order.
pub(crate) fn read(
    folder: &Path,
    name: &str,
    (file, size): (&File, u64),
) -> Result<Vec<Placed>, Error> {
    let wrong = |defect| Error::Defective { path: folder.to_owned(), defect };
    let no_header = |problem: String| wrong(Defect::Header { file: name.to_owned(), problem });
    let mut prefix = [0; PREFIX as usize];
    if size < PREFIX {
        return Err(no_header(format!("it has {size} bytes, its length field alone has 8")));
    }
    file.read_exact_at(&mut prefix, 0).map_err(|e| disk::read_error(folder, name, e))?;
    let length = u64::from_le_bytes(prefix);
    if length > MAX_HEADER || length > size - PREFIX {
        return Err(no_header(format!(
            "its header claims {length} bytes; the file has {size}, the limit is {MAX_HEADER}"
        )));
    }
    let mut json = vec![0; length as usize];
    file.read_exact_at(&mut json, PREFIX).map_err(|e| disk::read_error(folder, name, e))?;
    let header: Metadata =
        serde_json::from_slice(&json).map_err(|error| no_header(error.to_string()))?;
    let data = PREFIX + length;
    if size - data != header.data_len() as u64 {
        return Err(no_header(format!(
            "its tensors have {} bytes, the file has {} for them",
            header.data_len(),
            size - data
        )));
    }
    place(&header, data).map_err(|found| match found {
        Mismatch::Text(problem) => no_header(problem),
        Mismatch::Slice(problem) => wrong(Defect::Slice { file: name.to_owned(), problem }),
    })
}

enum Mismatch {
    Text(String),
    Slice(SliceProblem),
}

fn place(header: &Metadata, data: u64) -> Result<Vec<Placed>, Mismatch> {
    let list = header.metadata().as_ref().and_then(|map| map.get(SLICES_KEY)).ok_or_else(|| {
        Mismatch::Text(format!("its header has no `{SLICES_KEY}`; it is no shard of a checkpoint"))
    })?;
    let slices: Vec<SliceMeta> = serde_json::from_str(list)
        .map_err(|error| Mismatch::Text(format!("`{SLICES_KEY}`: {error}")))?;
    let tensors = header.tensors();
    if tensors.len() != slices.len() {
        return Err(Mismatch::Text(format!(
            "`{SLICES_KEY}` lists {} slices, the file has {} tensors",
            slices.len(),
            tensors.len()
        )));
    }
    let mut placed = Vec::with_capacity(slices.len());
    let mut end = 0;
    for meta in slices {
        meta.check().map_err(Mismatch::Slice)?;
        let key = meta.key();
        let info = tensors
            .get(&key)
            .ok_or_else(|| Mismatch::Text(format!("slice `{key}` has no tensor")))?;
        let shape: Vec<u64> = info.shape.iter().map(|size| *size as u64).collect();
        let start = info.data_offsets.0 as u64;
        // In order and without a gap: so no two slices share bytes, and no key is there twice.
        let agrees = info.dtype == meta.dtype.to_safetensors()
            && shape == meta.shape_in_shard()
            && start == end;
        if !agrees {
            return Err(Mismatch::Text(format!("slice `{key}` and its tensor differ")));
        }
        end = info.data_offsets.1 as u64;
        placed.push(Placed { meta, position: data + start });
    }
    Ok(placed)
}
