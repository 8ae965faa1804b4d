//! `rsctl run`: a job on this machine, or on the hosts that it names, with a private cluster that lives
//! as long as the command.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::ids::JobId;
use common::spec::{JobSpec, Resume};
use common::status::{JobState, JobStatus};
use proto::{convert, v1};
use service::exit::Failure;

use crate::cluster::here::{self, Machine};
use crate::cluster::need::Need;
use crate::cluster::plan::{self, Asked};
use crate::cluster::site::{self, Site};
use crate::cluster::{Cluster, Runs};
use crate::commands::Outcome;
use crate::commands::end::{self, Print};
use crate::coordinator::Coordinator;
use crate::follow::{Follower, View};
use crate::interrupts::{Interrupts, interrupted};
use crate::job::{self, JobArgs};
use crate::render::progress;
use crate::ssh::SshArgs;
use crate::ssh::environment::Variables;
use crate::{place, render};

/// The private coordinator is on this machine: when it is gone, it is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// All workers are there, so a job that is still queued after this time waits for what never comes.
pub(crate) const PLACED_WITHIN: Duration = Duration::from_secs(3);
/// After a second Ctrl-C.
pub(crate) const KILLED_WITHIN: Duration = Duration::from_secs(3);

/// Train a job on this machine or a hostfile's, with a private cluster that ends with the command
#[derive(Debug, clap::Args)]
#[command(after_help = concat!("\
Starts a coordinator and workers of its own on loopback, runs the job to its end, stops them and
exits with the job's code. Results stay in the job's output folder (runs/<job id> by default).
Ctrl-C saves a checkpoint and cancels (exit code 4); a second Ctrl-C stops at once.

With a hostfile that names other hosts, a worker runs on each of them, over ssh, as long as the
command does; what ssh and variables are like is told by `rsctl cluster up --help`. Inputs are read,
and results written, at the same paths there: a shared disk, as for DeepSpeed. The job goes on while
the workers that are left have room for it (resources.min-ranks).

Examples:
  rsctl run job.toml
  rsctl run job.toml --workers 2                 ranks spread over two workers
  rsctl run job.toml --gpus 2 --set training.epochs=3
  rsctl run job.toml --hostfile hosts.txt --include localhost:0,1
  rsctl run job.toml --hostfile hosts.txt --ssh-port 2222
  rsctl run job.toml --resume runs/co2-lstm-x7k2p9
  rsctl run job.toml --json | jq .summary.best_val_loss", crate::args::usual_ranges!()))]
pub(crate) struct Args {
    /// The job file
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    /// Start N workers
    #[arg(long, value_name = "N", default_value = "1")]
    workers: NonZeroU32,
    /// Slots (devices or cores) of each worker [default: what the job's world needs, else all]
    #[arg(long, value_name = "N")]
    slots: Option<NonZeroU32>,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    ssh: SshArgs,
    /// Start from a checkpoint: JOB, JOB:TAG (a tag, best or latest) or a path
    #[arg(long, value_name = "FROM")]
    resume: Option<String>,
    /// Print the final status as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    let mut interrupts = Interrupts::new()?;
    let file = args.job.load(&args.file)?;
    file.loaded.warnings.iter().for_each(render::warning);
    let mut spec = file.loaded.spec;
    if let Some(from) = &args.resume {
        job::refuse_resume(&spec)?;
        spec.checkpoint.resume = Resume::Path(place::for_run(from, &spec.job.output_dir)?);
    }
    let slots = args.slots.map(NonZeroU32::get);
    let asked = Asked { workers: args.workers.get(), slots, origin: "--slots" };
    let machine = Machine::this();
    let site = match here::site(&mut spec.resources, asked, &machine)? {
        here::Site::Here(asked) => {
            check_inputs(&spec)?;
            Site::Here(plan::plan(&spec.resources, asked, cores())?, Runs::of(&spec))
        }
        here::Site::OnHosts => {
            let chosen = args.job.hosts.choose()?;
            let variables = Variables::of_this_process(&args.ssh.export)?;
            variables.told().iter().for_each(render::talk);
            let order = site::order(&spec, chosen.as_ref(), &args.ssh, variables, &machine)?;
            Site::OnHosts(Box::new(order))
        }
    };
    let does = if spec.command.is_some() { "running" } else { "training" };
    render::talk(format_args!("{does} {} with {}", spec.job.name, site.choice(&spec)));
    let request = v1::SubmitRequest {
        spec_json: convert::spec_json(&spec),
        job_toml: file.text,
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let need = Need::of(&spec.resources);
    let status = train(&site, request, need, &mut interrupts).await?;
    end::conclude(&status, if args.json { Print::Json } else { Print::Summary })
}

/// Everything between the first and the last process.
async fn train(
    site: &Site,
    request: v1::SubmitRequest,
    need: Need,
    interrupts: &mut Interrupts,
) -> Result<JobStatus, Failure> {
    let mut cluster = tokio::select! {
        cluster = site.start() => cluster?,
        () = interrupts.next() => return Err(interrupted()),
    };
    let mut coordinator = Coordinator::connect(cluster.address()).await?;
    let submitted = tokio::select! {
        id = start(site, &mut cluster, &mut coordinator, request) => id,
        () = interrupts.next() => Err(interrupted()),
    };
    let result = match submitted {
        Ok(id) => {
            let mut view = progress::for_people();
            let followed = tokio::select! {
                status = follow(coordinator, &id, view.as_mut(), interrupts, site) => status,
                error = cluster.broken(need) => Err(error.into()),
            };
            drop(view);
            followed
        }
        Err(failure) => Err(failure),
    };
    let result = result.map_err(|failure| with_last_words(failure, &cluster));
    cluster.stop().await;
    result
}

async fn start(
    site: &Site,
    cluster: &mut Cluster,
    coordinator: &mut Coordinator,
    request: v1::SubmitRequest,
) -> Result<JobId, Failure> {
    let slots = cluster.ready(coordinator).await?;
    if site.looks_for_slots() {
        let s = if slots == 1 { "" } else { "s" };
        render::talk(format_args!("this machine has {slots} slot{s}"));
    }
    let request = v1::SubmitRequest { command_secret: cluster.command_secret(), ..request };
    Ok(coordinator.submit(request).await?)
}

/// Follows the job; a first interrupt cancels it, a second kills it.
async fn follow(
    coordinator: Coordinator,
    id: &JobId,
    view: &mut dyn View,
    interrupts: &mut Interrupts,
    site: &Site,
) -> Result<JobStatus, Failure> {
    let mut asking = coordinator.clone();
    let mut follower = Follower { coordinator, patience: PATIENCE };
    tokio::select! {
        status = follower.until_final(id, view) => return status,
        failure = never_placed(asking.clone(), id, site.name()) => return Err(failure),
        () = interrupts.next() => {}
    }
    view.talk("cancelling: the ranks finish their step and save; Ctrl-C again stops at once");
    asking.cancel(id, false).await?;
    tokio::select! {
        status = follower.until_final(id, view) => return status,
        () = interrupts.next() => {}
    }
    view.talk("stopping at once");
    asking.cancel(id, true).await?;
    match tokio::time::timeout(KILLED_WITHIN, follower.until_final(id, view)).await {
        Ok(status) => status,
        // The cluster's end takes the trainers with it.
        Err(_) => Err(interrupted()),
    }
}

/// Resolves only when the job waits for what this cluster will never have.
pub(crate) async fn never_placed(
    mut coordinator: Coordinator,
    id: &JobId,
    place: &'static str,
) -> Failure {
    tokio::time::sleep(PLACED_WITHIN).await;
    // A coordinator that does not answer is the follower's business.
    if let Ok(status) = coordinator.job(id).await
        && status.row.state == JobState::Queued
    {
        let why = anyhow!("{place} cannot run the job: {}", status.row.reason);
        return Failure::new(ExitCode::BadConfiguration, why);
    }
    std::future::pending().await
}

pub(crate) fn with_last_words(failure: Failure, cluster: &Cluster) -> Failure {
    match failure.code {
        ExitCode::CoordinatorUnreachable => {
            let words = cluster.last_words();
            let error = failure.error.context("the private cluster failed");
            Failure {
                code: ExitCode::Failed,
                error: anyhow!("{}{words}", service::exit::chain(error.as_ref())),
                hint: None,
            }
        }
        _ => failure,
    }
}

/// The workers are on this machine, so what is missing here is missing there.
fn check_inputs(spec: &JobSpec) -> Result<(), Failure> {
    for (key, path) in job::inputs(spec) {
        if let Err(error) = fs_err::File::open(path) {
            let error = anyhow::Error::new(error).context(format!("read {key}"));
            return Err(Failure::new(ExitCode::BadConfiguration, error)
                .hint("paths of inputs are relative to the job file"));
        }
    }
    Ok(())
}

pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
}
