//! Metrics and log lines on their way to the coordinator. Whoever produces them never waits: the
//! spool has a bound, and what it had to leave out is counted per attempt and told by the next batch.
//! Batches stay until they are acknowledged, the first few in memory, the rest as files in the state
//! folder, so that neither a coordinator's nor a worker's restart leaves a gap. Knows nothing of
//! connections.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use fs_err as fs;
use prost::Message;
use proto::v1::{BulkBatch, JobBulk, LogLine, LogLines, MetricSeries};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

const FOLDER: &str = "spool";

/// A batch is cut at this size even when nobody asks for one.
const BATCH_BYTES: usize = 256 << 10;

/// The bounds of a spool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Unacknowledged batches kept in memory; further ones go to disk.
    pub(crate) memory_bytes: usize,
    /// Unacknowledged batches at all; beyond it the oldest are dropped.
    pub(crate) total_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        // Hours of two busy ranks on disk; little enough in memory for a 50 MiB daemon.
        Self { memory_bytes: 4 << 20, total_bytes: 64 << 20 }
    }
}

/// Of one attempt of one job.
pub(crate) type Key = (String, u64);

#[derive(Debug)]
pub(crate) struct Spool {
    /// Guards everything; held for moving values and for writing one small file, never over an
    /// await.
    inner: Mutex<Inner>,
    /// There is something to send.
    pub(crate) wake: Notify,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    bounds: Bounds,
    pending: BTreeMap<Key, Pending>,
    pending_bytes: usize,
    batches: VecDeque<Batch>,
    next_sequence: u64,
    /// What no batch has told yet.
    dropped: BTreeMap<Key, u64>,
}

#[derive(Debug, Default)]
struct Pending {
    metrics: BTreeMap<(String, u32), MetricSeries>,
    logs: BTreeMap<u32, LogLines>,
}

#[derive(Debug)]
struct Batch {
    sequence: u64,
    bytes: usize,
    /// None: in its file.
    memory: Option<BulkBatch>,
}

impl Spool {
    /// Opens the folder; what an earlier life left is sent first, under new numbers.
    pub(crate) fn open(state_dir: &Path, bounds: Bounds) -> io::Result<Self> {
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut old: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(number) = number {
                old.push((number, path));
            }
        }
        old.sort();
        let mut batches = VecDeque::new();
        for (sequence, (_, path)) in (1..).zip(old) {
            let bytes = usize::try_from(fs::metadata(&path)?.len()).unwrap_or(usize::MAX);
            // In growing order and never upwards, so no rename meets a file still to come.
            fs::rename(&path, batch_path(&folder, sequence))?;
            batches.push_back(Batch { sequence, bytes, memory: None });
        }
        let next_sequence = batches.len() as u64 + 1;
        let inner = Inner {
            folder,
            bounds,
            pending: BTreeMap::new(),
            pending_bytes: 0,
            batches,
            next_sequence,
            dropped: BTreeMap::new(),
        };
        Ok(Self { inner: Mutex::new(inner), wake: Notify::new() })
    }

    pub(crate) fn push_metrics(&self, key: &Key, series: Vec<MetricSeries>) {
        self.with(|inner| {
            inner.pending_bytes += series.iter().map(Message::encoded_len).sum::<usize>();
            let pending = inner.pending.entry(key.clone()).or_default();
            for one in series {
                let id = (one.name.clone(), one.rank);
                match pending.metrics.get_mut(&id) {
                    Some(known) => known.points.extend(one.points),
                    None => _ = pending.metrics.insert(id, one),
                }
            }
        });
    }

    pub(crate) fn push_line(&self, key: &Key, rank: u32, line: LogLine) {
        self.with(|inner| {
            inner.pending_bytes += line.encoded_len();
            let pending = inner.pending.entry(key.clone()).or_default();
            let logs = pending.logs.entry(rank).or_default();
            logs.rank = rank;
            logs.lines.push(line);
        });
    }

    /// Counts values that were left out before they reached the spool.
    pub(crate) fn count_dropped(&self, key: &Key, count: u64) {
        self.with(|inner| inner.drop_count(key, count));
    }

    fn with(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        if inner.pending_bytes >= BATCH_BYTES {
            inner.cut();
        }
        drop(inner);
        self.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// The oldest unacknowledged batch after `sequence`; pending values become one if there is
    /// none.
    pub(crate) fn next_after(&self, sequence: u64) -> Option<BulkBatch> {
        let mut inner = self.lock();
        if inner.batches.back().is_none_or(|last| last.sequence <= sequence) {
            inner.cut();
        }
        inner.read_after(sequence)
    }

    /// Everything up to `sequence` has arrived.
    pub(crate) fn acknowledge(&self, sequence: u64) {
        let mut inner = self.lock();
        while inner.batches.front().is_some_and(|first| first.sequence <= sequence) {
            inner.forget_oldest();
        }
    }

    /// Waits until all that is in the spool now has arrived, at most `within`. Cancel-safe.
    pub(crate) async fn arrived(&self, within: Duration) {
        const POLL: Duration = Duration::from_millis(5);
        let last = {
            let mut inner = self.lock();
            inner.cut();
            inner.next_sequence - 1
        };
        let is_on_its_way =
            || self.lock().batches.front().is_some_and(|first| first.sequence <= last);
        let deadline = Instant::now() + within;
        while is_on_its_way() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.batches.is_empty() && inner.pending.is_empty()
    }

    /// Moves everything to disk, for the next life.
    pub(crate) fn persist(&self) {
        let mut inner = self.lock();
        inner.cut();
        inner.move_all_to_disk();
        // What did not go there is told by one more batch, which is small.
        inner.cut();
        inner.move_all_to_disk();
    }

    /// The attempt is over and acknowledged: a count that nothing follows is of no more use.
    pub(crate) fn forget_job(&self, key: &Key) {
        let mut inner = self.lock();
        if !inner.pending.contains_key(key) {
            inner.dropped.remove(key);
        }
    }
}

impl Inner {
    fn drop_count(&mut self, key: &Key, count: u64) {
        if count > 0 {
            *self.dropped.entry(key.clone()).or_default() += count;
            // An entry, though empty, so that the count itself is told.
            self.pending.entry(key.clone()).or_default();
        }
    }

    /// Makes a batch of what is pending.
    fn cut(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.pending_bytes = 0;
        let jobs = std::mem::take(&mut self.pending)
            .into_iter()
            .map(|(key, pending)| JobBulk {
                dropped: self.dropped.remove(&key).unwrap_or(0),
                job_id: key.0,
                generation: key.1,
                metrics: pending.metrics.into_values().collect(),
                logs: pending.logs.into_values().collect(),
            })
            .collect();
        let body = BulkBatch { sequence: self.next_sequence, jobs, ..Default::default() };
        self.next_sequence += 1;
        let mut batch =
            Batch { sequence: body.sequence, bytes: body.encoded_len(), memory: Some(body) };
        if self.memory_bytes() + batch.bytes > self.bounds.memory_bytes {
            self.move_to_disk(&mut batch);
        }
        self.batches.push_back(batch);
        while self.batches.iter().map(|b| b.bytes).sum::<usize>() > self.bounds.total_bytes {
            self.drop_oldest();
        }
    }

    fn memory_bytes(&self) -> usize {
        self.batches.iter().filter(|b| b.memory.is_some()).map(|b| b.bytes).sum()
    }

    fn move_all_to_disk(&mut self) {
        let mut batches = std::mem::take(&mut self.batches);
        batches.iter_mut().for_each(|batch| self.move_to_disk(batch));
        self.batches = batches;
    }

    fn move_to_disk(&mut self, batch: &mut Batch) {
        let Some(body) = batch.memory.take() else { return };
        let path = batch_path(&self.folder, batch.sequence);
        if let Err(error) = fs::write(&path, body.encode_to_vec()) {
            warn!(%error, "metrics and log lines dropped");
            // A part of it may be there and takes the room of others; where there is none, so much
            // the better.
            let _ = fs::remove_file(&path);
            self.count_lost(&body);
            batch.bytes = 0;
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(first) = self.batches.front() {
            let sequence = first.sequence;
            if let Some(body) = self.read_after(sequence - 1).filter(|b| b.sequence == sequence) {
                self.count_lost(&body);
            }
        }
        self.forget_oldest();
    }

    fn count_lost(&mut self, body: &BulkBatch) {
        for job in &body.jobs {
            let points: usize = job.metrics.iter().map(|series| series.points.len()).sum();
            let lines: usize = job.logs.iter().map(|logs| logs.lines.len()).sum();
            let key = (job.job_id.clone(), job.generation);
            if job.dropped > 0 {
                // What it would have told waits for the next: a batch of counts alone must not be
                // the cause of another one.
                *self.dropped.entry(key.clone()).or_default() += job.dropped;
            }
            self.drop_count(&key, (points + lines) as u64);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(batch) = self.batches.pop_front()
            && batch.memory.is_none()
        {
            // A file that is left over is sent again by the next life; the receiver's sequence
            // and the points' steps make that harmless.
            let _ = fs::remove_file(batch_path(&self.folder, batch.sequence));
        }
    }

    fn read_after(&mut self, sequence: u64) -> Option<BulkBatch> {
        let at = self.batches.partition_point(|batch| batch.sequence <= sequence);
        for batch in self.batches.iter().skip(at) {
            if let Some(body) = &batch.memory {
                return Some(body.clone());
            }
            let path = batch_path(&self.folder, batch.sequence);
            let read = fs::read(&path).map(|bytes| BulkBatch::decode(bytes.as_slice()));
            match read {
                Ok(Ok(body)) => return Some(BulkBatch { sequence: batch.sequence, ..body }),
                Ok(Err(error)) => warn!(path = %path.display(), %error, "damaged batch skipped"),
                Err(error) => warn!(%error, "batch skipped"),
            }
        }
        None
    }
}

fn batch_path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{sequence:012}.batch"))
}

#[cfg(test)]
mod tests;
