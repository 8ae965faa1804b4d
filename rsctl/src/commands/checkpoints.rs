//! `rsctl checkpoints`: looking at, checking, exchanging and removing checkpoints.

use std::path::PathBuf;

use anyhow::anyhow;
use tempfile::TempDir;

use checkpoint::retention::{self, Keep};
use checkpoint::{MANIFEST_FILE, Reader, Root};
use common::exit::ExitCode;
use common::ids::JobId;
use common::status::CheckpointRow;
use common::units::display_bytes;
use proto::convert::FetchWhat;
use service::exit::Failure;

use crate::commands::{Outcome, connect, fetch};
use crate::coordinator::Coordinator;
use crate::master::MasterArgs;
use crate::place::{self, Local, Place, failed};
use crate::{job, render};

mod show;
mod transfer;

use transfer::{ExportArgs, ImportArgs, export, import};

/// List, show, verify, export, import or prune checkpoints
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FROM is a job (JOB or JOB:TAG, by its coordinator), or a path or file:// URL of a checkpoint, of a
folder of checkpoints or of a run; a path needs no coordinator. TAG is step-120, best or latest.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What `prune` keeps unless it is told otherwise, and what `list` calls pinned: a job's own rules
/// have done their work already when its checkpoints are listed.
const KEEP: Keep = Keep { last: 2, best: 1 };

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Verify(VerifyArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
struct FromArgs {
    /// JOB, JOB:TAG, or a path or URL
    from: String,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// List whole checkpoints, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Pinned are those that `prune` without --keep-last and --keep-best would keep.

Examples:
  rsctl checkpoints list co2
  rsctl checkpoints list runs/co2-lstm-x7k2p9 --json | jq -r '.[0].path'")]
struct ListArgs {
    #[command(flatten)]
    from: FromArgs,
}

/// Show what a checkpoint holds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl checkpoints show co2:best
  rsctl checkpoints show runs/co2-lstm-x7k2p9 --tensors")]
struct ShowArgs {
    #[command(flatten)]
    from: FromArgs,
    /// Name every tensor with its type and shape
    #[arg(long)]
    tensors: bool,
}

/// Read every byte and compare it with its hash; exit with 1 where something is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl checkpoints verify co2
  rsctl checkpoints verify runs/co2-lstm-x7k2p9/checkpoints/step-00000400")]
struct VerifyArgs {
    #[command(flatten)]
    from: FromArgs,
}

/// Remove old checkpoints on this machine; the newest always stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl checkpoints prune runs/co2-lstm-x7k2p9 --keep-last 1 --keep-best 1 --dry-run
  rsctl checkpoints prune runs/co2-lstm-x7k2p9 --set-aside
  rsctl checkpoints prune co2 --keep-last 3")]
struct PruneArgs {
    #[command(flatten)]
    from: FromArgs,
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = KEEP.last)]
    keep_last: u32,
    /// Keep the best N by validation loss, where there is none by training loss
    #[arg(long, value_name = "N", default_value_t = KEEP.best)]
    keep_best: u32,
    /// Also remove what a resume from an older checkpoint set aside (`aside-step-...`)
    #[arg(long)]
    set_aside: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    match args.command {
        Command::List(args) => list(&args.from).await,
        Command::Show(args) => show(&args).await,
        Command::Verify(args) => verify(&args.from).await,
        Command::Export(args) => export(&args).await,
        Command::Import(args) => import(&args),
        Command::Prune(args) => prune(&args).await,
    }
}

async fn list(from: &FromArgs) -> Outcome {
    let mut rows = match Place::read(&from.from) {
        Place::Job { job, tag } => {
            let (mut coordinator, id) = of_job(from, &job).await?;
            let rows = pinned(coordinator.checkpoints(&id).await?);
            match tag {
                Some(tag) => vec![place::choose(&rows, Some(&tag), &format!("job {id}"))?.clone()],
                None => rows,
            }
        }
        Place::Path(path) => match Local::open(&path)? {
            Local::One(folder) => {
                vec![checkpoint::Found::at(&folder).map_err(failed)?.row(false, None)]
            }
            Local::Many(root) => local_rows(&root)?,
        },
    };
    rows.sort_by_key(|row| std::cmp::Reverse(row.step));
    if from.json {
        render::json(&rows)?;
    } else if !rows.is_empty() {
        render::data(show::list(&rows))?;
    }
    if rows.is_empty() {
        render::talk(format_args!("no whole checkpoint in {}", from.from));
    }
    Ok(ExitCode::Done)
}

/// What lies under a root; what does not count is told.
fn local_rows(root: &Root) -> Result<Vec<CheckpointRow>, Failure> {
    let listing = root.list().map_err(failed)?;
    for folder in &listing.incomplete {
        let (path, defect) = (folder.path.display(), folder.defect.chain());
        render::warning(format_args!("{path} does not count: {defect}"));
    }
    for path in &listing.set_aside {
        let path = path.display();
        render::talk(format_args!("note: {path} belongs to a history that a resume left"));
    }
    Ok(pinned(listing.whole.iter().map(|found| found.row(false, None)).collect()))
}

fn pinned(mut rows: Vec<CheckpointRow>) -> Vec<CheckpointRow> {
    let plan = retention::plan(&rows, KEEP);
    rows.iter_mut().for_each(|row| row.pinned = plan.is_pinned(&row.tag));
    rows
}

async fn show(args: &ShowArgs) -> Outcome {
    let one = one(&args.from).await?;
    let reader = Reader::open(&one.folder).map_err(failed)?;
    if args.from.json {
        render::json(&show::json(&reader, args.tensors))?;
    } else {
        render::data(show::text(&reader, args.tensors))?;
    }
    Ok(ExitCode::Done)
}

async fn verify(from: &FromArgs) -> Outcome {
    let one = one(from).await?;
    let report = checkpoint::verify(&one.folder).map_err(failed)?;
    if from.json {
        render::json(&report)?;
    } else {
        for file in &report.unlisted {
            render::talk(format_args!("note: {file} is not part of the checkpoint"));
        }
        for finding in &report.findings {
            // It names its file itself.
            render::talk(format_args!("error: {}", finding.problem));
        }
    }
    let path = report.path.display();
    if report.is_sound() {
        if !from.json {
            let (tensors, bytes) = (report.tensors, display_bytes(report.bytes));
            render::data(format_args!("{path}: sound ({tensors} tensors, {bytes})"))?;
        }
        return Ok(ExitCode::Done);
    }
    let error = anyhow!("{path} is damaged");
    Err(Failure::new(ExitCode::Failed, error)
        .hint("an older checkpoint may be whole: `rsctl checkpoints list` shows them"))
}

async fn prune(args: &PruneArgs) -> Outcome {
    let root = root(&args.from).await?;
    let listing = root.list().map_err(failed)?;
    let keep = Keep { last: args.keep_last, best: args.keep_best };
    let plan = retention::plan(&listing.whole, keep);
    if !plan.remove.is_empty() {
        for kept in &plan.keep {
            check_kept(&root, &kept.tag)?;
        }
    }
    let mut removed =
        if args.dry_run { plan.remove.clone() } else { root.prune(&plan, None).map_err(failed)? };
    if args.set_aside {
        removed.extend(remove_set_aside(&root, &listing.set_aside, args.dry_run)?);
    }
    if args.from.json {
        render::json(&serde_json::json!({
            "root": root.path(), "dry_run": args.dry_run, "removed": removed, "kept": plan.keep,
        }))?;
        return Ok(ExitCode::Done);
    }
    let word = if args.dry_run { "would remove" } else { "removed" };
    removed.iter().try_for_each(|tag| render::data(format_args!("{word} {tag}")))?;
    let kept: Vec<&str> = plan.keep.iter().map(|kept| kept.tag.as_str()).collect();
    match kept[..] {
        [] => render::talk(format_args!("no whole checkpoint in {}", root.path().display())),
        _ => render::talk(format_args!("kept {}", kept.join(", "))),
    }
    if !args.set_aside && !listing.set_aside.is_empty() {
        let count = listing.set_aside.len();
        render::talk(format_args!("note: {count} set aside by resumes; --set-aside removes them"));
    }
    Ok(ExitCode::Done)
}

/// Returns the names of the folders.
fn remove_set_aside(root: &Root, all: &[PathBuf], dry_run: bool) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    for path in all {
        if dry_run || root.remove_set_aside(path).map_err(failed)? {
            let name = path.file_name().unwrap_or_default();
            removed.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(removed)
}

/// Sizes alone would let a damaged checkpoint outlive the good ones that it would replace.
fn check_kept(root: &Root, tag: &str) -> Result<(), Failure> {
    let folder = root.path().join(tag);
    let report = checkpoint::verify(&folder).map_err(failed)?;
    if report.is_sound() {
        return Ok(());
    }
    let path = folder.display();
    let error = anyhow!("nothing was removed: {path}, which would be kept, is damaged");
    Err(Failure::new(ExitCode::Failed, error).hint(format!(
        "`rsctl checkpoints verify {path}` says what is wrong; remove that folder, then prune again"
    )))
}

/// One checkpoint on this machine.
#[derive(Debug)]
struct One {
    folder: PathBuf,
    /// Holds what had to be fetched; removed when dropped.
    _fetched: Option<TempDir>,
}

async fn one(from: &FromArgs) -> Result<One, Failure> {
    match Place::read(&from.from) {
        Place::Path(path) => {
            let folder = Local::open(&path)?.checkpoint(None)?;
            Ok(One { folder, _fetched: None })
        }
        Place::Job { job, tag } => {
            let (mut coordinator, id) = of_job(from, &job).await?;
            let rows = coordinator.checkpoints(&id).await?;
            let row = place::choose(&rows, tag.as_deref(), &format!("job {id}"))?;
            let folder = PathBuf::from(&row.path);
            if folder.join(MANIFEST_FILE).is_file() {
                return Ok(One { folder, _fetched: None });
            }
            bring(&mut coordinator, &id, row).await
        }
    }
}

/// Brings a checkpoint that lies on another machine.
async fn bring(
    coordinator: &mut Coordinator,
    id: &JobId,
    row: &CheckpointRow,
) -> Result<One, Failure> {
    render::talk(format_args!("fetching {} of {id}: it is not on this machine", row.tag));
    let io = |error: std::io::Error| Failure::new(ExitCode::Failed, error);
    let fetched = tempfile::Builder::new().prefix("rsctl-").tempdir().map_err(io)?;
    let to = fetched.path().to_owned();
    let files = fetch::fetch(coordinator, id, FetchWhat::Checkpoint, &row.tag, to).await?.files;
    // The sender decides how deep below the run's folder its names begin.
    let manifest = files.iter().find(|file| PathBuf::from(file).ends_with(MANIFEST_FILE));
    let folder = manifest.and_then(|file| fetched.path().join(file).parent().map(PathBuf::from));
    let folder = folder.ok_or_else(|| {
        Failure::new(ExitCode::Failed, anyhow!("what came for {} has no manifest", row.tag))
    })?;
    Ok(One { folder, _fetched: Some(fetched) })
}

/// The folder of several checkpoints, on this machine.
async fn root(from: &FromArgs) -> Result<Root, Failure> {
    let one_is_named = || {
        Failure::new(ExitCode::Usage, anyhow!("prune works on a folder of checkpoints or a JOB"))
    };
    match Place::read(&from.from) {
        Place::Path(path) => match Local::open(&path)? {
            Local::Many(root) => Ok(root),
            Local::One(_) => Err(one_is_named()),
        },
        Place::Job { tag: Some(_), .. } => Err(one_is_named()),
        Place::Job { job, tag: None } => {
            let (mut coordinator, id) = of_job(from, &job).await?;
            let rows = coordinator.checkpoints(&id).await?;
            let row = place::choose(&rows, None, &format!("job {id}"))?;
            let root = PathBuf::from(&row.path).parent().map(PathBuf::from).unwrap_or_default();
            if root.is_dir() {
                return Ok(Root::at(&root));
            }
            let place = row.worker.as_ref().map_or_else(String::new, |name| format!(" of {name}"));
            let error = anyhow!("{}{place} is not on this machine", root.display());
            Err(Failure::new(ExitCode::Failed, error)
                .hint(format!("run there: rsctl checkpoints prune {}", root.display())))
        }
    }
}

async fn of_job(from: &FromArgs, job: &str) -> Result<(Coordinator, JobId), Failure> {
    let here = PathBuf::from("runs").join(job);
    let mut coordinator = connect(&from.master).await.map_err(|failure| {
        // After `rsctl run` there is no coordinator any more, but there is its output.
        if here.is_dir() {
            failure.hint(format!("{0} is here: use ./{0} instead of the job's id", here.display()))
        } else {
            failure
        }
    })?;
    let id = job::find(&mut coordinator, job).await?;
    Ok((coordinator, id))
}
