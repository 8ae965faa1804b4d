//! Metrics and log tails: files beside the store, written by one thread, read by anybody.
//!
//! A batch is acknowledged when it is on disk. Each file remembers which batches of which worker's
//! life it holds, so one that is sent again after a reconnect leaves neither gap nor double. Files
//! are bounded: logs keep their tail, metrics are thinned.

mod journal;
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
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use common::ids::JobId;
use proto::v1;

use self::journal::{Journal, Mark};
pub(crate) use self::reader::Reader;
pub(crate) use self::superseded::Histories;

/// Batches that may wait; each worker has at most a few under way.
const QUEUE: usize = 64;

/// Batches that share one sync.
const MAX_GROUP: usize = 32;

/// Journals whose end is remembered; others are scanned again at their next batch.
const MAX_OPEN: usize = 512;

/// A rank's log keeps between 3 and 4 of these.
const LOG_SEGMENT_BYTES: u64 = 256 << 10;
const LOG_SEGMENTS: usize = 4;

/// About 700 000 points; then every series of more than [`thin::KEEP_ALL_BELOW`] is halved.
const METRIC_BYTES: u64 = 16 << 20;

/// Ranks are folder names here; more than any cluster has.
const MAX_RANK: u32 = 1 << 16;

/// A handle on the archive; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    requests: mpsc::Sender<Request>,
    /// Grows with every group that is on disk.
    version: watch::Receiver<u64>,
    folder: Arc<Path>,
}

#[derive(Debug)]
enum Request {
    Keep { batch: v1::BulkBatch, reply: oneshot::Sender<io::Result<()>> },
    Forget(JobId),
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
        let (bump, version) = watch::channel(0);
        let folder: Arc<Path> = Arc::from(data_folder);
        let thread = Thread { folder: Arc::clone(&folder), journals: BTreeMap::new(), bump };
        thread::Builder::new().name("archive".to_owned()).spawn(move || thread.run(waiting))?;
        Ok(Self { requests, version, folder })
    }

    /// Keeps a batch, once. On disk when this returns.
    pub(crate) async fn keep(&self, batch: v1::BulkBatch) -> Result<(), Error> {
        let (reply, kept) = oneshot::channel();
        let request = Request::Keep { batch, reply };
        self.requests.send(request).await.map_err(|_| Error::Stopped)?;
        Ok(kept.await.map_err(|_| Error::Stopped)??)
    }

    /// Removes what is kept about a job.
    pub(crate) fn forget(&self, job_id: &JobId) {
        if self.requests.try_send(Request::Forget(job_id.clone())).is_err() {
            warn!(%job_id, "archive is busy: the job's files stay");
        }
    }

    /// Changes whenever something new is on disk.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    /// Reads a job's metrics from the beginning.
    pub(crate) fn metrics(&self, job_id: &JobId) -> Reader {
        Reader::new(metrics_folder(&self.folder, job_id))
    }

    /// Ranks of a job that have a log.
    pub(crate) fn ranks(&self, job_id: &JobId) -> io::Result<Vec<u32>> {
        let folder = self.folder.join("logs").join(job_id.as_str());
        let listed = match fs_err::read_dir(folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut ranks = Vec::new();
        for entry in listed {
            let name = entry?.file_name();
            ranks.extend(name.to_str().and_then(|n| n.strip_prefix("rank-")?.parse::<u32>().ok()));
        }
        ranks.sort_unstable();
        Ok(ranks)
    }

    /// Reads one rank's log tail from its beginning.
    pub(crate) fn log(&self, job_id: &JobId, rank: u32) -> Reader {
        Reader::new(log_folder(&self.folder, job_id, rank))
    }
}

fn metrics_folder(folder: &Path, job_id: &JobId) -> PathBuf {
    folder.join("metrics").join(job_id.as_str())
}

fn log_folder(folder: &Path, job_id: &JobId, rank: u32) -> PathBuf {
    folder.join("logs").join(job_id.as_str()).join(format!("rank-{rank}"))
}

struct Thread {
    folder: Arc<Path>,
    journals: BTreeMap<PathBuf, Journal>,
    bump: watch::Sender<u64>,
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
        let mut touched = BTreeSet::new();
        for request in requests {
            match request {
                Request::Keep { batch, reply } => {
                    replies.push((reply, self.write(batch, &mut touched)));
                }
                Request::Forget(job_id) => self.forget(&job_id),
            }
        }
        let synced = self.sync(&touched);
        for (reply, written) in replies {
            let result = match (&synced, written) {
                (Ok(()), written) => written,
                (Err(error), _) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // A stream that ended sends the batch again.
            let _ = reply.send(result);
        }
        self.bump.send_modify(|version| *version += 1);
        while self.journals.len() > MAX_OPEN {
            self.journals.pop_first();
        }
    }

    fn write(&mut self, batch: v1::BulkBatch, touched: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let mark = Mark { life: (batch.uuid.clone(), batch.incarnation), sequence: batch.sequence };
        for job in batch.jobs {
            // The front has checked it; a path is never built from anything else.
            let Ok(job_id) = job.job_id.parse::<JobId>() else { continue };
            let generation = job.generation;
            let envelope = |metrics, logs| v1::BulkBatch {
                sequence: mark.sequence,
                uuid: mark.life.0.clone(),
                incarnation: mark.life.1,
                jobs: vec![v1::JobBulk { generation, metrics, logs, ..Default::default() }],
            };
            if !job.metrics.is_empty() {
                let folder = metrics_folder(&self.folder, &job_id);
                let entry = envelope(job.metrics, Vec::new()).encode_to_vec();
                let journal = self.journal(&folder)?;
                if journal.append(&mark, &entry)? && journal.len() > METRIC_BYTES {
                    thin::thin(journal)?;
                }
                touched.insert(folder);
            }
            let mut ranks: BTreeMap<u32, Vec<v1::LogLine>> = BTreeMap::new();
            for lines in job.logs.into_iter().filter(|lines| lines.rank < MAX_RANK) {
                ranks.entry(lines.rank).or_default().extend(lines.lines);
            }
            for (rank, lines) in ranks {
                let folder = log_folder(&self.folder, &job_id, rank);
                let entry = envelope(Vec::new(), vec![v1::LogLines { rank, lines }]);
                let journal = self.journal(&folder)?;
                if journal.append(&mark, &entry.encode_to_vec())? {
                    journal.keep_tail(LOG_SEGMENT_BYTES, LOG_SEGMENTS)?;
                }
                touched.insert(folder);
            }
        }
        Ok(())
    }

    fn journal(&mut self, folder: &Path) -> io::Result<&mut Journal> {
        if !self.journals.contains_key(folder) {
            self.journals.insert(folder.to_owned(), Journal::open(folder)?);
        }
        Ok(self.journals.get_mut(folder).expect("it was inserted above"))
    }

    fn sync(&mut self, touched: &BTreeSet<PathBuf>) -> io::Result<()> {
        for folder in touched {
            if let Some(journal) = self.journals.get_mut(folder) {
                journal.sync()?;
            }
        }
        Ok(())
    }

    fn forget(&mut self, job_id: &JobId) {
        let metrics = metrics_folder(&self.folder, job_id);
        let logs = self.folder.join("logs").join(job_id.as_str());
        self.journals.retain(|path, _| !path.starts_with(&metrics) && !path.starts_with(&logs));
        for folder in [metrics, logs] {
            if folder.exists()
                && let Err(error) = fs_err::remove_dir_all(&folder)
            {
                warn!(%job_id, %error, "the job's files stay");
            }
        }
    }
}
