//! Metrics and log tails: files beside the store, written by one thread, read by anybody.
//!
//! A batch is acknowledged when it is on disk. Each file remembers which batches of which worker's
//! life it holds, so one that is sent again after a reconnect leaves neither gap nor double. Files
//! are bounded: logs keep their tail, metrics are thinned.

mod changes;
mod journal;
mod places;
mod reader;
mod superseded;
mod thin;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use prost::Message;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use common::ids::JobId;
use proto::v1;

use self::changes::Changes;
pub(crate) use self::changes::Follow;
use self::journal::{Journal, Mark};
pub(crate) use self::places::LogKey;
pub(crate) use self::reader::Reader;
pub(crate) use self::superseded::Histories;

/// Batches that may wait; each worker has at most a few under way.
const QUEUE: usize = 64;

/// Batches that share one sync.
const MAX_GROUP: usize = 32;

/// Journals whose end is remembered, a few hundred bytes each; others are scanned again at their
/// next batch.
const MAX_OPEN: usize = 16_384;

/// A rank's log of one attempt keeps between 3 and 4 of these.
const LOG_SEGMENT_BYTES: u64 = 256 << 10;
const LOG_SEGMENTS: usize = 4;

/// What stays of a rank's log when a later attempt begins.
const OLD_LOG_BYTES: usize = 64 << 10;

/// Attempts whose logs are kept: the first, where the trouble began, and the newest.
const LOG_ATTEMPTS: usize = 16;

/// About 700 000 points; then every series of more than [`thin::KEEP_ALL_BELOW`] is halved, and
/// where thousands of series fill it, shorter ones too.
const METRIC_BYTES: u64 = 16 << 20;

/// Ranks are folder names here; more than any cluster has.
const MAX_RANK: u32 = 1 << 16;

/// A handle on the archive; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    requests: mpsc::Sender<Request>,
    changes: Changes,
    folder: Arc<Path>,
}

#[derive(Debug)]
enum Request {
    Keep {
        batch: v1::BulkBatch,
        reply: oneshot::Sender<io::Result<Kept>>,
    },
    Forget(JobId),
    /// Forget all jobs but these.
    Sweep(BTreeSet<JobId>),
}

/// What was new in a batch: one that is sent again adds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) points: u64,
    pub(crate) lines: u64,
}

/// The archive's thread has ended: the process is stopping.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the archive has stopped")]
    Stopped,
    #[error("write metrics and logs")]
    Io(#[from] io::Error),
}

impl Archive {
    /// Starts the writing thread over `metrics/` and `logs/` in the data folder. The thread ends
    /// when every handle is gone.
    pub(crate) fn start(data_folder: &Path) -> io::Result<Self> {
        for name in ["metrics", "logs"] {
            fs_err::create_dir_all(data_folder.join(name))?;
        }
        let (requests, waiting) = mpsc::channel(QUEUE);
        let changes = Changes::default();
        let folder: Arc<Path> = Arc::from(data_folder);
        let thread = Thread {
            folder: Arc::clone(&folder),
            journals: BTreeMap::new(),
            group: 0,
            changes: changes.clone(),
        };
        thread::Builder::new().name("archive".to_owned()).spawn(move || thread.run(waiting))?;
        Ok(Self { requests, changes, folder })
    }

    /// Keeps a batch, once. On disk when this returns.
    pub(crate) async fn keep(&self, batch: v1::BulkBatch) -> Result<Kept, Error> {
        let (reply, kept) = oneshot::channel();
        let request = Request::Keep { batch, reply };
        self.requests.send(request).await.map_err(|_| Error::Stopped)?;
        Ok(kept.await.map_err(|_| Error::Stopped)??)
    }

    /// Removes what is kept about a job.
    pub(crate) fn forget(&self, job_id: &JobId) {
        self.order(Request::Forget(job_id.clone()));
    }

    /// Removes what is kept about jobs that nobody knows: an earlier life ended before it did so, or
    /// something about them came after it.
    pub(crate) fn sweep(&self, known: BTreeSet<JobId>) {
        self.order(Request::Sweep(known));
    }

    /// Nobody waits for the end of it. Where the queue is full it waits for its place there.
    fn order(&self, request: Request) {
        if let Err(TrySendError::Full(request)) = self.requests.try_send(request) {
            let requests = self.requests.clone();
            service::tasks::spawn(service::tasks::Kind::Finish, "archive-order", async move {
                // The archive's end is the process's; the next life sweeps.
                let _ = requests.send(request).await;
            });
        }
    }

    /// Tells when something new about a job is on disk.
    pub(crate) fn follow(&self, job_id: &JobId) -> Follow {
        self.changes.follow(job_id)
    }

    /// Reads a job's metrics from the beginning.
    pub(crate) fn metrics(&self, job_id: &JobId) -> Reader {
        Reader::new(places::metrics_folder(&self.folder, job_id))
    }

    /// The logs of a job, by generation and rank. Blocking.
    pub(crate) fn logs(&self, job_id: &JobId) -> io::Result<BTreeSet<LogKey>> {
        places::logs(&self.folder, job_id)
    }

    /// Reads one log from its beginning.
    pub(crate) fn log(&self, job_id: &JobId, key: LogKey) -> Reader {
        Reader::new(places::log_folder(&self.folder, job_id, key))
    }
}

struct Thread {
    folder: Arc<Path>,
    journals: BTreeMap<PathBuf, Open>,
    /// Groups that were served.
    group: u64,
    changes: Changes,
}

/// A journal whose end is known.
#[derive(Debug)]
struct Open {
    journal: Journal,
    /// The last group that wrote to it.
    used: u64,
}

/// What a group has written.
#[derive(Debug, Default)]
struct Written {
    folders: BTreeSet<PathBuf>,
    jobs: BTreeMap<JobId, BTreeSet<LogKey>>,
    /// Of the batch that is being written.
    kept: Kept,
}

impl Thread {
    fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut requests = vec![first];
            while requests.len() < MAX_GROUP {
                match waiting.try_recv() {
                    Ok(request) => requests.push(request),
                    Err(_) => break,
                }
            }
            self.serve(requests);
        }
    }

    /// Writes a group, syncs each touched file once, then answers.
    fn serve(&mut self, requests: Vec<Request>) {
        let mut replies = Vec::new();
        let mut written = Written::default();
        self.group += 1;
        for request in requests {
            match request {
                Request::Keep { batch, reply } => {
                    replies.push((reply, self.write(batch, &mut written)));
                }
                Request::Forget(job_id) => self.forget(&job_id),
                Request::Sweep(known) => self.sweep(&known),
            }
        }
        let synced = self.sync(&written.folders);
        for (reply, written) in replies {
            let result = match (&synced, written) {
                (Ok(()), written) => written,
                (Err(error), _) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // A stream that ended sends the batch again.
            let _ = reply.send(result);
        }
        for (job_id, logs) in &written.jobs {
            self.changes.tell(job_id, logs);
        }
        if self.journals.len() > MAX_OPEN {
            self.close_older_half();
        }
    }

    /// Half at once, so that looking for the oldest ones costs little for each.
    fn close_older_half(&mut self) {
        let mut used: Vec<u64> = self.journals.values().map(|open| open.used).collect();
        used.sort_unstable();
        let middle = used.get(used.len() / 2).copied().unwrap_or(0);
        let now = self.group;
        // A torn one is the only one that knows what of it is not on disk.
        let stays = |open: &Open| open.used > middle || open.used == now || open.journal.is_torn();
        self.journals.retain(|_, open| stays(open));
    }

    fn write(&mut self, batch: v1::BulkBatch, written: &mut Written) -> io::Result<Kept> {
        written.kept = Kept::default();
        let mark = Mark { life: (batch.uuid, batch.incarnation), sequence: batch.sequence };
        // A batch may hold several attempts of a job; each file takes it once.
        let mut metrics: BTreeMap<JobId, Vec<v1::JobBulk>> = BTreeMap::new();
        let mut logs: BTreeMap<(JobId, LogKey), Vec<v1::LogLine>> = BTreeMap::new();
        for job in batch.jobs {
            // The front has checked it; a path is never built from anything else.
            let Ok(job_id) = job.job_id.parse::<JobId>() else { continue };
            if !job.metrics.is_empty() {
                let generation = job.generation;
                let part = v1::JobBulk { generation, metrics: job.metrics, ..Default::default() };
                metrics.entry(job_id.clone()).or_default().push(part);
            }
            for lines in job.logs.into_iter().filter(|lines| lines.rank < MAX_RANK) {
                let key = LogKey { generation: job.generation, rank: lines.rank };
                logs.entry((job_id.clone(), key)).or_default().extend(lines.lines);
            }
        }
        for (job_id, parts) in metrics {
            self.write_metrics(&mark, &job_id, parts, written)?;
        }
        for ((job_id, key), lines) in logs {
            self.write_lines(&mark, (&job_id, key), lines, written)?;
        }
        Ok(written.kept)
    }

    fn write_metrics(
        &mut self,
        mark: &Mark,
        job_id: &JobId,
        parts: Vec<v1::JobBulk>,
        written: &mut Written,
    ) -> io::Result<()> {
        let folder = places::metrics_folder(&self.folder, job_id);
        let series = parts.iter().flat_map(|part| &part.metrics);
        let points: u64 = series.map(|series| series.points.len() as u64).sum();
        let entry = envelope(mark, parts);
        let journal = self.journal(&folder)?;
        if journal.append(mark, &entry)? {
            written.kept.points += points;
            if journal.has_outgrown(METRIC_BYTES) {
                thin::thin(journal)?;
            }
        }
        written.folders.insert(folder);
        written.jobs.entry(job_id.clone()).or_default();
        Ok(())
    }

    fn write_lines(
        &mut self,
        mark: &Mark,
        (job_id, key): (&JobId, LogKey),
        lines: Vec<v1::LogLine>,
        written: &mut Written,
    ) -> io::Result<()> {
        let folder = places::log_folder(&self.folder, job_id, key);
        let is_new = !self.journals.contains_key(&folder) && !folder.exists();
        if is_new && !self.make_room(job_id, key)? {
            return Ok(());
        }
        let journal = self.journal(&folder)?;
        let (first, count) = (journal.next_line(), lines.len() as u64);
        let logs = vec![v1::LogLines { rank: key.rank, lines, first, ..Default::default() }];
        let part = v1::JobBulk { logs, ..Default::default() };
        if journal.append(mark, &envelope(mark, vec![part]))? {
            written.kept.lines += count;
            journal.count_lines(count);
            journal.keep_tail(LOG_SEGMENT_BYTES, LOG_SEGMENTS)?;
        }
        written.folders.insert(folder);
        written.jobs.entry(job_id.clone()).or_default().insert(key);
        Ok(())
    }

    /// Before a rank's first line of an attempt: of its log before, the tail stays, and of the
    /// oldest attempts nothing. False: this attempt is one of those, its lines came too late.
    fn make_room(&mut self, job_id: &JobId, new: LogKey) -> io::Result<bool> {
        let mut generations = places::generations(&self.folder, job_id)?;
        generations.insert(new.generation);
        let surplus = generations.len().saturating_sub(LOG_ATTEMPTS);
        let gone: Vec<u64> = generations.iter().copied().skip(1).take(surplus).collect();
        if gone.contains(&new.generation) {
            return Ok(false);
        }
        // Those before it were cut when it began itself.
        let older = generations.range(..new.generation).rev();
        let folder_of = |generation: &u64| {
            let key = LogKey { generation: *generation, ..new };
            places::log_folder(&self.folder, job_id, key)
        };
        let before = older.map(folder_of).find(|folder| folder.exists());
        if let Some(folder) = before {
            let journal = self.journal(&folder)?;
            journal.cut_to_tail(OLD_LOG_BYTES)?;
            // Hardly anything is still to come for it. What this group wrote to it is acknowledged
            // soon.
            journal.sync()?;
            self.journals.remove(&folder);
        }
        for generation in gone {
            let under = format!("generation-{generation}");
            let logs = places::logs_folder(&self.folder, job_id);
            self.journals.retain(|path, _| !path.starts_with(logs.join(&under)));
            places::remove_generation(&self.folder, job_id, generation)?;
        }
        Ok(true)
    }

    fn journal(&mut self, folder: &Path) -> io::Result<&mut Journal> {
        if !self.journals.contains_key(folder) {
            let journal = Journal::open(folder)?;
            self.journals.insert(folder.to_owned(), Open { journal, used: self.group });
        }
        let open = self.journals.get_mut(folder).expect("it was inserted above");
        if open.used != self.group {
            // Not in the group in which its sync failed: batches of that one still rely on it.
            open.journal.mend()?;
        }
        open.used = self.group;
        Ok(&mut open.journal)
    }

    /// Every one, also after an error: what stayed unsynced would be taken for synced once its
    /// journal is opened again. The first error.
    fn sync(&mut self, touched: &BTreeSet<PathBuf>) -> io::Result<()> {
        let mut synced = Ok(());
        for folder in touched {
            if let Some(open) = self.journals.get_mut(folder) {
                synced = synced.and(open.journal.sync());
            }
        }
        synced
    }

    fn sweep(&mut self, known: &BTreeSet<JobId>) {
        let kept = match places::jobs(&self.folder) {
            Ok(kept) => kept,
            Err(error) => return warn!(%error, "files of forgotten jobs stay"),
        };
        for job_id in kept.difference(known) {
            info!(%job_id, "what was left of a forgotten job is removed");
            self.forget(job_id);
        }
    }

    fn forget(&mut self, job_id: &JobId) {
        let metrics = places::metrics_folder(&self.folder, job_id);
        let logs = places::logs_folder(&self.folder, job_id);
        self.journals.retain(|path, _| !path.starts_with(&metrics) && !path.starts_with(&logs));
        for folder in [metrics, logs] {
            if folder.exists()
                && let Err(error) = fs_err::remove_dir_all(&folder)
            {
                warn!(%job_id, %error, "the job's files stay");
            }
        }
        self.changes.forget(job_id);
    }
}

/// What a journal holds: one job's part of a batch, and whose batch it was.
fn envelope(mark: &Mark, jobs: Vec<v1::JobBulk>) -> Vec<u8> {
    let batch = v1::BulkBatch {
        sequence: mark.sequence,
        uuid: mark.life.0.clone(),
        incarnation: mark.life.1,
        jobs,
    };
    batch.encode_to_vec()
}
