//! Writes what `torch.load(weights_only=True)` reads: a dictionary of tensors, as `torch.save`
//! writes a state dictionary.
//!
//! Promise: byte for byte the same for the same tensors; every tensor starts at a multiple of 64
//! bytes, as torch lays them out, so that it can be mapped.

use crate::disk::Staged;
use crate::error::Error;
use crate::tensor::DataType;

/// All names in the archive begin with it; torch takes the file's own name, readers take any.
const PREFIX: &str = "archive";

const ALIGNMENT: u64 = 64;

/// Of the file format, which torch has not changed since 1.6.
const VERSION: &[u8] = b"3\n";

/// A tensor of the dictionary.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: DataType,
}

impl Element {
    fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        self.elements() * self.dtype.size()
    }
}

/// Bytes that the file will have, at most: what a disk must have free.
pub(crate) fn size(elements: &[Element]) -> u64 {
    // Headers, names, alignment and the pickle: far below this per tensor.
    const OVERHEAD: u64 = 1024;
    let names = |element: &Element| 4 * element.name.len() as u64 + OVERHEAD;
    elements.iter().map(|element| element.bytes() + names(element)).sum::<u64>() + 4 * OVERHEAD
}

/// Writes the whole file; `data` gives the bytes of each tensor in turn.
pub(crate) fn save(
    staged: &mut Staged,
    elements: &[Element],
    mut data: impl FnMut(&Element) -> Result<Vec<u8>, Error>,
) -> Result<(), Error> {
    let mut writer = Writer::default();
    writer.entry(staged, "data.pkl", &pickle(elements))?;
    writer.entry(staged, "byteorder", b"little")?;
    for (index, element) in elements.iter().enumerate() {
        writer.entry(staged, &format!("data/{index}"), &data(element)?)?;
    }
    writer.entry(staged, "version", VERSION)?;
    writer.end(staged)
}

/// Torch's own form of a dictionary of tensors, in pickle protocol 2.
fn pickle(elements: &[Element]) -> Vec<u8> {
    let mut out = Pickler(vec![0x80, 2, b'}', b'(']);
    for (index, element) in elements.iter().enumerate() {
        out.text(&element.name);
        out.global("torch._utils", "_rebuild_tensor_v2");
        // (storage, offset, size, stride, requires_grad, hooks), the storage by its persistent id.
        out.raw(b"((");
        out.text("storage");
        out.global("torch", storage_class(element.dtype));
        out.text(&index.to_string());
        out.text("cpu");
        out.number(element.elements());
        out.raw(b"tQK\0");
        out.tuple(&element.shape);
        out.tuple(&strides(&element.shape));
        out.raw(b"\x89");
        out.global("collections", "OrderedDict");
        out.raw(b")RtR");
    }
    out.raw(b"u.");
    out.0
}

fn storage_class(dtype: DataType) -> &'static str {
    match dtype {
        DataType::F64 => "DoubleStorage",
        DataType::F32 => "FloatStorage",
        DataType::F16 => "HalfStorage",
        DataType::Bf16 => "BFloat16Storage",
        DataType::I64 => "LongStorage",
        DataType::I32 => "IntStorage",
        DataType::I16 => "ShortStorage",
        DataType::I8 => "CharStorage",
        DataType::U8 => "ByteStorage",
        DataType::Bool => "BoolStorage",
    }
}

/// Of a contiguous tensor.
fn strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at].max(1);
    }
    strides
}

struct Pickler(Vec<u8>);

impl Pickler {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.raw(b"X");
        self.raw(&(text.len() as u32).to_le_bytes());
        self.raw(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.raw(format!("c{module}\n{name}\n").as_bytes());
    }

    fn number(&mut self, number: u64) {
        match i32::try_from(number) {
            Ok(small) => {
                self.raw(b"J");
                self.raw(&small.to_le_bytes());
            }
            // LONG1 of nine bytes: never negative.
            Err(_) => {
                self.raw(b"\x8a\x09");
                self.raw(&number.to_le_bytes());
                self.raw(b"\0");
            }
        }
    }

    fn tuple(&mut self, numbers: &[u64]) {
        self.raw(b"(");
        numbers.iter().for_each(|number| self.number(*number));
        self.raw(b"t");
    }
}

/// A zip archive of stored entries, with 64-bit records where they are needed.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    crc: u32,
    size: u64,
    header: u64,
}

/// In place of a number that only a 64-bit field can hold.
const IN_ZIP64: u32 = u32::MAX;

/// The version that readers need: 4.5 knows 64-bit fields.
const NEEDS: u16 = 45;

fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(IN_ZIP64)
}

fn is_large(value: u64) -> bool {
    value >= u64::from(IN_ZIP64)
}

impl Writer {
    pub(crate) fn entry(
        &mut self,
        staged: &mut Staged,
        name: &str,
        data: &[u8],
    ) -> Result<(), Error> {
        let name = format!("{PREFIX}/{name}");
        let (header, size) = (staged.written(), data.len() as u64);
        let crc = crc32fast::hash(data);
        let mut extra = Vec::new();
        if is_large(size) {
            extra.extend_from_slice(&1_u16.to_le_bytes());
            extra.extend_from_slice(&16_u16.to_le_bytes());
            extra.extend_from_slice(&size.to_le_bytes());
            extra.extend_from_slice(&size.to_le_bytes());
        }
        // The padding is a field of its own, as torch's writer makes it.
        const FIELD: u64 = 4;
        const FIXED: u64 = 30;
        let unpadded = header + FIXED + name.len() as u64 + extra.len() as u64 + FIELD;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        extra.extend_from_slice(b"FB");
        extra.extend_from_slice(&(padding as u16).to_le_bytes());
        extra.extend(std::iter::repeat_n(b'Z', padding as usize));

        let mut bytes = 0x0403_4b50_u32.to_le_bytes().to_vec();
        // Version, flags, method (stored), time, date.
        [NEEDS, 0, 0, 0, 0].iter().for_each(|n: &u16| bytes.extend_from_slice(&n.to_le_bytes()));
        [crc, small(size), small(size)]
            .iter()
            .for_each(|n: &u32| bytes.extend_from_slice(&n.to_le_bytes()));
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(extra.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&extra);
        staged.write(&bytes)?;
        staged.write(data)?;
        self.entries.push(Entry { name, crc, size, header });
        Ok(())
    }

    /// The directory, and where it is.
    pub(crate) fn end(self, staged: &mut Staged) -> Result<(), Error> {
        let start = staged.written();
        let directory: Vec<u8> = self.entries.iter().flat_map(Entry::central).collect();
        staged.write(&directory)?;
        let (count, len) = (self.entries.len() as u64, directory.len() as u64);
        let end_64 = staged.written();
        let mut bytes = Vec::new();
        let is_long = count >= u64::from(u16::MAX);
        if is_long || is_large(start) || is_large(len) {
            // The 64-bit end record and its locator.
            bytes.extend_from_slice(&0x0606_4b50_u32.to_le_bytes());
            bytes.extend_from_slice(&44_u64.to_le_bytes());
            bytes.extend_from_slice(&NEEDS.to_le_bytes());
            bytes.extend_from_slice(&NEEDS.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
            [count, count, len, start]
                .iter()
                .for_each(|n: &u64| bytes.extend_from_slice(&n.to_le_bytes()));
            bytes.extend_from_slice(&0x0706_4b50_u32.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&end_64.to_le_bytes());
            bytes.extend_from_slice(&1_u32.to_le_bytes());
        }
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&0x0605_4b50_u32.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&small(len).to_le_bytes());
        bytes.extend_from_slice(&small(start).to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        staged.write(&bytes)
    }
}

impl Entry {
    /// Its record in the directory.
    fn central(&self) -> Vec<u8> {
        let mut wide: Vec<u8> = Vec::new();
        if is_large(self.size) {
            // Unpacked, then packed.
            wide.extend_from_slice(&self.size.to_le_bytes());
            wide.extend_from_slice(&self.size.to_le_bytes());
        }
        if is_large(self.header) {
            wide.extend_from_slice(&self.header.to_le_bytes());
        }
        let mut extra = Vec::new();
        if !wide.is_empty() {
            extra.extend_from_slice(&1_u16.to_le_bytes());
            extra.extend_from_slice(&(wide.len() as u16).to_le_bytes());
            extra.append(&mut wide);
        }
        let mut bytes = 0x0201_4b50_u32.to_le_bytes().to_vec();
        [NEEDS, NEEDS, 0, 0, 0, 0]
            .iter()
            .for_each(|n: &u16| bytes.extend_from_slice(&n.to_le_bytes()));
        [self.crc, small(self.size), small(self.size)]
            .iter()
            .for_each(|n: &u32| bytes.extend_from_slice(&n.to_le_bytes()));
        // Name, extra, comment, disk, internal attributes; then external ones.
        [self.name.len() as u16, extra.len() as u16, 0, 0, 0]
            .iter()
            .for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&small(self.header).to_le_bytes());
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.append(&mut extra);
        bytes
    }
}
