//! `<run folder>/logs/rank-N.log`, written by one thread so that a slow disk delays nobody, and the
//! last lines of each rank in memory.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use fs_err as fs;
use tokio::sync::oneshot;
use tracing::warn;

use crate::capture::Line;

/// At this size a log is renamed to `rank-N.log.1`, replacing an older one.
const ROTATE_AT_BYTES: u64 = 64 << 20;

/// Lines that wait for the disk, over all ranks; beyond it they are left out of the file.
const QUEUE_LINES: usize = 4096;

/// What is kept in memory of one rank's output.
const TAIL_BYTES: usize = 64 << 10;

/// The newest lines of one rank.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn push(&mut self, line: Line) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.bytes > TAIL_BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len();
        }
    }

    /// The last `count` lines, oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let skip = self.lines.len().saturating_sub(count);
        self.lines.iter().skip(skip).map(|line| line.text.clone()).collect()
    }

    /// The kept lines of standard error, oldest first.
    pub(crate) fn stderr(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter(|line| line.stderr).map(|line| line.text.as_str())
    }
}

/// A handle on the writing thread.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter {
    /// Without a bound of its own: lines have theirs, and there is one close for each log.
    orders: mpsc::Sender<Order>,
    /// Lines that wait.
    waiting: Arc<AtomicUsize>,
}

enum Order {
    Write { path: PathBuf, text: String },
    Close { path: PathBuf, done: oneshot::Sender<()> },
}

impl LogWriter {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (writer, inbox) = Self::new();
        let waiting = Arc::clone(&writer.waiting);
        let thread = thread::Builder::new().name("rank-logs".to_owned());
        thread.spawn(move || write_all(&inbox, &waiting))?;
        Ok(writer)
    }

    fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel();
        (Self { orders, waiting: Arc::default() }, inbox)
    }

    /// False: the disk is too slow and the line is not in the file.
    pub(crate) fn write(&self, path: &Path, text: &str) -> bool {
        // Callers at once may be a few lines over the bound; it is one of memory and not exact.
        if self.waiting.load(Ordering::Relaxed) >= QUEUE_LINES {
            return false;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.orders.send(Order::Write { path: path.to_owned(), text: text.to_owned() }).is_ok()
    }

    /// Resolves when everything written before is in the file; at once if that cannot be. The file
    /// is closed in the end also where nobody waits for it any more, however slow the disk is.
    pub(crate) async fn close(&self, path: &Path) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close { path: path.to_owned(), done }).is_ok() {
            // The thread ended: then nothing more will be written.
            let _ = closed.await;
        }
    }
}

fn write_all(inbox: &mpsc::Receiver<Order>, waiting: &AtomicUsize) {
    let mut open: HashMap<PathBuf, Option<LogFile>> = HashMap::new();
    for order in inbox {
        match order {
            Order::Write { path, text } => {
                waiting.fetch_sub(1, Ordering::Relaxed);
                let file = open.entry(path).or_insert_with_key(|path| {
                    LogFile::open(path)
                        .inspect_err(|error| warn!(%error, "rank log cannot be written"))
                        .ok()
                });
                if let Some(log) = file
                    && let Err(error) = log.write(&text, ROTATE_AT_BYTES)
                {
                    warn!(%error, "rank log stops here");
                    // Said once; the lines still reach the coordinator.
                    *file = None;
                }
            }
            Order::Close { path, done } => {
                open.remove(&path);
                // The one who waited may have run out of time.
                let _ = done.send(());
            }
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: fs::File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    fn write(&mut self, text: &str, rotate_at: u64) -> std::io::Result<()> {
        if self.bytes >= rotate_at {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, PathBuf::from(older))?;
            *self = Self::open(&self.path)?;
        }
        let mut line = Vec::with_capacity(text.len() + 1);
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, stderr: bool) -> Line {
        Line { time_ms: 1, text: text.to_owned(), stderr }
    }

    #[test]
    fn the_tail_keeps_the_newest_lines_within_its_bound() {
        let mut tail = Tail::default();
        for n in 0..10_000 {
            tail.push(line(&format!("line {n:06} {}", "x".repeat(80)), n % 2 == 0));
        }
        assert!(tail.bytes <= TAIL_BYTES);
        let last = tail.last(2);
        assert!(last[0].starts_with("line 009998") && last[1].starts_with("line 009999"));
        assert!(tail.stderr().last().unwrap().starts_with("line 009998"));
        assert!(tail.last(usize::MAX).len() > 500);
    }

    #[test]
    fn a_full_log_is_rotated_and_nothing_is_lost_between_the_two() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/rank-0.log");
        let mut log = LogFile::open(&path).unwrap();
        for n in 0..6 {
            log.write(&n.to_string(), 8).unwrap();
        }
        let older = fs::read_to_string(folder.path().join("logs/rank-0.log.1")).unwrap();
        let newer = fs::read_to_string(&path).unwrap();
        assert_eq!(older + &newer, "0\n1\n2\n3\n4\n5\n");
    }

    #[tokio::test]
    async fn a_log_is_closed_also_where_the_disk_is_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/rank-1.log");
        let (writer, inbox) = LogWriter::new();
        let mut lines = 0;
        while writer.write(&path, "line") {
            lines += 1;
        }
        assert_eq!(lines, QUEUE_LINES);
        // Whoever closes it has no time to wait.
        let wait = tokio::time::timeout(std::time::Duration::ZERO, writer.close(&path));
        assert!(wait.await.is_err(), "its lines are not in the file");
        let waiting = Arc::clone(&writer.waiting);
        thread::spawn(move || write_all(&inbox, &waiting));
        writer.close(&path).await;
        let written = fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(written, QUEUE_LINES);
        let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
            fs::read_link(entry.unwrap().path()).ok().filter(|target| *target == path)
        });
        assert_eq!(open.count(), 0);
        assert!(writer.write(&path, "there is room again"));
    }

    #[tokio::test]
    async fn a_second_attempt_appends_to_the_same_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/rank-1.log");
        let writer = LogWriter::start().unwrap();
        assert!(writer.write(&path, "first"));
        writer.close(&path).await;
        assert!(writer.write(&path, "second"));
        writer.close(&path).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
    }
}
