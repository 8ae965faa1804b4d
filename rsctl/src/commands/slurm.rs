//! `rsctl slurm`: jobs on the nodes of a SLURM cluster.

mod pool;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::ids::JobId;
use common::spec::{JobSpec, Resume};
use common::status::JobStatus;
use proto::{convert, v1};
use service::exit::Failure;

use crate::cluster::Runs;
use crate::commands::Outcome;
use crate::commands::end::{self, Print};
use crate::coordinator::{Coordinator, JobFilter};
use crate::job::{self, JobArgs};
use crate::render::progress;
use crate::slurm::allocation::Allocation;
use crate::slurm::fit;
use crate::slurm::folder::Folder;
use crate::slurm::follow::{Ended, Following};
use crate::slurm::signals::{Signals, Told};
use crate::slurm::site::{Asked, Site};
use crate::{place, render};

/// Train jobs on the nodes of a SLURM cluster
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(RunArgs),
    Pool(pool::PoolArgs),
}

/// Train a job on the nodes of the SLURM allocation that this command is in
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Starts a coordinator here and a worker on each node of the allocation (by one srun), runs the job to
its end, stops them and exits with the job's code. Results stay in the job's output folder.

SIGUSR1, as of `#SBATCH --signal=B:USR1@60`, announces that the nodes are taken away: the job saves
and leaves, and the command exits with 75. When SLURM queues its job again, the command goes on with
the same job from there; a program of the job's own is started again. Until the job has ended, what
that needs is in <output-dir>/.slurm.
Ctrl-C saves and cancels (exit code 4). SIGTERM saves and ends (4), too, and the job goes on when
SLURM queues its own again.

Examples:
  sbatch deploy/slurm/rustspeed.sbatch job.toml --set training.epochs=3    in a queue
  salloc --nodes=2 rsctl slurm run job.toml                                now
  rsctl slurm run job.toml --json                                          inside an allocation
  rsctl slurm run job.toml --grace 100s --address ib-head")]
struct RunArgs {
    /// The job file
    #[arg(value_name = "JOB.TOML")]
    file: PathBuf,
    #[command(flatten)]
    job: JobArgs,
    /// Start from a checkpoint: JOB, JOB:TAG (a tag, best or latest) or a path
    #[arg(long, value_name = "FROM")]
    resume: Option<String>,
    /// After SIGUSR1 the ranks have this long to save; less than SLURM leaves them
    #[arg(long, value_name = "TIME", default_value = "45s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Name or address by which the nodes reach this machine [default: its name]
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// Print the final status as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn execute(args: Args) -> Outcome {
    match args.command {
        Command::Run(args) => run(args).await,
        Command::Pool(args) => pool::execute(args).await,
    }
}

async fn run(args: RunArgs) -> Outcome {
    // First: a signal must not end a process that has begun to start others.
    let mut signals = Signals::new()?;
    let allocation = Allocation::read(|name| std::env::var(name).ok())?;
    let file = args.job.load(&args.file)?;
    file.loaded.warnings.iter().for_each(render::warning);
    let mut spec = file.loaded.spec;
    if let Some(from) = &args.resume {
        job::refuse_resume(&spec)?;
        spec.checkpoint.resume = Resume::Path(place::for_run(from, &spec.job.output_dir)?);
    }
    let choice = fit::check(&spec.resources, &allocation)?;
    let does = if spec.command.is_some() { "running" } else { "training" };
    render::talk(format_args!("{does} {} with {choice}", spec.job.name));
    let folder = Folder::open(&spec, &allocation)?;
    let is_elastic = spec.resources.world_size.is_none();
    let run = Run {
        asked: Asked {
            address: args.address,
            notice_grace: args.grace,
            is_elastic,
            runs: Runs::of(&spec),
        },
        job_toml: file.text,
        spec,
        allocation,
    };
    let ended = run.train(&folder, &mut signals).await;
    run.conclude(ended, folder, args.json)
}

/// A job and where it is to run.
struct Run {
    spec: JobSpec,
    job_toml: String,
    allocation: Allocation,
    asked: Asked,
}

impl Run {
    /// Everything between the first and the last process.
    async fn train(&self, folder: &Folder, signals: &mut Signals) -> Result<Ended, Failure> {
        let mut site = tokio::select! {
            site = Site::start(&self.allocation, folder, &self.asked) => site?,
            told = signals.next() => return Ok(before_the_job(told)),
        };
        let ended = self.train_on(&mut site, folder, signals).await;
        site.stop().await;
        ended
    }

    async fn train_on(
        &self,
        site: &mut Site,
        folder: &Folder,
        signals: &mut Signals,
    ) -> Result<Ended, Failure> {
        let mut coordinator = Coordinator::connect(&site.address()).await?;
        tokio::select! {
            ready = site.ready(&mut coordinator) => ready?,
            told = signals.next() => return Ok(before_the_job(told)),
        }
        let job = match self.unfinished(&mut coordinator, folder).await? {
            Some(job) => job,
            None => coordinator.submit(self.request(site.command_secret())).await?,
        };
        let mut view = progress::for_people();
        let notice_grace = self.asked.notice_grace;
        let following = Following { site, signals, coordinator, job: &job, notice_grace };
        following.until_it_ends(view.as_mut()).await
    }

    /// The job that an earlier life of this SLURM job has left.
    async fn unfinished(
        &self,
        coordinator: &mut Coordinator,
        folder: &Folder,
    ) -> Result<Option<JobId>, Failure> {
        let restarts = self.allocation.restarts;
        let rows = match folder.is_continued {
            true => coordinator.jobs(&JobFilter::default()).await?,
            false => Vec::new(),
        };
        let found = rows.into_iter().rfind(|row| row.name == self.spec.job.name);
        match &found {
            Some(row) => render::talk(format_args!(
                "queued again ({restarts}): {} {}",
                row.job_id,
                match self.spec.command {
                    // Where it goes on is its own business.
                    Some(_) => "starts again",
                    None => "goes on from its newest checkpoint",
                }
            )),
            None if restarts > 0 => render::warning(format_args!(
                "queued again ({restarts}), and there is nothing to go on with in {}: a new job",
                folder.path().display()
            )),
            None => {}
        }
        Ok(found.map(|row| row.job_id))
    }

    fn request(&self, command_secret: String) -> v1::SubmitRequest {
        v1::SubmitRequest {
            spec_json: convert::spec_json(&self.spec),
            job_toml: self.job_toml.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            command_secret,
            ..Default::default()
        }
    }

    /// All processes are gone; the folder goes when nothing is left to be done.
    fn conclude(&self, ended: Result<Ended, Failure>, folder: Folder, json: bool) -> Outcome {
        match ended {
            Ok(Ended::Final(status)) => {
                folder.remove();
                end::conclude(&status, if json { Print::Json } else { Print::Summary })
            }
            Ok(Ended::Preempted(status)) => {
                if let Some(status) = status.as_ref().filter(|_| json) {
                    render::json(status)?;
                }
                Err(self.preempted(status.as_ref()))
            }
            Ok(Ended::Terminated) => Err(self.terminated()),
            Ok(Ended::Cancelled) => {
                folder.remove();
                Err(Failure::new(ExitCode::Cancelled, anyhow!("interrupted")))
            }
            Err(failure) if failure.code == ExitCode::BadConfiguration => {
                folder.remove();
                Err(failure)
            }
            Err(failure) => {
                render::talk(format_args!("the daemons' logs are in {}", folder.path().display()));
                Err(failure)
            }
        }
    }

    fn preempted(&self, status: Option<&JobStatus>) -> Failure {
        let what = match status {
            Some(status) => format!("job {} has left its nodes", status.row.job_id),
            None => format!("job {} must leave its nodes", self.spec.job.name),
        };
        let failure = Failure::new(ExitCode::Preempted, anyhow!("{what} before its end"));
        failure.hint(format!("{}; rustspeed.sbatch does that by itself", self.how_to_go_on()))
    }

    fn terminated(&self) -> Failure {
        let error = anyhow!("SIGTERM has ended job {} before its end", self.spec.job.name);
        Failure::new(ExitCode::Cancelled, error).hint(self.how_to_go_on())
    }

    fn how_to_go_on(&self) -> String {
        let job = self.allocation.job;
        match self.spec.command {
            Some(_) => format!("`scontrol requeue {job}` starts it again"),
            None => format!("`scontrol requeue {job}` goes on from the newest checkpoint"),
        }
    }
}

/// There is nothing to save yet.
fn before_the_job(told: Told) -> Ended {
    match told {
        Told::Notice => Ended::Preempted(None),
        Told::End => Ended::Terminated,
        Told::Cancel | Told::CancelAtOnce => Ended::Cancelled,
    }
}
