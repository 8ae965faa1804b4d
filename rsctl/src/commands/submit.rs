//! `rsctl submit`.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use common::exit::ExitCode;
use common::ids::JobId;
use common::spec::Resume;
use proto::{convert, v1};
use service::backoff::Backoff;
use service::exit::Failure;

use crate::commands::watch::{self, PatienceArgs};
use crate::commands::{Outcome, connect};
use crate::coordinator::{self, Coordinator};
use crate::job::JobArgs;
use crate::master::MasterArgs;
use crate::{place, render, upload};

/// A submit that got no answer is tried again this long; its request id makes that harmless.
const SUBMIT_WITHIN: Duration = Duration::from_secs(20);

/// Queue a job on a cluster; print its id
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Paths: inputs are relative to the job file, outputs to this folder. Workers read inputs at the
same absolute path unless --upload ships them (at most 64 MiB each).

Examples:
  rsctl submit job.toml                          print the job's id
  rsctl submit job.toml --watch                  follow it to its end
  rsctl submit job.toml --upload --set training.epochs=20 --env NCCL_DEBUG=INFO
  rsctl submit job.toml --resume co2-lstm-x7k2p9:best
  id=$(rsctl submit job.toml --json | jq -r .job_id)")]
pub(crate) struct Args {
    /// The job file
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    #[command(flatten)]
    job: JobArgs,
    /// Ship the job's input files to the coordinator
    #[arg(long)]
    upload: bool,
    /// Start from a checkpoint: JOB, JOB:TAG (a tag, best or latest) or a path on the workers
    #[arg(long, value_name = "FROM")]
    resume: Option<String>,
    /// Follow the job to its end; exit with its result
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    master: MasterArgs,
    #[command(flatten)]
    patience: PatienceArgs,
    /// Print {"job_id": ...}; with --watch, then one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let file = args.job.load(&args.file)?;
    file.loaded.warnings.iter().for_each(render::warning);
    let mut spec = file.loaded.spec;
    let mut coordinator = connect(&args.master).await?;
    if let Some(from) = &args.resume {
        spec.checkpoint.resume = Resume::Path(place::for_submit(&mut coordinator, from).await?);
    }
    let uploads = if args.upload {
        upload::inputs(&mut coordinator, &spec).await?
    } else {
        Default::default()
    };
    let request = v1::SubmitRequest {
        spec_json: convert::spec_json(&spec),
        job_toml: file.text,
        request_id: uuid::Uuid::new_v4().to_string(),
        uploads,
    };
    let id = submit(&mut coordinator, request).await?;
    match (args.json, args.watch) {
        (true, false) => render::json(&serde_json::json!({ "job_id": id }))?,
        (true, true) => render::json_line(&serde_json::json!({ "job_id": id }))?,
        (false, _) => render::data(&id)?,
    }
    if !args.watch {
        return Ok(ExitCode::Done);
    }
    watch::to_the_end(coordinator, &id, args.patience.reconnect_timeout, args.json).await
}

/// Submits, again when the answer was lost: the same request id gives the same job.
pub(crate) async fn submit(
    coordinator: &mut Coordinator,
    request: v1::SubmitRequest,
) -> Result<JobId, Failure> {
    let began = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let error: coordinator::Error = match coordinator.submit(request.clone()).await {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        let wait = backoff.next_wait_jittered();
        if !error.is_retryable() || began.elapsed() + wait > SUBMIT_WITHIN {
            return Err(error.into());
        }
        if backoff.tries() == 1 {
            render::talk(format_args!("{}; trying again", service::exit::chain(&error)));
        }
        tokio::time::sleep(wait).await;
    }
}
