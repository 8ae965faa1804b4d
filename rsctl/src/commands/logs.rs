//! `rsctl logs`.

use std::time::Duration;

use serde::Serialize;

use common::exit::ExitCode;
use common::status::{JobState, JobStatus, UnixMillis};
use proto::v1;
use service::exit::Failure;

use crate::commands::watch::PatienceArgs;
use crate::commands::{Outcome, connect};
use crate::coordinator::LogQuery;
use crate::log_reader::{Lines, LogReader};
use crate::master::MasterArgs;
use crate::{clock, job, render};

/// Print what the trainers of a job wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Of a job that failed, the rank that failed first comes first. Kept are the last 1 MiB of each rank
of the running attempt and the last 64 KiB of each rank of earlier ones; more is in the job's
logs folder (rsctl fetch JOB logs).

Examples:
  rsctl logs co2                       all ranks, what is kept
  rsctl logs co2 --rank 1,3 -f         follow two ranks until the job ends
  rsctl logs co2 --tail 20
  rsctl logs co2 --attempt 1 --grep 'WARN|ERROR'
  rsctl logs co2 --since 10m --json | jq -r .[].text")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    /// Only these ranks
    #[arg(long, value_name = "N[,N]", value_delimiter = ',')]
    rank: Vec<u32>,
    /// Only this attempt [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Only lines since then: a duration such as 10m, or a time such as 2026-05-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Only lines in which this regular expression is found
    #[arg(long, value_name = "REGEX", value_parser = expression)]
    grep: Option<String>,
    /// At most the last N lines of each rank
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    /// Go on until the job ends, across restarts of the coordinator
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON: a list, or with --follow one object a line
    #[arg(long)]
    json: bool,
}

/// What `--since` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(Duration),
    At(UnixMillis),
}

impl Since {
    fn unix_millis(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => {
                now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

pub(crate) fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(ago));
    }
    let time = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "write 10m, 2h30m, 2026-05-01T12:00:00Z or `2026-05-01 12:00:00` (UTC)")?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| "it is before 1970")?;
    Ok(Since::At(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

fn expression(text: &str) -> Result<String, String> {
    match regex::Regex::new(text) {
        Ok(_) if text.is_empty() => Err("an empty expression is found in every line".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Debug, Serialize)]
struct Line {
    rank: u32,
    attempt: u32,
    time: UnixMillis,
    stream: &'static str,
    text: String,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    let status = coordinator.job(&id).await?;
    check(&args, &status)?;
    if let Some(headline) = headline(&status) {
        render::talk(headline);
    }
    let query = LogQuery {
        ranks: args.rank.clone(),
        attempt: args.attempt.unwrap_or_default(),
        follow: args.follow,
        tail: args.tail.unwrap_or_default(),
        since: args.since.map_or(0, |since| since.unix_millis(clock::now())),
        grep: args.grep.clone().unwrap_or_default(),
        ..LogQuery::default()
    };
    let mut printer = Printer::new(&args);
    let mut reader = LogReader { coordinator, id, query };
    if args.follow {
        reader.until_end(&mut printer, args.patience.reconnect_timeout).await?;
    } else {
        reader.once(&mut printer, None).await??;
    }
    printer.finish()?;
    Ok(ExitCode::Done)
}

/// What cannot be, said before anything is read.
fn check(args: &Args, status: &JobStatus) -> Result<(), Failure> {
    let no_rank = args.rank.iter().find_map(|rank| job::no_such_rank(status, *rank, args.attempt));
    if let Some(failure) = no_rank {
        return Err(failure);
    }
    let last = status.row.attempt.0;
    match args.attempt {
        Some(attempt) if attempt > last && status.row.state.is_final() => {
            let attempts = if last == 1 { "attempt 1 only" } else { "fewer attempts" };
            let job = &status.row.job_id;
            Err(Failure::new(
                ExitCode::Failed,
                anyhow::anyhow!("job {job} has no attempt {attempt}: it had {attempts}"),
            ))
        }
        _ => Ok(()),
    }
}

/// Whose lines come first, and why.
fn headline(status: &JobStatus) -> Option<String> {
    let failure = status.failure.as_ref().filter(|_| status.row.state == JobState::Failed)?;
    failure.rank.map(|_| format!("failed first: {}", failure.message))
}

/// How lines are shown.
struct Printer {
    is_json: bool,
    /// A JSON document is printed at the end.
    kept: Option<Vec<Line>>,
    /// Which rank, and of which attempt, is said where it can differ.
    tells_rank: bool,
    tells_attempt: bool,
}

impl Printer {
    fn new(args: &Args) -> Self {
        Self {
            is_json: args.json,
            kept: (args.json && !args.follow).then(Vec::new),
            tells_rank: args.rank.len() != 1,
            tells_attempt: args.attempt.is_none(),
        }
    }

    /// `[rank 1] `, of a later attempt `[attempt 2, rank 1] `.
    fn prefix(&self, attempt: u32, rank: u32) -> String {
        match (self.tells_attempt && attempt > 1, self.tells_rank) {
            (true, true) => format!("[attempt {attempt}, rank {rank}] "),
            (true, false) => format!("[attempt {attempt}] "),
            (false, true) => format!("[rank {rank}] "),
            (false, false) => String::new(),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self.kept {
            Some(kept) => render::json(&kept),
            None => Ok(()),
        }
    }
}

impl Lines for Printer {
    fn take(&mut self, message: v1::LogLines) -> Result<(), Failure> {
        let prefix = self.prefix(message.attempt, message.rank);
        if message.skipped > 0 {
            let count = message.skipped;
            let lines =
                if count == 1 { "line is".to_owned() } else { format!("{count} lines are") };
            render::warning(format_args!("{prefix}{lines} no longer kept"));
        }
        let lines = lines(message);
        match (&mut self.kept, self.is_json) {
            (Some(kept), _) => kept.extend(lines),
            (None, true) => lines.iter().try_for_each(render::json_line)?,
            (None, false) => {
                for line in &lines {
                    render::data(format_args!("{prefix}{}", line.text))?;
                }
            }
        }
        Ok(())
    }
}

fn lines(message: v1::LogLines) -> Vec<Line> {
    let (rank, attempt) = (message.rank, message.attempt);
    let line = |line: v1::LogLine| Line {
        rank,
        attempt,
        time: line.time_ms,
        stream: if line.stderr { "stderr" } else { "stdout" },
        text: line.text,
    };
    message.lines.into_iter().map(line).collect()
}
