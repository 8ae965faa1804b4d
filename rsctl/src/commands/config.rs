//! `rsctl config check` and `rsctl config explain`.

use std::path::PathBuf;

use anyhow::anyhow;
use serde::Serialize;

use common::batch;
use common::exit::ExitCode;
use common::explain::Effective;
use common::jobfile::{Mistake, Override};
use common::memory::{self, Estimate, Sizes};
use common::spec::JobSpec;
use service::exit::Failure;

use crate::commands::Outcome;
use crate::job::{self, JobArgs};
use crate::render;
use crate::render::table::{self, Align};

/// Check job files, or explain every effective value
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(CheckArgs),
    Explain(ExplainArgs),
}

/// Tell every mistake of job files; exit with 78 when there is one
#[derive(Debug, clap::Args)]
#[command(after_help = concat!("\
Examples:
  rsctl config check job.toml
  rsctl config check configs/jobs/*.toml --strict
  rsctl config check job.toml --set training.batch-size=48 --json", crate::args::usual_ranges!()))]
struct CheckArgs {
    #[arg(value_name = "JOB.TOML", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    job: JobArgs,
    /// Print JSON: a list with one object a file
    #[arg(long)]
    json: bool,
}

/// Print every effective value with its origin
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl config explain job.toml
  rsctl config explain job.toml --world 4          the batch sizes of four ranks
  rsctl config explain job.toml --memory --world 2  the bytes of a rank
  rsctl config explain job.toml --json | jq -r '.[] | select(.key == \"training.epochs\").origin'")]
struct ExplainArgs {
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// The number of ranks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    world: Option<u32>,
    /// Estimate the memory of a rank instead: bytes by kind, before the run
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    job: JobArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: Args) -> Outcome {
    match args.command {
        Command::Check(args) => check(&args),
        Command::Explain(args) => explain(&args),
    }
}

/// What is known about one file.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    ok: bool,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

fn check(args: &CheckArgs) -> Outcome {
    let mut checked = Vec::new();
    for path in &args.files {
        let file = path.display().to_string();
        let (mistakes, warnings) = match args.job.load(path) {
            Ok(file) => (Vec::new(), file.loaded.warnings),
            Err(job::Error::Mistakes { mistakes, .. }) => (mistakes.mistakes, mistakes.warnings),
            // A file that cannot be read is this file's mistake: the others are still checked.
            Err(job::Error::Read(error)) => {
                let place = file.clone();
                let message = service::exit::chain(&job::Error::Read(error));
                (vec![Mistake { place, key: String::new(), value: None, message }], Vec::new())
            }
            Err(error) => return Err(error.into()),
        };
        checked.push(Checked { file, ok: mistakes.is_empty(), mistakes, warnings });
    }
    if args.json {
        render::json(&checked)?;
    } else {
        for Checked { file, ok, mistakes, warnings } in &checked {
            warnings.iter().for_each(|warning| render::warning(format_args!("{file}: {warning}")));
            mistakes.iter().for_each(|mistake| render::talk(format_args!("error: {mistake}")));
            if *ok {
                render::data(format_args!("{file}: ok"))?;
            }
        }
    }
    let wrong = checked.iter().filter(|checked| !checked.ok).count();
    if wrong == 0 {
        return Ok(ExitCode::Done);
    }
    let mistakes: usize = checked.iter().map(|checked| checked.mistakes.len()).sum();
    let (s, files) = (if mistakes == 1 { "" } else { "s" }, checked.len());
    Err(Failure::new(
        ExitCode::BadConfiguration,
        anyhow!(
            "{mistakes} mistake{s} in {wrong} of {files} file{}",
            if files == 1 { "" } else { "s" }
        ),
    ))
}

fn explain(args: &ExplainArgs) -> Outcome {
    let world = args.world.map(|world| {
        Override::flag("resources.world-size", i64::from(world), &format!("--world {world}"))
    });
    let loaded = args.job.load_with(&args.file, world.as_slice())?.loaded;
    loaded.warnings.iter().for_each(render::warning);
    if args.memory {
        return memory(&loaded.spec, args.json);
    }
    let world = largest_world(&loaded.spec);
    let (mut rows, mut notes) = (loaded.explain, loaded.spec.notes);
    if let Some(world) = world {
        let plan = batch::plan(&loaded.spec.training.batch, world)
            .map_err(|error| Failure::new(ExitCode::BadConfiguration, error))?;
        rows.extend(plan_rows(&plan));
        notes.extend(plan.note);
    }
    if args.json {
        render::json(&rows)?;
    } else {
        const COLUMNS: [(&str, Align); 4] = [
            ("KEY", Align::Left),
            ("VALUE", Align::Left),
            ("ORIGIN", Align::Left),
            ("MEANING", Align::Left),
        ];
        let rows = rows.into_iter().map(|row| [row.key, row.value, row.origin, row.meaning]);
        render::data(table::render(&COLUMNS, rows))?;
    }
    // What the run says at its start is talk: it is no value.
    notes.iter().for_each(|note| render::talk(format_args!("note: {note}")));
    Ok(ExitCode::Done)
}

/// The one that the job names; of an elastic job the largest for which its batch can be cut.
fn largest_world(spec: &JobSpec) -> Option<u32> {
    let (resources, asked) = (&spec.resources, &spec.training.batch);
    let most = resources.largest_world()?;
    match resources.is_elastic() {
        true => batch::worlds(asked, resources.smallest_world(), Some(most)).last(),
        false => Some(most),
    }
}

/// The one that the job names; of an elastic job the smallest, whose ranks hold most.
fn smallest_world(spec: &JobSpec) -> u32 {
    let (resources, asked) = (&spec.resources, &spec.training.batch);
    let least = resources.smallest_world();
    match resources.is_elastic() {
        true => batch::worlds(asked, least, resources.largest_world()).next().unwrap_or(least),
        false => least,
    }
}

/// What one rank will hold.
#[derive(Debug, Serialize)]
struct RankNeeds {
    world_size: u32,
    zero_stage: u8,
    #[serde(flatten)]
    bytes: Estimate,
    total: u64,
}

fn memory(spec: &JobSpec, as_json: bool) -> Outcome {
    let world = smallest_world(spec);
    let wrong = |error| Failure::new(ExitCode::BadConfiguration, error);
    let plan = batch::plan(&spec.training.batch, world).map_err(|error| wrong(error.into()))?;
    let sizes = Sizes::of(spec).ok_or_else(|| {
        wrong(anyhow!("the width of the data is not known before its file is read"))
            .hint("name the columns: --set 'data.columns=[\"a\", \"b\"]'")
    })?;
    let bytes = memory::estimate(spec, sizes, &plan);
    let total = bytes.total();
    if as_json {
        let zero_stage = spec.zero.stage;
        render::json(&RankNeeds { world_size: world, zero_stage, bytes, total })?;
    } else {
        let columns = [("KIND", Align::Left), ("BYTES", Align::Right), ("MEMORY", Align::Right)];
        let kinds = bytes.kinds().into_iter().chain([("total", total)]);
        let rows = kinds.map(|(kind, n)| [kind.to_owned(), n.to_string(), memory::in_words(n)]);
        render::data(table::render(&columns, rows))?;
        let (stage, run) = (spec.zero.stage, plan.largest_run());
        render::talk(format_args!(
            "each of {world} ranks, ZeRO stage {stage}, at most {run} samples at once{}; libtorch and \
             the data come on top",
            memory::place(spec)
        ));
    }
    Ok(ExitCode::Done)
}

/// The batch triad as this world resolves it, after the values that were asked for.
fn plan_rows(plan: &batch::BatchPlan) -> Vec<Effective> {
    let row = |key: &str, value: &common::spec::Sourced<u64>| {
        let key = format!("batch.{key}");
        Effective::new(&key, value.value.to_string(), value.origin.clone())
    };
    vec![
        row("batch-size", &plan.batch_size),
        row("micro-batch-size", &plan.micro_batch_size),
        row("gradient-accumulation", &plan.gradient_accumulation),
    ]
}
