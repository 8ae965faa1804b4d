//! What one rank writes: on its way to the coordinator, in its log, and the last of it in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::v1::LogLine;
use service::tasks;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use crate::capture::{self, Line};
use crate::rank_log::{LogWriter, Tail};
use crate::spool::{Key, Spool};
use crate::trainer_process::Tools;

/// Lines that were read and not taken yet; then the process waits.
const LINES: usize = 64;

/// What a dead process had said and written is taken in in turns of this length: a machine that
/// stands still meanwhile uses up one of them, and not what there still is to read.
pub(crate) const TURN: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Output {
    key: Key,
    rank: u32,
    log_path: PathBuf,
    logs: LogWriter,
    spool: Arc<Spool>,
    tail: Tail,
    lines_missing_in_file: u64,
}

impl Output {
    pub(crate) fn new(key: &Key, rank: u32, run_dir: &Path, tools: &Tools) -> Self {
        Self {
            key: key.clone(),
            rank,
            log_path: run_dir.join(format!("logs/rank-{rank}.log")),
            logs: tools.logs.clone(),
            spool: Arc::clone(&tools.spool),
            tail: Tail::default(),
            lines_missing_in_file: 0,
        }
    }

    pub(crate) fn take(&mut self, line: Line) {
        let Line { time_ms, text, stderr } = line.clone();
        self.spool.push_line(&self.key, self.rank, LogLine { time_ms, text, stderr });
        if self.logs.write(&self.log_path, &line.text) {
            self.tell_missing_lines();
        } else {
            self.lines_missing_in_file += 1;
        }
        self.tail.push(line);
    }

    fn tell_missing_lines(&mut self) {
        if self.lines_missing_in_file > 0 {
            let text = format!("[{} lines are missing: slow disk]", self.lines_missing_in_file);
            if self.logs.write(&self.log_path, &text) {
                self.lines_missing_in_file = 0;
            }
        }
    }

    /// Takes what the process had written before it died. Where something that it left behind writes
    /// on, so many turns of it.
    pub(crate) async fn drain(&mut self, lines: &mut mpsc::Receiver<Line>, turns: u32) {
        for _ in 0..turns {
            let until = Instant::now() + TURN;
            // The clock is looked at here, too: a line that is there is given out whatever the time.
            while Instant::now() < until {
                match timeout_at(until, lines.recv()).await {
                    Ok(Some(line)) => self.take(line),
                    Ok(None) => return,
                    Err(_) => break,
                }
            }
        }
    }

    /// The newest lines.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Nothing more comes; waits for the log.
    pub(crate) async fn close(&mut self, within: Duration) {
        self.tell_missing_lines();
        if timeout(within, self.logs.close(&self.log_path)).await.is_err() {
            warn!(path = %self.log_path.display(), "rank log is still being written");
        }
    }
}

/// The lines of both pipes, until both have ended.
pub(crate) fn lines(stdout: pipe::Receiver, stderr: pipe::Receiver) -> mpsc::Receiver<Line> {
    let (sender, lines) = mpsc::channel(LINES);
    for (pipe, is_stderr) in [(stdout, false), (stderr, true)] {
        let reading = capture::read_lines(pipe, is_stderr, sender.clone());
        tasks::spawn(tasks::Kind::Finish, "rank output", reading);
    }
    lines
}
