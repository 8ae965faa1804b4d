//! `<run folder>/logs/rank-N.log`, written by one thread so that a slow disk delays nobody, and the
//! last lines of each rank in memory.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
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
    orders: mpsc::SyncSender<Order>,
}

enum Order {
    Write { path: PathBuf, text: String },
    Close { path: PathBuf, done: oneshot::Sender<()> },
}

impl LogWriter {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::sync_channel(QUEUE_LINES);
        thread::Builder::new().name("rank-logs".to_owned()).spawn(move || write_all(&inbox))?;
        Ok(Self { orders })
    }

    /// False: the disk is too slow and the line is not in the file.
    pub(crate) fn write(&self, path: &Path, text: &str) -> bool {
        self.orders.try_send(Order::Write { path: path.to_owned(), text: text.to_owned() }).is_ok()
    }

    /// Resolves when everything written before is in the file; at once if that cannot be.
    pub(crate) async fn close(&self, path: &Path) {
        let (done, closed) = oneshot::channel();
        if self.orders.try_send(Order::Close { path: path.to_owned(), done }).is_ok() {
            // The thread ended: then nothing more will be written.
            let _ = closed.await;
        }
    }
}

fn write_all(inbox: &mpsc::Receiver<Order>) {
    let mut open: HashMap<PathBuf, Option<LogFile>> = HashMap::new();
    for order in inbox {
        match order {
            Order::Write { path, text } => {
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
