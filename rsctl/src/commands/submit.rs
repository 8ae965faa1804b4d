//! `rsctl submit`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use common::exit::ExitCode;
use common::ids::JobId;
use common::jobfile::Loaded;
use common::spec::{JobSpec, Resume};
use proto::{convert, v1};
use service::backoff::Backoff;
use service::exit::Failure;

use crate::commands::follow::FollowArgs;
use crate::commands::{Outcome, connect};
use crate::coordinator::{self, Coordinator};
use crate::job::{self, JobArgs};
use crate::master::MasterArgs;
use crate::slurm::ask::{self, SlurmArgs};
use crate::{place, render, sweep, upload};

/// A submit that got no answer is tried again this long; its request id makes that harmless.
const SUBMIT_WITHIN: Duration = Duration::from_secs(20);

/// Queue a job on a cluster; print its id
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Paths: inputs are relative to the job file, outputs to this folder. Workers read inputs at the
same absolute path unless --upload ships them (at most 64 MiB each).

A job with --after waits until the others have ended. One that needs their success is cancelled,
with the reason, when one of them does not succeed. --max-running needs a group.

A job with --slurm gets nodes of its own: the coordinator submits a batch script that makes each
node a worker for this job alone, and gives them back when the job has ended. The flags are keys of
the job file's [slurm], which has no effect without --slurm.

A job with --hostfile runs on the hosts and slots of that file only, on all of them if it names no
world-size; a host is a worker's name, its hostname or its address.

Examples:
  rsctl submit job.toml                          print the job's id
  rsctl submit job.toml --watch                  follow it to its end
  rsctl submit job.toml --upload --set training.epochs=20 --env NCCL_DEBUG=INFO
  rsctl submit job.toml --resume co2-lstm-x7k2p9:best
  rsctl submit job.toml --sweep model.hidden-size=64,128 --sweep training.learning-rate=1e-3,3e-4
  rsctl submit job.toml --sweep job.seed=1,2,3,4 --group seeds --max-running 2
  rsctl submit job.toml --after co2-lstm-x7k2p9:ok
  rsctl submit job.toml --hostfile hosts.txt --include gpu-node-01@gpu-node-02:0,2
  rsctl submit --slurm job.toml --partition main --nodes 2 --time 2:00:00
  rsctl submit --slurm job.toml --sbatch=--constraint=a100 --dry-run
  id=$(rsctl submit job.toml --json | jq -r .job_id)")]
pub(crate) struct Args {
    /// The job file
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    slurm: SlurmArgs,
    /// Ship the job's input files to the coordinator
    #[arg(long)]
    upload: bool,
    /// Start from a checkpoint: JOB, JOB:TAG (a tag, best or latest) or a path on the workers
    #[arg(long, value_name = "FROM")]
    resume: Option<String>,
    /// One job for every combination of values; may repeat
    #[arg(long, value_name = "KEY=V1,V2,...", conflicts_with = "watch")]
    sweep: Vec<String>,
    /// List, cancel and limit the job together with others [default: with --sweep, a new one]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Wait while N jobs of the group run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_running: Option<u32>,
    /// Start after another job: when it has succeeded (ok), or ended in any way; may repeat
    #[arg(long, value_name = "JOB[:ok|any]")]
    after: Vec<String>,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    master: MasterArgs,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let combinations = sweep::combinations(&args.sweep)?;
    let is_sweep = !args.sweep.is_empty();
    let mut jobs = Vec::with_capacity(combinations.len());
    for (index, settings) in combinations.into_iter().enumerate() {
        let mut job = args.job.clone();
        job.set.extend(settings.iter().map(|(key, value)| format!("{key}={value}")));
        let load = || job.load_with(&args.file, &args.slurm.overrides());
        let mut file = load().map_err(|error| told_where(error, &settings))?;
        if index == 0 {
            file.loaded.warnings.iter().for_each(render::warning);
        }
        if is_sweep {
            let name = &mut file.loaded.spec.job.name;
            *name = format!("{name}-{}", index + 1);
        }
        jobs.push((file, settings));
    }
    for (file, _) in &jobs {
        args.slurm.request(&file.loaded)?;
    }
    let mut coordinator = connect(&args.master).await?;
    if let Some((file, _)) = jobs.first().filter(|_| args.slurm.dry_run) {
        return dry_run(&file.loaded, &mut coordinator).await;
    }
    let queueing = Queueing::read(&args, &mut coordinator).await?;
    let resume = match &args.resume {
        Some(from) => Some(Resume::Path(place::for_submit(&mut coordinator, from).await?)),
        None => None,
    };
    let mut ids = Vec::with_capacity(jobs.len());
    for (file, settings) in jobs {
        let slurm = ask::json(args.slurm.request(&file.loaded)?);
        let mut spec = file.loaded.spec;
        if let Some(resume) = &resume {
            job::refuse_resume(&spec)?;
            spec.checkpoint.resume = resume.clone();
        }
        let uploads = match args.upload {
            true => upload::inputs(&mut coordinator, &spec).await?,
            false => Default::default(),
        };
        let request = queueing.request(&spec, file.text, uploads);
        let request = v1::SubmitRequest { slurm_json: slurm, ..request };
        let id = submit(&mut coordinator, request).await.map_err(|failure| match is_sweep {
            true => failure.hint(format!(
                "{} jobs of group {} were queued before; rsctl cancel --group {}",
                ids.len(),
                queueing.group,
                queueing.group
            )),
            false => failure,
        })?;
        ids.push((id, settings));
    }
    if is_sweep {
        return tell_sweep(&args, &queueing.group, &ids);
    }
    let (id, _) = ids.swap_remove(0);
    args.follow.follow(coordinator, &id).await
}

async fn dry_run(loaded: &Loaded, coordinator: &mut Coordinator) -> Outcome {
    let info = coordinator.info().await?;
    let script = ask::script(loaded, &loaded.slurm, &info)?;
    render::raw(script.as_bytes())?;
    Ok(ExitCode::Done)
}

/// A mistake that only this combination of a sweep has.
fn told_where(error: job::Error, settings: &sweep::Settings) -> Failure {
    let mut failure = Failure::from(error);
    if !settings.is_empty() {
        let set: Vec<String> =
            settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        failure.error = failure.error.context(format!("the job with {}", set.join(", ")));
    }
    failure
}

fn tell_sweep(args: &Args, group: &str, ids: &[(JobId, sweep::Settings)]) -> Outcome {
    if args.follow.json {
        let job = |(id, settings): &(JobId, sweep::Settings)| {
            let set: BTreeMap<&str, &str> =
                settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            serde_json::json!({ "job_id": id, "set": set })
        };
        let jobs: Vec<_> = ids.iter().map(job).collect();
        render::json(&serde_json::json!({ "group": group, "jobs": jobs }))?;
        return Ok(ExitCode::Done);
    }
    for (id, _) in ids {
        render::data(id)?;
    }
    render::talk(format_args!(
        "{} jobs in group {group}: rsctl jobs --group {group}; rsctl cancel --group {group}",
        ids.len()
    ));
    Ok(ExitCode::Done)
}

/// What the command line says about the queue, the same for every job of a sweep.
struct Queueing {
    group: String,
    max_running: u32,
    after: Vec<v1::After>,
}

impl Queueing {
    async fn read(args: &Args, coordinator: &mut Coordinator) -> Result<Self, Failure> {
        if args.max_running.is_some() && args.group.is_none() && args.sweep.is_empty() {
            let error =
                anyhow::anyhow!("--max-running counts the jobs of a group, and there is none");
            return Err(Failure::new(ExitCode::Usage, error).hint("name one with --group"));
        }
        let mut after = Vec::new();
        for text in &args.after {
            let (job, in_any_way) = match text.rsplit_once(':') {
                Some((job, "any")) => (job, true),
                Some((job, "ok")) => (job, false),
                Some((_, other)) => {
                    let error = anyhow::anyhow!("--after {text}: `{other}` is neither ok nor any");
                    return Err(Failure::new(ExitCode::Usage, error));
                }
                None => (text.as_str(), false),
            };
            let job_id = job::find(coordinator, job).await?.into();
            after.push(v1::After { job_id, in_any_way });
        }
        let group = match &args.group {
            Some(group) => group.clone(),
            None if args.sweep.is_empty() => String::new(),
            None => format!("sweep-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]),
        };
        Ok(Self { group, max_running: args.max_running.unwrap_or(0), after })
    }

    fn request(
        &self,
        spec: &JobSpec,
        job_toml: String,
        uploads: HashMap<String, String>,
    ) -> v1::SubmitRequest {
        v1::SubmitRequest {
            spec_json: convert::spec_json(spec),
            job_toml,
            request_id: uuid::Uuid::new_v4().to_string(),
            uploads,
            group: self.group.clone(),
            max_running: self.max_running,
            after: self.after.clone(),
            slurm_json: String::new(),
            command_secret: job::command_secret(spec),
        }
    }
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
