//! Tensors of a torch file: which bytes of which storage, and reading them as f32.

use crate::tensor::DataType;
use crate::torch::TorchError;
use crate::torch::zip::Archive;

/// Room for the bookkeeping of a model with a hundred thousand parameters.
const MAX_PICKLE: u64 = 256 * 1024 * 1024;

const PICKLE: &str = "data.pkl";

/// Element types, under safetensors' names.
pub(crate) type DType = DataType;

/// One storage, as the pickle names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) key: String,
    pub(crate) dtype: DType,
    pub(crate) elements: u64,
}

/// A tensor over a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorRef {
    pub(crate) storage: Storage,
    /// Elements.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) stride: Vec<u64>,
}

/// The storages of an open file.
#[derive(Debug)]
pub(crate) struct Storages {
    archive: Archive,
    /// Before every entry's name.
    prefix: String,
}

impl Storages {
    pub(super) fn new(archive: Archive) -> Result<Self, TorchError> {
        let ends = format!("/{PICKLE}");
        let found = archive.names().find_map(|name| name.strip_suffix(&ends));
        let prefix = found.ok_or_else(|| TorchError::NoEntry { entry: PICKLE.to_owned() })?;
        let storages = Self { prefix: prefix.to_owned(), archive };
        let byte_order = storages.name("byteorder");
        // Absent from older files, which are little-endian on every machine that matters.
        if storages.archive.size_of(&byte_order).is_some_and(|size| size <= 16)
            && storages.archive.read(&byte_order)? != b"little"
        {
            let problem = "only little-endian files are read".to_owned();
            return Err(TorchError::Entry { entry: byte_order, problem });
        }
        Ok(storages)
    }

    fn name(&self, entry: &str) -> String {
        format!("{}/{entry}", self.prefix)
    }

    pub(super) fn pickle(&self) -> Result<Vec<u8>, TorchError> {
        let name = self.name(PICKLE);
        if self.archive.size_of(&name).is_some_and(|size| size > MAX_PICKLE) {
            return Err(TorchError::TooLarge { what: "bytes", limit: MAX_PICKLE as usize });
        }
        self.archive.read(&name)
    }

    /// The elements of a contiguous tensor, in order, as f32 (`path` is for messages). Wider types
    /// are refused: nothing is rounded unseen.
    pub(crate) fn read_f32(&self, tensor: &TensorRef, path: &str) -> Result<Vec<f32>, TorchError> {
        let (bytes, dtype) = (self.read(tensor, path)?, tensor.storage.dtype);
        match to_f32(&bytes, dtype) {
            Some(values) => Ok(values),
            None => {
                let problem = format!("{dtype} does not fit f32 exactly");
                Err(TorchError::Tensor { path: path.to_owned(), problem })
            }
        }
    }

    /// The bytes of a contiguous tensor.
    pub(crate) fn read(&self, tensor: &TensorRef, path: &str) -> Result<Vec<u8>, TorchError> {
        let wrong = |problem: String| TorchError::Tensor { path: path.to_owned(), problem };
        let TensorRef { storage, offset, .. } = tensor;
        let elements = tensor
            .contiguous_elements()
            .ok_or_else(|| wrong("it is not contiguous, or larger than any file".to_owned()))?;
        let entry = self.name(&format!("data/{}", storage.key));
        let found = self.archive.size_of(&entry).ok_or_else(|| wrong(format!("no `{entry}`")))?;
        let size = storage.dtype.size();
        if storage.elements.checked_mul(size) != Some(found) {
            let said = storage.elements;
            return Err(wrong(format!("its storage has {found} bytes, not {said} elements")));
        }
        let end = offset.checked_add(elements).filter(|end| *end <= storage.elements);
        let end = end.ok_or_else(|| {
            wrong(format!("{elements} elements from {offset} on leave its storage"))
        })?;
        let bytes = self.archive.read(&entry)?;
        // The storage is in memory, so its offsets are sizes.
        Ok(bytes[(offset * size) as usize..(end * size) as usize].to_vec())
    }
}

impl TensorRef {
    /// None where the elements do not lie one after another, or cannot be counted.
    pub(crate) fn contiguous_elements(&self) -> Option<u64> {
        if self.shape.len() != self.stride.len() {
            return None;
        }
        let mut expected = 1_u64;
        let mut is_contiguous = true;
        for (size, stride) in self.shape.iter().zip(&self.stride).rev() {
            is_contiguous &= *size == 1 || *stride == expected;
            expected = expected.checked_mul(*size)?;
        }
        (is_contiguous || expected == 0).then_some(expected)
    }
}

/// Exactly, or not at all.
pub(crate) fn to_f32(bytes: &[u8], dtype: DataType) -> Option<Vec<f32>> {
    let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match dtype {
        DataType::F32 => {
            let quads = bytes.chunks_exact(4);
            Some(quads.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        DataType::Bf16 => Some(halves().map(|b| f32::from_bits(u32::from(b) << 16)).collect()),
        DataType::F16 => Some(halves().map(|b| half::f16::from_bits(b).to_f32()).collect()),
        _ => None,
    }
}
