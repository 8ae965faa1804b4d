//! Reads any elements of any tensor of a checkpoint, whatever world wrote it. Holds the index of
//! all slices, never a whole shard: memory is what the caller asks for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::disk;
use crate::error::{Defect, Error};
use crate::header::{self, Placed};
use crate::manifest::{Manifest, ShardEntry};
use crate::shard;
use crate::tensor::{DataType, TensorKind};

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorRow {
    pub name: String,
    pub kind: TensorKind,
    pub dtype: DataType,
    pub shape: Vec<u64>,
    pub elements: u64,
    /// In how many pieces it lies.
    pub slices: usize,
}

/// A checkpoint opened for random access. The index is checked: slices tile every tensor exactly
/// once. Hashes are not, that is [`Reader::verify_shard`].
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    manifest: Manifest,
    index: Index,
}

impl Reader {
    /// Reads the manifest and every shard's header.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let manifest = Manifest::read(folder)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for entry in &manifest.shards {
            shards.push(read_header(folder, entry)?);
        }
        let index = Index::build(&manifest.shards, shards)
            .map_err(|defect| Error::Defective { path: folder.to_owned(), defect })?;
        Ok(Self { folder: folder.to_owned(), manifest, index })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All tensors, by kind and name.
    pub fn tensors(&self) -> Vec<TensorRow> {
        self.index.0.iter().map(|((kind, name), tensor)| tensor.row(*kind, name)).collect()
    }

    pub fn tensor(&self, kind: TensorKind, name: &str) -> Option<TensorRow> {
        self.index.0.get(&(kind, name.to_owned())).map(|tensor| tensor.row(kind, name))
    }

    /// Elements `range` of a flattened tensor, as bytes.
    pub fn read(&self, kind: TensorKind, name: &str, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let tensor = self.get(kind, name)?;
        tensor.check_range(kind, name, &range)?;
        // Within a tensor whose bytes lie in files of these sizes.
        let bytes = (range.end - range.start) * tensor.dtype.size();
        let mut buffer = vec![0; usize::try_from(bytes).expect("a file's size fits memory's")];
        self.read_into(kind, name, range, &mut buffer)?;
        Ok(buffer)
    }

    /// As [`Reader::read`], into a buffer of exactly that many bytes.
    pub fn read_into(
        &self,
        kind: TensorKind,
        name: &str,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let tensor = self.get(kind, name)?;
        tensor.check_range(kind, name, &range)?;
        let size = tensor.dtype.size();
        let expected = (range.end - range.start) * size;
        let found = buffer.len() as u64;
        if expected != found {
            return Err(Error::BufferLength { kind, name: name.to_owned(), expected, found });
        }
        let mut rest = buffer;
        let mut at = range.start;
        let first = tensor.pieces.partition_point(|piece| piece.offset + piece.len <= at);
        for piece in &tensor.pieces[first..] {
            if rest.is_empty() {
                break;
            }
            let end = range.end.min(piece.offset + piece.len);
            let (part, after) = rest.split_at_mut(((end - at) * size) as usize);
            self.read_piece(piece, (at - piece.offset) * size, part)?;
            (rest, at) = (after, end);
        }
        Ok(())
    }

    /// Reads all of one rank's shard and compares its hash with the manifest's. The ranks of a
    /// world can share this work.
    pub fn verify_shard(&self, rank: u32) -> Result<(), Error> {
        let entry = self.manifest.shards.get(rank as usize).ok_or_else(|| Error::Range {
            kind: TensorKind::Parameter,
            name: "shards".to_owned(),
            from: u64::from(rank),
            to: u64::from(rank) + 1,
            elements: self.manifest.shards.len() as u64,
        })?;
        shard::check_hash(&self.folder, entry)
    }

    fn get(&self, kind: TensorKind, name: &str) -> Result<&Tensor, Error> {
        self.index.0.get(&(kind, name.to_owned())).ok_or_else(|| Error::UnknownTensor {
            path: self.folder.clone(),
            kind,
            name: name.to_owned(),
        })
    }

    fn read_piece(&self, piece: &Piece, skip: u64, into: &mut [u8]) -> Result<(), Error> {
        let entry = &self.manifest.shards[piece.shard];
        let file = shard::open(&self.folder, entry)?;
        file.read_exact_at(into, piece.position + skip)
            .map_err(|error| disk::read_error(&self.folder, &entry.file.to_string(), error))
    }
}

/// The slices of one shard.
pub(crate) fn read_header(folder: &Path, entry: &ShardEntry) -> Result<Vec<Placed>, Error> {
    let file = shard::open(folder, entry)?;
    header::read(folder, &entry.file.to_string(), (&file, entry.bytes))
}

/// Where every element of every tensor lies.
#[derive(Debug, Default)]
pub(crate) struct Index(BTreeMap<(TensorKind, String), Tensor>);

#[derive(Debug)]
struct Tensor {
    dtype: DataType,
    shape: Vec<u64>,
    elements: u64,
    /// By offset; once built, without gap or overlap.
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    len: u64,
    /// Index in the manifest's list.
    shard: usize,
    /// Byte in the shard.
    position: u64,
}

impl Index {
    pub(crate) fn build(entries: &[ShardEntry], shards: Vec<Vec<Placed>>) -> Result<Self, Defect> {
        let mut index = Self::default();
        for (shard, slices) in shards.into_iter().enumerate() {
            let file = || entries[shard].file.to_string();
            for Placed { meta, position } in slices {
                let (dtype, shape) = (meta.dtype, meta.global_shape.clone());
                let elements =
                    meta.elements().map_err(|problem| Defect::Slice { file: file(), problem })?;
                let piece = Piece { offset: meta.offset, len: meta.len, shard, position };
                match index.0.entry((meta.kind, meta.name)) {
                    Entry::Vacant(place) => {
                        place.insert(Tensor { dtype, shape, elements, pieces: vec![piece] });
                    }
                    Entry::Occupied(mut known) => {
                        if known.get().dtype != dtype || known.get().shape != shape {
                            let (kind, name) = known.key().clone();
                            return Err(Defect::Disagreement { kind, name, file: file() });
                        }
                        known.get_mut().pieces.push(piece);
                    }
                }
            }
        }
        for ((kind, name), tensor) in &mut index.0 {
            tensor.tile(*kind, name, entries)?;
        }
        Ok(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Tensor {
    /// Sorts the pieces and proves that they cover the tensor exactly once.
    fn tile(&mut self, kind: TensorKind, name: &str, entries: &[ShardEntry]) -> Result<(), Defect> {
        self.pieces.sort_by_key(|piece| (piece.offset, piece.len));
        let gap = |from, to| Defect::Gap { kind, name: name.to_owned(), from, to };
        let mut covered = 0;
        for piece in &self.pieces {
            if piece.offset > covered {
                return Err(gap(covered, piece.offset));
            }
            if piece.offset < covered && piece.len > 0 {
                let file = entries[piece.shard].file.to_string();
                let (name, at) = (name.to_owned(), piece.offset);
                return Err(Defect::Overlap { kind, name, at, file });
            }
            covered = covered.max(piece.offset + piece.len);
        }
        if covered < self.elements { Err(gap(covered, self.elements)) } else { Ok(()) }
    }

    fn check_range(&self, kind: TensorKind, name: &str, range: &Range<u64>) -> Result<(), Error> {
        if range.start <= range.end && range.end <= self.elements {
            return Ok(());
        }
        Err(Error::Range {
            kind,
            name: name.to_owned(),
            from: range.start,
            to: range.end,
            elements: self.elements,
        })
    }

    fn row(&self, kind: TensorKind, name: &str) -> TensorRow {
        TensorRow {
            name: name.to_owned(),
            kind,
            dtype: self.dtype,
            shape: self.shape.clone(),
            elements: self.elements,
            slices: self.pieces.len(),
        }
    }
}
