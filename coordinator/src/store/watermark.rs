//! How far acknowledgements reach, written outside of sled: the only way to notice that it rolled
//! back without an error.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_err as fs;

const FILE: &str = "acked";

/// The number, then its crc32c, then zeros: one write inside one sector.
const LEN: usize = 24;

#[derive(Debug)]
pub(super) struct Watermark {
    file: fs::File,
    written: u64,
}

impl Watermark {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Self { file, written: 0 })
    }

    /// The number on disk. None: never written, or torn; neither proves anything.
    pub(super) fn read(folder: &Path) -> io::Result<Option<u64>> {
        match fs::read(folder.join(FILE)) {
            Ok(bytes) => Ok(parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Durable when this returns.
    pub(super) fn write(&mut self, acknowledged: u64) -> io::Result<()> {
        if self.written == acknowledged && acknowledged != 0 {
            return Ok(());
        }
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&acknowledged.to_le_bytes());
        bytes[8..12].copy_from_slice(&crc32c::crc32c(&acknowledged.to_le_bytes()).to_le_bytes());
        self.file.file().write_all_at(&bytes, 0)?;
        self.file.file().sync_data()?;
        self.written = acknowledged;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let number = bytes.get(..8)?;
    let crc = u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    (crc32c::crc32c(number) == crc).then(|| number.try_into().map(u64::from_le_bytes).ok())?
}
