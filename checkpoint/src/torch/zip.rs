//! The zip archives of `torch.save`: stored entries only, found by the central directory.
//!
//! Promise: no number in the file is believed before it was compared with the file's size.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use crate::torch::TorchError;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

const END_LEN: u64 = 22;
const LOCATOR_LEN: u64 = 20;
const END_64_LEN: usize = 56;
const CENTRAL_LEN: usize = 46;
const LOCAL_LEN: usize = 30;

/// The end record's comment is at most this long.
const MAX_COMMENT: u64 = 65_535;

/// About 100 bytes an entry: room for more storages than a model has parameters.
const MAX_DIRECTORY: u64 = 64 * 1024 * 1024;

/// In place of a number that only the 64-bit record has.
const IN_ZIP64: u64 = 0xffff_ffff;

#[derive(Debug)]
pub(crate) struct Archive {
    file: File,
    size: u64,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    header: u64,
    size: u64,
    crc: u32,
}

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, TorchError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path);
        let file = opened.map_err(TorchError::Unreadable)?;
        let metadata = file.metadata().map_err(TorchError::Unreadable)?;
        if !metadata.is_file() {
            return Err(no_zip("it is not a plain file"));
        }
        let mut archive = Self { file, size: metadata.len(), entries: BTreeMap::new() };
        archive.read_directory()?;
        Ok(archive)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(super) fn size_of(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.size)
    }

    /// All bytes of an entry, compared with their checksum.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, TorchError> {
        let entry =
            self.entries.get(name).ok_or_else(|| TorchError::NoEntry { entry: name.to_owned() })?;
        let wrong = |problem: String| TorchError::Entry { entry: name.to_owned(), problem };
        let header = self.at(entry.header, LOCAL_LEN)?;
        let field = Fields(&header);
        if field.u32(0) != LOCAL {
            return Err(wrong("its header is not where the directory says".to_owned()));
        }
        let skip = LOCAL_LEN as u64 + u64::from(field.u16(26)) + u64::from(field.u16(28));
        let start = entry.header.saturating_add(skip);
        if start.checked_add(entry.size).is_none_or(|end| end > self.size) {
            return Err(wrong(format!("its {} bytes leave the file", entry.size)));
        }
        // Not larger than the file itself.
        let mut bytes = vec![0; entry.size as usize];
        self.file.read_exact_at(&mut bytes, start).map_err(TorchError::Unreadable)?;
        let found = crc32fast::hash(&bytes);
        if found != entry.crc {
            let said = entry.crc;
            return Err(wrong(format!("it is damaged: checksum {found:08x}, not {said:08x}")));
        }
        Ok(bytes)
    }

    fn at(&self, position: u64, len: usize) -> Result<Vec<u8>, TorchError> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, position).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => no_zip("it is cut off"),
            _ => TorchError::Unreadable(error),
        })?;
        Ok(bytes)
    }

    fn read_directory(&mut self) -> Result<(), TorchError> {
        let (position, len, count) = self.find_directory()?;
        if len > MAX_DIRECTORY {
            return Err(TorchError::TooLarge {
                what: "bytes of directory",
                limit: MAX_DIRECTORY as usize,
            });
        }
        if position.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(no_zip("its directory lies outside the file"));
        }
        let directory = self.at(position, len as usize)?;
        let mut rest = &directory[..];
        for _ in 0..count {
            rest = self.read_entry(rest)?;
        }
        Ok(())
    }

    /// Reads one entry of the directory; returns what follows.
    fn read_entry<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], TorchError> {
        let cut = || no_zip("its directory is cut off");
        let (fixed, rest) = bytes.split_at_checked(CENTRAL_LEN).ok_or_else(cut)?;
        let field = Fields(fixed);
        if field.u32(0) != CENTRAL {
            return Err(no_zip("its directory has something else between its entries"));
        }
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(field.u16(at)));
        let (name, rest) = rest.split_at_checked(name).ok_or_else(cut)?;
        let (extra, rest) = rest.split_at_checked(extra).ok_or_else(cut)?;
        let (_, rest) = rest.split_at_checked(comment).ok_or_else(cut)?;
        let name = std::str::from_utf8(name)
            .map_err(|_| no_zip("an entry's name is not UTF-8"))?
            .to_owned();
        let wrong =
            |problem: &str| TorchError::Entry { entry: name.clone(), problem: problem.to_owned() };
        if field.u16(8) & 1 != 0 || field.u16(10) != 0 {
            return Err(wrong("it is compressed or encrypted, which torch never does"));
        }
        let mut wide = Wide::find(extra);
        let sizes = [24, 20, 42].map(|at| match u64::from(field.u32(at)) {
            IN_ZIP64 => wide.take(),
            value => Some(value),
        });
        let [Some(unpacked), Some(packed), Some(header)] = sizes else {
            return Err(wrong("its 64-bit sizes are missing"));
        };
        if packed != unpacked || unpacked > self.size || header > self.size {
            return Err(wrong("its sizes do not fit the file"));
        }
        let entry = Entry { header, size: unpacked, crc: field.u32(16) };
        match self.entries.insert(name.clone(), entry) {
            None => Ok(rest),
            Some(_) => Err(wrong("it is there twice")),
        }
    }

    /// Position, length and number of entries of the directory.
    fn find_directory(&self) -> Result<(u64, u64, u64), TorchError> {
        let tail_len = self.size.min(END_LEN + MAX_COMMENT);
        let tail_start = self.size - tail_len;
        let tail = self.at(tail_start, tail_len as usize)?;
        let end = (0..(tail.len() + 1).saturating_sub(END_LEN as usize))
            .rev()
            .find(|at| {
                let field = Fields(&tail[*at..]);
                let comment = tail.len() - at - END_LEN as usize;
                field.u32(0) == END && usize::from(field.u16(20)) == comment
            })
            .ok_or_else(|| no_zip("it has no directory; it may be cut off"))?;
        let field = Fields(&tail[end..]);
        let (count, len, position) = (field.u16(10), field.u32(12), field.u32(16));
        let needs_64 = count == u16::MAX || len == u32::MAX || position == u32::MAX;
        if !needs_64 {
            return Ok((position.into(), len.into(), count.into()));
        }
        let locator = (tail_start + end as u64)
            .checked_sub(LOCATOR_LEN)
            .ok_or_else(|| no_zip("its 64-bit locator is missing"))?;
        let locator = self.at(locator, LOCATOR_LEN as usize)?;
        let field = Fields(&locator);
        if field.u32(0) != LOCATOR_64 {
            return Err(no_zip("its 64-bit locator is missing"));
        }
        let record = field.u64(8);
        if record > self.size {
            return Err(no_zip("its 64-bit end record lies outside the file"));
        }
        let record = self.at(record, END_64_LEN)?;
        let field = Fields(&record);
        if field.u32(0) != END_64 {
            return Err(no_zip("its 64-bit end record is missing"));
        }
        Ok((field.u64(48), field.u64(40), field.u64(32)))
    }
}

fn no_zip(problem: &str) -> TorchError {
    TorchError::NotZip { problem: problem.to_owned() }
}

/// Little-endian numbers of a record whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("a slice of N bytes")
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

/// The 64-bit values of an entry, in the order of those that did not fit 32 bits.
struct Wide<'a>(&'a [u8]);

impl<'a> Wide<'a> {
    const ID: u16 = 1;

    fn find(mut extra: &'a [u8]) -> Self {
        while let Some((head, rest)) = extra.split_at_checked(4) {
            let field = Fields(head);
            let Some((body, rest)) = rest.split_at_checked(usize::from(field.u16(2))) else {
                break;
            };
            if field.u16(0) == Self::ID {
                return Self(body);
            }
            extra = rest;
        }
        Self(&[])
    }

    fn take(&mut self) -> Option<u64> {
        let (value, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        Some(Fields(value).u64(0))
    }
}
