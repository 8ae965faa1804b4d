//! Logs as streams: one rank's log of one attempt after the other, the guilty rank first, then
//! what comes. A chunk is read when the reader has taken the one before, so that a slow reader
//! costs one chunk of memory; what rotation took away from under it is counted and told.

use std::collections::{BTreeSet, HashMap, VecDeque};

use regex::Regex;
use tokio::sync::mpsc;
use tonic::{Response, Status};

use common::ids::JobId;
use common::status::{JobState, JobStatus};
use proto::v1;

use crate::archive::{Archive, LogKey, Reader};
use crate::metrics::Metrics;
use crate::rpc::follow::Follow;
use crate::rpc::{BoxStream, Front, STREAM_QUEUE, blocking, boxed, internal, say_stopping};

/// Lines of one message.
const LINES_PER_MESSAGE: usize = 500;

/// A compiled expression may take this much memory.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Ranks and positions that one request may name.
const MAX_NAMED: usize = 1 << 16;

impl Front {
    pub(super) fn read_job_logs(
        &self,
        request: v1::ReadLogsRequest,
    ) -> Result<Response<BoxStream<v1::LogLines>>, Status> {
        let job_id = self.known_job(&request.job_id)?;
        let follow = self.follow(&job_id, request.follow)?;
        let logs = Logs {
            archive: self.archive.clone(),
            metrics: self.info.metrics.clone(),
            job_id,
            wanted: Wanted::try_from(request)?,
            open: HashMap::new(),
            todo: VecDeque::new(),
        };
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let stop = self.stop.clone();
        let reading = self.info.metrics.reader("logs");
        service::tasks::spawn(service::tasks::Kind::Finish, "read-logs", async move {
            let _reading = reading;
            tokio::select! {
                ended = stream(logs, follow, &sender) => if let Err(status) = ended {
                    // The client may have left; then nobody needs the status.
                    let _ = sender.send(Err(status)).await;
                },
                () = sender.closed() => {}
                () = stop.cancelled() => say_stopping(&sender),
            }
        });
        Ok(Response::new(boxed(receiver)))
    }
}

/// Which lines a reader wants.
#[derive(Debug)]
struct Wanted {
    /// Empty: all.
    ranks: BTreeSet<u32>,
    /// 0: all.
    attempt: u32,
    since_ms: u64,
    grep: Option<Regex>,
    /// 0: everything that is kept.
    tail: usize,
    /// Attempt and rank -> the first line that the reader does not have.
    positions: HashMap<(u32, u32), u64>,
}

impl TryFrom<v1::ReadLogsRequest> for Wanted {
    type Error = Status;

    fn try_from(request: v1::ReadLogsRequest) -> Result<Self, Status> {
        if request.ranks.len() > MAX_NAMED || request.positions.len() > MAX_NAMED {
            let text = format!("at most {MAX_NAMED} ranks or positions in one request");
            return Err(Status::invalid_argument(text));
        }
        let compile = |text: &str| {
            let regex = regex::RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build();
            regex.map_err(|error| Status::invalid_argument(format!("grep: {error}")))
        };
        let grep = &request.grep;
        let position = |at: v1::LogPosition| ((at.attempt, at.rank), at.next);
        Ok(Self {
            ranks: request.ranks.into_iter().chain(request.rank).collect(),
            attempt: request.attempt,
            since_ms: request.since_ms,
            grep: if grep.is_empty() { None } else { Some(compile(grep)?) },
            tail: request.tail as usize,
            positions: request.positions.into_iter().map(position).collect(),
        })
    }
}

impl Wanted {
    fn takes(&self, line: &v1::LogLine) -> bool {
        line.time_ms >= self.since_ms
            && self.grep.as_ref().is_none_or(|regex| regex.is_match(&line.text))
    }
}

/// One log that is being read.
#[derive(Debug)]
struct Open {
    reader: Reader,
    attempt: u32,
    /// The number after the last line of the file that was read.
    at: u64,
    /// Lines before this one are known to who asked.
    next: u64,
    /// Nothing was sent yet: the tail begins here.
    is_new: bool,
    is_queued: bool,
}

struct Logs {
    archive: Archive,
    metrics: Metrics,
    job_id: JobId,
    wanted: Wanted,
    open: HashMap<LogKey, Open>,
    /// Logs that may have lines which were not read.
    todo: VecDeque<LogKey>,
}

impl Logs {
    /// Takes up the logs that are there: the guilty rank's first, then by attempt and rank.
    fn begin(&mut self, status: &JobStatus) -> std::io::Result<()> {
        let mut keys: Vec<LogKey> = self.archive.logs(&self.job_id)?.into_iter().collect();
        let guilty = guilty(status);
        keys.sort_by_key(|key| (Some(*key) != guilty, *key));
        self.take_up(keys, status);
        Ok(())
    }

    fn take_up(&mut self, keys: Vec<LogKey>, status: &JobStatus) {
        for key in keys {
            let of_generation =
                |a: &&common::status::AttemptStatus| a.generation.0 == key.generation;
            let attempt = status.attempts.iter().find(of_generation).map_or(0, |a| a.attempt.0);
            let wanted = &self.wanted;
            let is_wanted = (wanted.ranks.is_empty() || wanted.ranks.contains(&key.rank))
                && (wanted.attempt == 0 || wanted.attempt == attempt);
            if !is_wanted {
                continue;
            }
            let open = self.open.entry(key).or_insert_with(|| {
                let known = wanted.positions.get(&(attempt, key.rank)).copied();
                let (next, is_new) = (known.unwrap_or(0), known.is_none());
                let reader = self.archive.log(&self.job_id, key);
                Open { reader, attempt, at: 0, next, is_new, is_queued: false }
            });
            if !std::mem::replace(&mut open.is_queued, true) {
                self.todo.push_back(key);
            }
        }
    }

    /// The next messages; None: everything that is there was read. Blocking.
    fn next(&mut self) -> std::io::Result<Option<Vec<v1::LogLines>>> {
        let Some(key) = self.todo.front().copied() else { return Ok(None) };
        let Some(open) = self.open.get_mut(&key) else { return Ok(None) };
        let was_new = open.is_new;
        let is_tail = was_new && self.wanted.tail > 0;
        let mut found = Found::default();
        loop {
            let entries = open.reader.next()?;
            if entries.is_empty() {
                self.todo.pop_front();
                open.is_queued = false;
                break;
            }
            let logs = entries.into_iter().flat_map(|e| e.jobs).flat_map(|job| job.logs);
            for lines in logs {
                found.take(open, lines, &self.wanted);
            }
            match is_tail {
                true => found.keep_last(self.wanted.tail),
                false => break,
            }
        }
        open.is_new = false;
        match was_new {
            // That old lines are gone is news only to who asked for them.
            true if is_tail || self.wanted.since_ms > 0 => found.skipped = 0,
            true => {}
            false => self.metrics.skipped(found.skipped),
        }
        Ok(Some(found.messages(key.rank, open)))
    }
}

/// Lines of one log with their numbers.
#[derive(Debug, Default)]
struct Found {
    lines: VecDeque<(u64, v1::LogLine)>,
    skipped: u64,
}

impl Found {
    fn take(&mut self, open: &mut Open, lines: v1::LogLines, wanted: &Wanted) {
        // An entry of a version that did not number its lines goes on where the last one ended.
        let is_numbered = lines.first > 0 || open.at == 0;
        let first = if is_numbered { lines.first } else { open.at };
        self.skipped += first.saturating_sub(open.next.max(open.at));
        for (number, line) in (first..).zip(lines.lines) {
            open.at = number + 1;
            if number < open.next {
                continue;
            }
            open.next = open.at;
            if wanted.takes(&line) {
                self.lines.push_back((number, line));
            }
        }
    }

    fn keep_last(&mut self, count: usize) {
        while self.lines.len() > count {
            self.lines.pop_front();
        }
    }

    fn messages(self, rank: u32, open: &Open) -> Vec<v1::LogLines> {
        let attempt = open.attempt;
        let lines: Vec<(u64, v1::LogLine)> = self.lines.into();
        let mut messages: Vec<v1::LogLines> = lines
            .chunks(LINES_PER_MESSAGE)
            .map(|chunk| {
                let first = chunk.first().map_or(open.next, |(number, _)| *number);
                let next = chunk.last().map_or(open.next, |(number, _)| number + 1);
                let lines = chunk.iter().map(|(_, line)| line.clone()).collect();
                v1::LogLines { rank, lines, attempt, first, next, skipped: 0 }
            })
            .collect();
        if messages.is_empty() && self.skipped > 0 {
            let (first, next) = (open.next, open.next);
            messages.push(v1::LogLines { rank, attempt, first, next, ..Default::default() });
        }
        if let Some(first) = messages.first_mut() {
            first.skipped = self.skipped;
        }
        messages
    }
}

/// The log of the rank that a job failed of.
fn guilty(status: &JobStatus) -> Option<LogKey> {
    let is_over = status.row.state == JobState::Failed;
    let rank = status.failure.as_ref().filter(|_| is_over)?.rank?;
    let generation = status.attempts.last()?.generation.0;
    Some(LogKey { generation, rank: rank.0 })
}

async fn stream(
    mut logs: Logs,
    mut follow: Follow,
    sender: &mpsc::Sender<Result<v1::LogLines, Status>>,
) -> Result<(), Status> {
    let failed = |error: std::io::Error| internal("read the job's logs", &error);
    let status = follow.status();
    follow.touched();
    let begun = blocking(move || (logs.begin(&status), logs)).await?;
    begun.0.map_err(failed)?;
    logs = begun.1;
    loop {
        let (read, back) = blocking(move || (logs.next(), logs)).await?;
        logs = back;
        if let Some(messages) = read.map_err(failed)? {
            for lines in messages {
                follow.progressed();
                if sender.send(Ok(lines)).await.is_err() {
                    return Ok(());
                }
            }
            continue;
        }
        if !follow.more().await {
            return Ok(());
        }
        let touched = follow.touched();
        logs.take_up(touched, &follow.status());
    }
}
