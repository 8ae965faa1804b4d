//! `rsctl logs`.

use std::pin::pin;

use futures::StreamExt as _;
use serde::Serialize;

use common::exit::ExitCode;
use common::status::UnixMillis;
use proto::v1;

use crate::commands::{Outcome, connect};
use crate::coordinator::LogQuery;
use crate::master::MasterArgs;
use crate::{job, render};

/// Print what the trainers of a job wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl logs co2                  all ranks, what is kept
  rsctl logs co2 --rank 1 -f      follow rank 1 until the job ends
  rsctl logs co2 --tail 20")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    /// Only this rank
    #[arg(long, value_name = "N")]
    rank: Option<u32>,
    /// Go on until the job ends
    #[arg(short, long)]
    follow: bool,
    /// At most the last N lines of each rank
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON: a list, or with --follow one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    rank: u32,
    time: UnixMillis,
    stream: &'static str,
    text: String,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    if let Some(rank) = args.rank {
        job::check_rank(&mut coordinator, &id, rank).await?;
    }
    let query =
        LogQuery { rank: args.rank, follow: args.follow, tail: args.tail.unwrap_or_default() };
    let mut batches = pin!(coordinator.logs(&id, query).await?);
    let mut kept = Vec::new();
    while let Some(batch) = batches.next().await {
        let lines = lines(batch?);
        match (args.json, args.follow) {
            (true, false) => kept.extend(lines),
            (true, true) => lines.iter().try_for_each(render::json_line)?,
            (false, _) => lines.iter().try_for_each(|line| match args.rank {
                Some(_) => render::data(&line.text),
                None => render::data(format_args!("[rank {}] {}", line.rank, line.text)),
            })?,
        }
    }
    if args.json && !args.follow {
        render::json(&kept)?;
    }
    Ok(ExitCode::Done)
}

fn lines(batch: v1::LogLines) -> Vec<Line> {
    let rank = batch.rank;
    let line = |line: v1::LogLine| Line {
        rank,
        time: line.time_ms,
        stream: if line.stderr { "stderr" } else { "stdout" },
        text: line.text,
    };
    batch.lines.into_iter().map(line).collect()
}
