//! `rsctl metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::pin::pin;

use clap::ValueEnum;
use futures::StreamExt as _;
use serde::Serialize;

use common::exit::ExitCode;
use common::ids::JobId;
use common::metric;
use common::status::{MetricPoint, UnixMillis};
use service::exit::Failure;

use crate::commands::watch::PatienceArgs;
use crate::commands::{Outcome, connect};
use crate::coordinator::{Coordinator, Error, Series};
use crate::follow::Patience;
use crate::master::MasterArgs;
use crate::render::plot::{self, Scale, Size};
use crate::render::table::{self, Align, number};
use crate::{job, render};

/// Rows of a table unless --tail says otherwise.
const TABLE_ROWS: usize = 20;

/// Print a job's metrics: a table, CSV, JSON, or a chart in the terminal
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl metrics co2                                   the last losses and rates
  rsctl metrics co2 --tag train/loss --format plot
  rsctl metrics co2 --tag train/loss --tag val/loss --format csv > losses.csv
  rsctl metrics co2 --tag train/loss --json | jq '.[-1].value'
  rsctl metrics co2 --tag val/loss -f                 as they come, one JSON object a line

Tags: train/loss val/loss val/accuracy train/lr train/grad-norm train/samples-per-second
      train/step-seconds train/loss-scale system/rss-bytes rank/compute-seconds
      rank/wait-seconds; docs/operations.md has all")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    /// Only this metric; may repeat [default: all; a plot shows train/loss and val/loss]
    #[arg(long = "tag", value_name = "TAG", value_parser = known_tag)]
    tags: Vec<String>,
    /// The rank that measured it
    #[arg(long, value_name = "N", default_value_t = 0)]
    rank: u32,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// At most the last N steps [default: 20 in a table, all elsewhere]
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// A logarithmic vertical axis
    #[arg(long)]
    log: bool,
    /// Go on until the job ends, one JSON object a line
    #[arg(short, long, conflicts_with_all = ["tail", "log"])]
    follow: bool,
    #[command(flatten)]
    patience: PatienceArgs,
    #[command(flatten)]
    master: MasterArgs,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
    Plot,
}

/// A point of a stream of several metrics.
#[derive(Debug, Serialize)]
struct TaggedPoint<'a> {
    tag: &'a str,
    step: u64,
    samples: u64,
    value: f64,
    time: UnixMillis,
}

/// Points by tag, in the order of `metric::ALL`, each in the order of steps.
type Points = Vec<(String, Vec<MetricPoint>)>;

fn known_tag(text: &str) -> Result<String, String> {
    if metric::ALL.iter().any(|metric| metric.name == text) {
        return Ok(text.to_owned());
    }
    let near = metric::ALL
        .iter()
        .map(|m| m.name)
        .max_by(|a, b| strsim::jaro_winkler(text, a).total_cmp(&strsim::jaro_winkler(text, b)));
    Err(format!("no such metric; the nearest is {}", near.unwrap_or_default()))
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    job::check_rank(&mut coordinator, &id, args.rank).await?;
    if args.follow {
        return follow(&mut coordinator, &id, &args).await;
    }
    let format = if args.json { Format::Json } else { args.format };
    let mut tags = args.tags.clone();
    if tags.is_empty() && format == Format::Plot {
        tags = vec![metric::TRAIN_LOSS.name.to_owned(), metric::VAL_LOSS.name.to_owned()];
    }
    let mut points = read(&mut coordinator, &id, &tags, args.rank).await?;
    let tail = args.tail.or((format == Format::Table).then_some(TABLE_ROWS));
    if let Some(tail) = tail {
        keep_last_steps(&mut points, tail);
    }
    match format {
        Format::Json => print_json(&points, &args.tags)?,
        Format::Csv => render::data(csv(&points))?,
        Format::Table => render::data(as_table(&points))?,
        Format::Plot => {
            let scale = if args.log { Scale::Log } else { Scale::Linear };
            for (tag, points) in &points {
                let xy: Vec<_> = points.iter().map(|p| (p.step as f64, p.value)).collect();
                render::data(plot::render(&format!("{tag} by step"), &xy, scale, terminal()))?;
            }
        }
    }
    if points.iter().all(|(_, points)| points.is_empty()) {
        render::talk(format_args!("{id} has no such metrics of rank {} yet", args.rank));
    }
    Ok(ExitCode::Done)
}

/// Over as many connections as it takes.
async fn follow(coordinator: &mut Coordinator, id: &JobId, args: &Args) -> Outcome {
    let mut patience = Patience::new(args.patience.reconnect_timeout);
    let mut shown = Shown::default();
    loop {
        match follow_once(coordinator, id, args, (&mut shown, &mut patience)).await? {
            Ok(()) => return Ok(ExitCode::Done),
            Err(error) if error.is_retryable() => patience.lost(error, render::talk).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// What was printed: a new stream begins anew.
#[derive(Debug, Default)]
struct Shown {
    /// Time and step of the newest point of each metric of each generation. Times of two
    /// generations may be of two clocks.
    newest: BTreeMap<(String, u64), (UnixMillis, u64)>,
}

impl Shown {
    /// The points that were not printed yet.
    fn news(&mut self, series: Series) -> Vec<MetricPoint> {
        let Series { name, generation, mut points, .. } = series;
        let newest = self.newest.entry((name, generation)).or_default();
        points.retain(|point| {
            let place = (point.time, point.step);
            let is_new = place > *newest;
            if is_new {
                *newest = place;
            }
            is_new
        });
        points
    }
}

async fn follow_once(
    coordinator: &mut Coordinator,
    id: &JobId,
    args: &Args,
    (shown, patience): (&mut Shown, &mut Patience),
) -> Result<Result<(), Error>, Failure> {
    let series = match coordinator.metrics(id, &args.tags, true).await {
        Ok(series) => series,
        Err(error) => return Ok(Err(error)),
    };
    if patience.found() {
        render::talk("the coordinator is back");
    }
    let mut series = pin!(series);
    while let Some(series) = series.next().await {
        let series = match series {
            Ok(series) => series,
            Err(error) => return Ok(Err(error)),
        };
        if series.rank != args.rank {
            continue;
        }
        let name = series.name.clone();
        for MetricPoint { step, samples, value, time } in shown.news(series) {
            render::json_line(&TaggedPoint { tag: &name, step, samples, value, time })?;
        }
    }
    Ok(Ok(()))
}

async fn read(
    coordinator: &mut Coordinator,
    id: &JobId,
    tags: &[String],
    rank: u32,
) -> Result<Points, Failure> {
    let mut by_tag: BTreeMap<String, Vec<MetricPoint>> = BTreeMap::new();
    let mut stream = pin!(coordinator.metrics(id, tags, false).await?);
    while let Some(series) = stream.next().await {
        let series = series?;
        if series.rank == rank {
            by_tag.entry(series.name).or_default().extend(series.points);
        }
    }
    let position = |tag: &str| metric::ALL.iter().position(|m| m.name == tag);
    let mut points: Points = by_tag.into_iter().collect();
    points.sort_by_key(|(tag, _)| position(tag).unwrap_or(usize::MAX));
    for (_, points) in &mut points {
        points.sort_by_key(|point| point.step);
    }
    Ok(points)
}

/// Keeps the points of the last `count` steps that any metric has.
fn keep_last_steps(points: &mut Points, count: usize) {
    let mut steps: Vec<u64> =
        points.iter().flat_map(|(_, points)| points.iter().map(|point| point.step)).collect();
    steps.sort_unstable();
    steps.dedup();
    let first = steps.get(steps.len().saturating_sub(count)).copied();
    for (_, points) in points {
        points.retain(|point| first.is_some_and(|first| point.step >= first));
    }
}

/// One tag: a list of points, which scripts rely on. Several: an object of such lists.
fn print_json(points: &Points, tags: &[String]) -> Result<(), Failure> {
    if let [tag] = tags {
        let none = Vec::new();
        let only = points.iter().find(|(name, _)| name == tag).map_or(&none, |(_, points)| points);
        return render::json(only);
    }
    let object: serde_json::Map<_, _> =
        points.iter().map(|(tag, points)| (tag.clone(), serde_json::json!(points))).collect();
    render::json(&object)
}

fn csv(points: &Points) -> String {
    let mut text = String::from("tag,step,samples,value,time\n");
    for (tag, points) in points {
        for MetricPoint { step, samples, value, time } in points {
            // `{}` prints a float with the fewest digits that read back as the same.
            let _ = writeln!(text, "{tag},{step},{samples},{value},{time}");
        }
    }
    text
}

/// A row for each step, a column for each metric.
fn as_table(points: &Points) -> String {
    let mut rows: BTreeMap<u64, Vec<Option<f64>>> = BTreeMap::new();
    for (column, (_, values)) in points.iter().enumerate() {
        for point in values {
            let row = rows.entry(point.step).or_insert_with(|| vec![None; points.len()]);
            row[column] = Some(point.value);
        }
    }
    let mut columns = vec![("STEP", Align::Right)];
    columns.extend(points.iter().map(|(tag, _)| (tag.as_str(), Align::Right)));
    table::render(
        &columns,
        rows.into_iter().map(|(step, values)| {
            let values = values.into_iter().map(|value| table::optional(value, number));
            std::iter::once(step.to_string()).chain(values).collect::<Vec<_>>()
        }),
    )
}

/// The size of a chart: the terminal's, within reason; a pipe gets 80 columns.
fn terminal() -> Size {
    let (columns, rows) = terminal_size::terminal_size()
        .map_or((80, 24), |(width, height)| (usize::from(width.0), usize::from(height.0)));
    Size { columns: columns.clamp(40, 160), rows: rows.clamp(10, 24) }
}

#[cfg(test)]
mod tests;
