//! Reads a journal while it is written: gives what is whole, and goes on where it stopped.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use fs_err as fs;
use prost::Message;

use proto::v1;

use crate::archive::journal::{HEADER, entry_at, indices, segment_path};

/// Read at once; a larger entry is read whole.
const CHUNK: usize = 256 << 10;

/// A place in a journal.
#[derive(Debug)]
pub(crate) struct Reader {
    folder: PathBuf,
    /// 0: before the first segment.
    segment: u64,
    offset: u64,
}

impl Reader {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, segment: 0, offset: 0 }
    }

    /// The next entries, about a chunk of them; empty: nothing new yet. Blocking.
    ///
    /// A segment that vanished under the reader was dropped from the tail, or thinned into a newer
    /// one: it goes on at the beginning of the oldest that is left. Metrics that come twice by that
    /// are told by their time.
    pub(crate) fn next(&mut self) -> io::Result<Vec<v1::BulkBatch>> {
        loop {
            let segments = indices(&self.folder)?;
            if !segments.contains(&self.segment) {
                let Some(oldest) = segments.iter().find(|index| **index > self.segment) else {
                    return Ok(Vec::new());
                };
                (self.segment, self.offset) = (*oldest, 0);
            }
            let entries = match self.read_here() {
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            if !entries.is_empty() {
                return Ok(entries);
            }
            match segments.iter().find(|index| **index > self.segment) {
                Some(next) => (self.segment, self.offset) = (*next, 0),
                None => return Ok(Vec::new()),
            }
        }
    }

    fn read_here(&mut self) -> io::Result<Vec<v1::BulkBatch>> {
        let mut file = fs::File::open(segment_path(&self.folder, self.segment))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.by_ref().take(CHUNK as u64).read_to_end(&mut bytes)?;
        if entry_at(&bytes, 0).is_none() && bytes.len() == CHUNK {
            // One entry larger than a chunk: its header says how large.
            let len = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            let missing = (len + HEADER).saturating_sub(bytes.len());
            file.take(missing as u64).read_to_end(&mut bytes)?;
        }
        let mut entries = Vec::new();
        let mut at = 0;
        while let Some(entry) = entry_at(&bytes, at) {
            entries.extend(v1::BulkBatch::decode(entry).ok());
            at += HEADER + entry.len();
        }
        self.offset += at as u64;
        Ok(entries)
    }
}
