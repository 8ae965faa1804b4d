//! An append-only file in segments: `00000001.bin`, `00000002.bin`, ... Each entry is length,
//! crc32c and a protobuf `BulkBatch` whose head says which batch of whom it is.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use prost::Message;

use proto::v1;

/// Length and crc32c, little-endian.
pub(super) const HEADER: usize = 8;

/// Larger than any batch: a length beyond it is damage.
pub(super) const MAX_ENTRY: usize = service::transport::MAX_MESSAGE_BYTES;

/// Lives of workers that are remembered per journal: all nodes of a large job write into one, and a
/// batch of a life that is forgotten could be kept twice.
const MAX_LIVES: usize = 4096;

/// A worker's uuid and incarnation.
pub(super) type Life = (String, u64);

/// One batch of one worker's life.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) life: Life,
    pub(super) sequence: u64,
}

#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    /// Index and length, oldest first; the last one is written to.
    segments: Vec<(u64, u64)>,
    /// Of a log: the number that its next line gets.
    next_line: u64,
    /// The newest batch of each life that is in here.
    marks: BTreeMap<Life, u64>,
    /// The segment that has unsynced bytes.
    open: Option<Unsynced>,
    /// A sync failed: of the current segment only so much is on disk for certain. Nothing is
    /// appended, and nothing counts as synced, before [`Journal::mend`].
    torn_at: Option<u64>,
    /// Length after the last rewrite.
    rewritten: u64,
}

#[derive(Debug)]
struct Unsynced {
    file: fs::File,
    /// Length of what is on disk for certain.
    synced: u64,
}

impl Journal {
    /// Opens a journal, cutting off an entry that a crash left incomplete.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut journal = Self {
            folder: folder.to_owned(),
            segments: Vec::new(),
            next_line: 0,
            marks: BTreeMap::new(),
            open: None,
            torn_at: None,
            rewritten: 0,
        };
        for index in indices(folder)? {
            let path = segment_path(folder, index);
            let bytes = fs::read(&path)?;
            let whole = journal.scan(&bytes);
            if whole < bytes.len() {
                tracing::warn!(path = %path.display(), cut = bytes.len() - whole, "incomplete end cut off");
                fs::OpenOptions::new().write(true).open(&path)?.set_len(whole as u64)?;
            }
            journal.segments.push((index, whole as u64));
        }
        if journal.segments.is_empty() {
            journal.segments.push((1, 0));
        }
        Ok(journal)
    }

    /// Takes the marks of a segment; gives the length of its whole entries.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(entry) = entry_at(bytes, at) {
            if let Ok(batch) = v1::BulkBatch::decode(entry) {
                let logs = batch.jobs.iter().flat_map(|job| &job.logs);
                for lines in logs {
                    // An entry without numbers is of a version that did not count.
                    let first = lines.first.max(self.next_line);
                    self.next_line = first + lines.lines.len() as u64;
                }
                self.mark(&Mark {
                    life: (batch.uuid, batch.incarnation),
                    sequence: batch.sequence,
                });
            }
            at += HEADER + entry.len();
        }
        at
    }

    fn mark(&mut self, mark: &Mark) {
        let newest = self.marks.entry(mark.life.clone()).or_default();
        *newest = mark.sequence.max(*newest);
        if self.marks.len() > MAX_LIVES {
            // The oldest life of some worker; its spool is long gone.
            let others = self.marks.keys().filter(|life| **life != mark.life);
            let oldest = others.min_by_key(|(_, incarnation)| *incarnation).cloned();
            if let Some(oldest) = oldest {
                self.marks.remove(&oldest);
            }
        }
    }

    /// The number of a log's next line.
    pub(super) fn next_line(&self) -> u64 {
        self.next_line
    }

    /// So many lines were appended.
    pub(super) fn count_lines(&mut self, count: u64) {
        self.next_line += count;
    }

    /// Appends an entry unless the journal has it; whether it was new. Durable after
    /// [`Journal::sync`].
    pub(super) fn append(&mut self, mark: &Mark, entry: &[u8]) -> io::Result<bool> {
        self.check_whole()?;
        if self.marks.get(&mark.life).is_some_and(|newest| *newest >= mark.sequence) {
            return Ok(false);
        }
        let (index, len) = *self.current();
        let path = segment_path(&self.folder, index);
        let Unsynced { file, .. } = match &mut self.open {
            Some(open) => open,
            None => {
                let is_new = len == 0;
                let file = fs::OpenOptions::new().append(true).create(true).open(path)?;
                if is_new {
                    service::files::sync_folder(&self.folder)?;
                }
                self.open.insert(Unsynced { file, synced: len })
            }
        };
        let framed = framed(entry);
        if let Err(error) = file.write_all(&framed) {
            // A part of it may be in the file: nothing may follow it.
            let _ = file.set_len(len);
            return Err(error);
        }
        self.current().1 += framed.len() as u64;
        self.mark(mark);
        Ok(true)
    }

    fn current(&mut self) -> &mut (u64, u64) {
        self.segments.last_mut().expect("a journal has at least one segment")
    }

    pub(super) fn len(&self) -> u64 {
        self.segments.iter().map(|(_, len)| len).sum()
    }

    /// Whether it is larger than this and has grown by half since it was last made smaller: where
    /// that cannot help enough, it is not done again for every entry.
    pub(super) fn has_outgrown(&self, bytes: u64) -> bool {
        self.len() > bytes.max(self.rewritten + self.rewritten / 2)
    }

    /// After an error nothing that was appended since the last sync counts: the system may have
    /// dropped it and say of a second sync that all is well.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.check_whole()?;
        let Some(Unsynced { file, synced }) = self.open.take() else { return Ok(()) };
        file.sync_data().inspect_err(|_| self.torn_at = Some(synced))
    }

    pub(super) fn is_torn(&self) -> bool {
        self.torn_at.is_some()
    }

    fn check_whole(&self) -> io::Result<()> {
        match self.torn_at {
            Some(_) => Err(io::Error::other("an earlier sync failed")),
            None => Ok(()),
        }
    }

    /// After a failed sync: cuts off what may not be on disk, and forgets its marks with it, so that
    /// what is sent again is written again.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        let Some(synced) = self.torn_at else { return Ok(()) };
        let (index, _) = *self.current();
        let file = fs::OpenOptions::new().write(true).open(segment_path(&self.folder, index))?;
        file.set_len(synced)?;
        file.sync_all()?;
        *self = Self { rewritten: self.rewritten, ..Self::open(&self.folder)? };
        Ok(())
    }

    /// Starts a new segment when the current one is full, and drops the oldest.
    pub(super) fn keep_tail(&mut self, segment_bytes: u64, segments: usize) -> io::Result<()> {
        let (index, len) = *self.current();
        if len < segment_bytes {
            return Ok(());
        }
        self.sync()?;
        self.segments.push((index + 1, 0));
        while self.segments.len() > segments {
            let (oldest, _) = self.segments.remove(0);
            match fs::remove_file(segment_path(&self.folder, oldest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps the last entries of at least this many bytes together. Costs nothing where that was
    /// done before.
    pub(super) fn cut_to_tail(&mut self, bytes: usize) -> io::Result<()> {
        if self.len() <= bytes as u64 {
            return Ok(());
        }
        let mut entries = self.entries()?;
        // Of a journal that was written anew the first ones are marks alone, and are there again.
        entries.retain(|entry| !entry.jobs.is_empty());
        let mut kept = 0;
        let mut start = entries.len();
        while start > 0 && kept < bytes {
            start -= 1;
            kept += entries[start].encoded_len();
        }
        match start {
            0 => Ok(()),
            _ => self.rewrite(&entries.split_off(start)),
        }
    }

    /// Every entry, oldest first.
    pub(super) fn entries(&mut self) -> io::Result<Vec<v1::BulkBatch>> {
        self.sync()?;
        let mut entries = Vec::new();
        for (index, len) in &self.segments {
            if *len == 0 {
                continue;
            }
            let bytes = fs::read(segment_path(&self.folder, *index))?;
            let mut at = 0;
            while let Some(entry) = entry_at(&bytes, at) {
                entries.extend(v1::BulkBatch::decode(entry).ok());
                at += HEADER + entry.len();
            }
        }
        Ok(entries)
    }

    /// Replaces everything by these entries, in one new segment that appears whole.
    pub(super) fn rewrite(&mut self, entries: &[v1::BulkBatch]) -> io::Result<()> {
        let index = self.current().0 + 1;
        let mut bytes = Vec::new();
        // The marks stay, also those of batches that are thinned away.
        let marks = self.marks.iter().map(|((uuid, incarnation), sequence)| v1::BulkBatch {
            sequence: *sequence,
            uuid: uuid.clone(),
            incarnation: *incarnation,
            jobs: Vec::new(),
        });
        for entry in marks {
            bytes.extend(framed(&entry.encode_to_vec()));
        }
        for entry in entries {
            bytes.extend(framed(&entry.encode_to_vec()));
        }
        service::files::replace(&segment_path(&self.folder, index), &bytes)?;
        self.rewritten = bytes.len() as u64;
        for (old, _) in std::mem::replace(&mut self.segments, vec![(index, bytes.len() as u64)]) {
            match fs::remove_file(segment_path(&self.folder, old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn framed(entry: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER + entry.len());
    framed.extend((entry.len() as u32).to_le_bytes());
    framed.extend(crc32c::crc32c(entry).to_le_bytes());
    framed.extend(entry);
    framed
}

/// The whole entry that begins at `at`, if there is one.
pub(super) fn entry_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let header: &[u8; HEADER] = bytes.get(at..)?.first_chunk()?;
    let [l0, l1, l2, l3, crc @ ..] = *header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_ENTRY {
        return None;
    }
    let entry = bytes.get(at + HEADER..)?.get(..len)?;
    (crc32c::crc32c(entry) == u32::from_le_bytes(crc)).then_some(entry)
}

/// Segments that exist, oldest first.
pub(super) fn indices(folder: &Path) -> io::Result<Vec<u64>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut indices = Vec::new();
    for entry in listed {
        let name = entry?.file_name();
        let index: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".bin")?.parse().ok());
        indices.extend(index);
    }
    indices.sort_unstable();
    Ok(indices)
}

pub(super) fn segment_path(folder: &Path, index: u64) -> PathBuf {
    folder.join(format!("{index:08}.bin"))
}
