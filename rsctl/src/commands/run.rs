//! `rsctl run`: a job on this machine, or on the hosts that it names, with a private cluster that lives
//! as long as the command.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::ids::JobId;
use common::spec::{Device, JobSpec, Resume};
use common::status::{JobState, JobStatus};
use common::units::count;
use proto::{convert, v1};
use service::exit::Failure;

use crate::cluster::here::{self, Machine};
use crate::cluster::plan::{self, Asked, Plan, Slots};
use crate::cluster::{Cluster, Runs};
use crate::commands::Outcome;
use crate::commands::end::{self, Print};
use crate::coordinator::Coordinator;
use crate::follow::{Follower, View};
use crate::interrupts::{Interrupts, interrupted};
use crate::job::{self, JobArgs};
use crate::render::progress;
use crate::ssh::environment::Variables;
use crate::ssh::site::Order;
use crate::ssh::{SshArgs, target};
use crate::{place, render};

/// The private coordinator is on this machine: when it is gone, it is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// All workers are there, so a job that is still queued after this time waits for what never comes.
const PLACED_WITHIN: Duration = Duration::from_secs(3);
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
and results written, at the same paths there: a shared disk, as for DeepSpeed.

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
            let runs = if spec.brings_code() { Runs::Commands } else { Runs::Jobs };
            Site::Here(plan::plan(&spec.resources, asked, cores())?, runs)
        }
        here::Site::OnHosts if spec.command.is_some() => return Err(command_on_hosts()),
        here::Site::OnHosts => Site::OnHosts(order(&args, &spec, &machine)?),
    };
    render::talk(format_args!("training {} with {}", spec.job.name, site.choice(&spec)));
    let request = v1::SubmitRequest {
        spec_json: convert::spec_json(&spec),
        job_toml: file.text,
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let status = train(&site, request, &mut interrupts).await?;
    end::conclude(&status, if args.json { Print::Json } else { Print::Summary })
}

/// Hosts reach the coordinator by the network, where nobody is asked who he is.
fn command_on_hosts() -> Failure {
    let error = anyhow!("job.command is not run on other hosts by `rsctl run`");
    let hint = "start `coordinator serve` and the workers with --allow-commands, then `rsctl submit` \
                with the same arguments";
    Failure::new(ExitCode::BadConfiguration, error).hint(hint)
}

/// Where the private cluster is.
enum Site {
    Here(Plan, Runs),
    OnHosts(Order),
}

impl Site {
    async fn start(&self) -> Result<Cluster, Failure> {
        match self {
            Self::Here(plan, runs) => Ok(Cluster::start(plan, *runs).await?),
            Self::OnHosts(order) => Cluster::start_on(order).await,
        }
    }

    /// For a person.
    fn choice(&self, spec: &JobSpec) -> String {
        match self {
            Self::Here(plan, _) => plan.choice.clone(),
            Self::OnHosts(order) => {
                let hosts = count(order.targets.len() as u64, "host");
                match spec.resources.largest_world() {
                    Some(world) => format!("{} on {hosts}", count(world.into(), "rank")),
                    None => format!("all slots of {hosts}"),
                }
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Here(..) => "this machine",
            Self::OnHosts(_) => "these hosts",
        }
    }
}

/// The workers that the job's hosts are to have.
fn order(args: &Args, spec: &JobSpec, machine: &Machine) -> Result<Order, Failure> {
    let targets = match (args.job.hosts.choose()?, &spec.resources.hosts) {
        // Who logs in stands in the hostfile alone.
        (Some(chosen), _) => target::of_hostfile(&chosen, machine)?,
        (None, Some(hosts)) => target::of_job(hosts, machine)?,
        (None, None) => Vec::new(),
    };
    let variables = Variables::of_this_process(&args.ssh.export)?;
    variables.told().iter().for_each(render::talk);
    Ok(Order {
        targets,
        ssh: args.ssh.ssh(),
        programs: args.ssh.programs(),
        variables,
        advertise: args.ssh.advertise.clone(),
        master: None,
        port: 0,
        is_cuda: spec.resources.device == Device::Cuda,
        is_kept: false,
    })
}

/// Everything between the first and the last process.
async fn train(
    site: &Site,
    request: v1::SubmitRequest,
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
                error = cluster.broken() => Err(error.into()),
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
    if matches!(site, Site::Here(plan, _) if plan.slots == Slots::Auto) {
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
