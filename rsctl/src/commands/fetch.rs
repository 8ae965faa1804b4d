//! `rsctl fetch`.

use std::path::PathBuf;
use std::pin::pin;

use clap::ValueEnum;
use futures::StreamExt as _;
use serde::Serialize;

use common::exit::ExitCode;
use common::ids::JobId;
use common::units::display_bytes;
use proto::convert::FetchWhat;
use service::exit::Failure;

use crate::commands::{Outcome, connect};
use crate::coordinator::Coordinator;
use crate::master::MasterArgs;
use crate::{job, place, render};

pub(crate) mod receive;

/// Bring a job's results to this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files appear whole or not at all; existing ones are replaced.

Examples:
  rsctl fetch co2                                  everything, into ./<job id>
  rsctl fetch co2 tensorboard --to /tmp/co2
  rsctl fetch co2 checkpoint --tag best")]
pub(crate) struct Args {
    /// The job's id or a unique prefix of it
    job: String,
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// The folder to write to [default: ./<job id>]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Which checkpoint: a tag, best or latest [default: the newest]
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    master: MasterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Checkpoint,
    Tensorboard,
    Logs,
    Metrics,
    All,
}

impl From<What> for FetchWhat {
    fn from(what: What) -> Self {
        match what {
            What::Checkpoint => Self::Checkpoint,
            What::Tensorboard => Self::Tensorboard,
            What::Logs => Self::Logs,
            What::Metrics => Self::Metrics,
            What::All => Self::All,
        }
    }
}

/// What arrived.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Fetched {
    pub(crate) folder: PathBuf,
    /// Relative to the folder.
    pub(crate) files: Vec<String>,
    pub(crate) bytes: u64,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut coordinator = connect(&args.master).await?;
    let id = job::find(&mut coordinator, &args.job).await?;
    let folder = args.to.unwrap_or_else(|| PathBuf::from(id.as_str()));
    let tag = match &args.tag {
        Some(tag) => {
            let rows = coordinator.checkpoints(&id).await?;
            place::choose(&rows, Some(tag), &format!("job {id}"))?.tag.clone()
        }
        None => String::new(),
    };
    let fetched = fetch(&mut coordinator, &id, args.what.into(), &tag, folder).await?;
    if fetched.files.is_empty() {
        return Err(Failure::new(
            ExitCode::Failed,
            anyhow::anyhow!("job {id} has no such files yet"),
        ));
    }
    if args.json {
        render::json(&fetched)?;
    } else {
        fetched.files.iter().try_for_each(render::data)?;
        render::talk(format_args!(
            "{} files, {} in {}",
            fetched.files.len(),
            display_bytes(fetched.bytes),
            fetched.folder.display()
        ));
    }
    Ok(ExitCode::Done)
}

/// Receives files into `folder`.
pub(crate) async fn fetch(
    coordinator: &mut Coordinator,
    id: &JobId,
    what: FetchWhat,
    tag: &str,
    folder: PathBuf,
) -> Result<Fetched, Failure> {
    let mut receiver = receive::Receiver::new(&folder)?;
    let mut chunks = pin!(coordinator.fetch(id, what, tag).await?);
    let mut fetched = Fetched { folder, ..Fetched::default() };
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        fetched.bytes += chunk.data.len() as u64;
        if let Some(file) = receiver.accept(&chunk.path, &chunk.data, chunk.last)? {
            fetched.files.push(file);
        }
    }
    receiver.finish()?;
    Ok(fetched)
}
