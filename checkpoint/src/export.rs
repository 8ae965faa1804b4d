//! One file with torch's names, made from the shards of any world: safetensors, or what
//! `torch.load` reads.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::disk::{self, Existing, Staged, failed};
use crate::error::Error;
use crate::header;
use crate::reader::{Reader, TensorRow};
use crate::tensor::{DataType, TensorKind};
use crate::torch::{self, Element, to_f32};

/// The kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Safetensors,
    /// A zip file as `torch.save` writes it; `torch.load(weights_only=True)` reads it.
    Torch,
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    pub format: Format,
    /// Of all floating-point tensors; None leaves them as they are saved (parameters in f32).
    pub dtype: Option<DataType>,
}

/// What [`export`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    pub path: PathBuf,
    pub tensors: usize,
    /// Elements of all tensors.
    pub elements: u64,
    pub bytes: u64,
    /// Finite values that the asked type cannot hold: they are infinite in the file.
    pub overflowed: u64,
    /// Of the file, in hex.
    pub blake3: String,
}

/// Writes the parameters and buffers of a checkpoint to `out`, whole or not at all; a file that is
/// there is replaced. The shards' hashes are checked first: damage is not passed on.
pub fn export(folder: &Path, out: &Path, options: Options) -> Result<Exported, Error> {
    let reader = Reader::open(folder)?;
    for rank in 0..reader.manifest().world_size {
        reader.verify_shard(rank)?;
    }
    let tensors = exported_tensors(&reader, options)?;
    let mut overflowed = 0;
    let (staged, beside) = match options.format {
        Format::Safetensors => {
            let header = safetensors_header(&tensors, out)?;
            let data: u64 = tensors.iter().map(|(_, to)| bytes_of(to)).sum();
            let (mut staged, beside) = stage(out, header.len() as u64 + data)?;
            staged.write(&header)?;
            for (row, to) in &tensors {
                staged.write(&converted(&reader, row, to.dtype, &mut overflowed)?)?;
            }
            (staged, beside)
        }
        Format::Torch => {
            let elements: Vec<Element> = tensors.iter().map(|(_, to)| to.clone()).collect();
            let (mut staged, beside) = stage(out, torch::size(&elements))?;
            let mut rows = tensors.iter();
            torch::save(&mut staged, &elements, |to| {
                let (row, _) = rows.next().expect("one row for each element, in their order");
                converted(&reader, row, to.dtype, &mut overflowed)
            })?;
            staged.cut()?;
            (staged, beside)
        }
    };
    let (blake3, bytes) = (staged.hash().to_hex().to_string(), staged.written());
    staged.publish(Existing::Replace)?;
    disk::sync_folder(&beside)?;
    let elements = tensors.iter().map(|(row, _)| row.elements).sum();
    let (path, tensors) = (out.to_owned(), tensors.len());
    Ok(Exported { path, tensors, elements, bytes, overflowed, blake3 })
}

fn bytes_of(element: &Element) -> u64 {
    element.shape.iter().product::<u64>() * element.dtype.size()
}

fn stage(out: &Path, bytes: u64) -> Result<(Staged, PathBuf), Error> {
    let invalid = || failed("write", out)(std::io::ErrorKind::InvalidFilename.into());
    let name = out.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    Ok((Staged::create(beside, name, bytes)?, beside.to_owned()))
}

fn safetensors_header(tensors: &[(TensorRow, Element)], out: &Path) -> Result<Vec<u8>, Error> {
    let entries = tensors.iter().map(|(_, to)| (to.name.clone(), to.shape.clone(), to.dtype));
    // transformers and others refuse a file that does not say whose layout it has.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    header::encode_entries(entries, metadata)
        .map_err(|problem| Error::InvalidSlice { file: out.display().to_string(), problem })
}

/// Wide types first, which keeps every tensor aligned; then by kind and name.
fn exported_tensors(reader: &Reader, options: Options) -> Result<Vec<(TensorRow, Element)>, Error> {
    let mut tensors = reader.tensors();
    tensors.retain(|row| matches!(row.kind, TensorKind::Parameter | TensorKind::Buffer));
    let mut names = BTreeSet::new();
    for row in &tensors {
        if !names.insert(row.name.clone()) {
            return Err(Error::NameTwice { name: row.name.clone() });
        }
    }
    let element = |row: TensorRow| {
        let dtype = options.dtype.filter(|_| row.dtype.is_float()).unwrap_or(row.dtype);
        let element = Element { name: row.name.clone(), shape: row.shape.clone(), dtype };
        (row, element)
    };
    let mut tensors: Vec<_> = tensors.into_iter().map(element).collect();
    tensors.sort_by_key(|(_, to)| std::cmp::Reverse(to.dtype.size()));
    Ok(tensors)
}

/// The bytes of a whole tensor in another type, rounded to the nearest (ties to even).
fn converted(
    reader: &Reader,
    row: &TensorRow,
    to: DataType,
    overflowed: &mut u64,
) -> Result<Vec<u8>, Error> {
    let bytes = reader.read(row.kind, &row.name, 0..row.elements)?;
    if to == row.dtype {
        return Ok(bytes);
    }
    let refused = || Error::NoConversion { name: row.name.clone(), from: row.dtype, to };
    let values = to_f32(&bytes, row.dtype).ok_or_else(refused)?;
    let mut count =
        |is_finite: bool, value: f32| *overflowed += u64::from(!is_finite && value.is_finite());
    match to {
        DataType::F32 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        DataType::Bf16 => Ok(values
            .iter()
            .flat_map(|value| {
                let short = half::bf16::from_f32(*value);
                count(short.is_finite(), *value);
                short.to_le_bytes()
            })
            .collect()),
        DataType::F16 => Ok(values
            .iter()
            .flat_map(|value| {
                let short = half::f16::from_f32(*value);
                count(short.is_finite(), *value);
                short.to_le_bytes()
            })
            .collect()),
        _ => Err(refused()),
    }
}
