//! `rsctl launch`: from torchrun's and deepspeed's words to a job with a command, run on a private
//! cluster or on the workers of a coordinator, with what its ranks write shown as it comes.

mod compatible;
mod follow;
mod meaning;
mod output;
mod surroundings;
mod variables;

use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::jobfile::{self, Mistakes, Override};
use common::spec::JobSpec;
use common::status::{JobState, JobStatus, TrainerEnd};
use proto::{convert, v1};
use service::exit::Failure;

pub(crate) use compatible::Compatible;
pub(crate) use meaning::{Like, Nproc};

use crate::cluster::Runs;
use crate::cluster::here;
use crate::cluster::plan::{self, Asked};
use crate::cluster::site::{self, Site};
use crate::commands::launch::Args;
use crate::commands::run::cores;
use crate::hosts::{self, Chosen};
use crate::interrupts::Interrupts;
use crate::launch::meaning::Meaning;
use crate::launch::surroundings::Surroundings;
use crate::ssh::site::Order;
use crate::{job, render};

/// Why nothing is launched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{flag} is not supported")]
    NotSupported { flag: &'static str, instead: &'static str },
    #[error("unknown flag `{0}`: what comes before the script is for rsctl launch")]
    UnknownFlag(String),
    #[error("{0} GPUs are asked for, and no GPU is seen on this machine")]
    NoGpus(&'static str),
    #[error("--nnodes `{0}`: expected a number of nodes")]
    Nodes(String),
    #[error("--nnodes {0}: this machine is one node")]
    OneNode(String),
    #[error(
        "--master-addr {0} is not this machine, and nothing says how the other nodes are reached"
    )]
    OtherMaster(String),
    #[error("{flag} with --master: {why}")]
    WithMaster { flag: &'static str, why: &'static str },
    #[error("{flag} with --master: it chooses from a hostfile, and none is given")]
    NoHostfile { flag: &'static str },
    #[error(transparent)]
    Hosts(#[from] hosts::Error),
    #[error(transparent)]
    Override(#[from] jobfile::InvalidOverride),
    #[error("find the current folder")]
    CurrentFolder(#[source] std::io::Error),
    #[error("the job that this makes is wrong: {0}")]
    Job(Mistakes),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let several = "on several nodes: --hostfile FILE names them, and ssh starts workers there; or, \
                       where workers are up, --master HOST: docs/launch.md";
        let (code, hint) = match &error {
            Error::NotSupported { instead, .. } => (ExitCode::Usage, Some((*instead).to_owned())),
            Error::UnknownFlag(_) => {
                (ExitCode::Usage, Some("rsctl launch --help lists the flags".to_owned()))
            }
            Error::OneNode(_) | Error::OtherMaster(_) => {
                (ExitCode::Usage, Some(several.to_owned()))
            }
            Error::Nodes(_) | Error::WithMaster { .. } | Error::Override(_) => {
                (ExitCode::Usage, None)
            }
            Error::NoHostfile { .. } => {
                let hint = "name the hosts and their slots with --hostfile FILE; `rsctl workers` lists \
                            those of the coordinator";
                (ExitCode::Usage, Some(hint.to_owned()))
            }
            Error::NoGpus(_) => {
                let hint = "give a number: --nproc 2; ranks on CPUs use Gloo".to_owned();
                (ExitCode::BadConfiguration, Some(hint))
            }
            Error::Hosts(error) => (error.exit_code(), error.hint().map(str::to_owned)),
            Error::CurrentFolder(_) => (ExitCode::Failed, None),
            Error::Job(_) => (ExitCode::BadConfiguration, None),
        };
        Self { code, hint, error: error.into() }
    }
}

/// Runs the script to its end; gives the code that it ends with.
pub(crate) async fn execute(args: Args) -> Result<ProcessExit, Failure> {
    let mut interrupts = Interrupts::new()?;
    let surroundings = Surroundings::here().map_err(Error::CurrentFolder)?;
    let chosen = meaning::hosts(&args, &surroundings)?;
    let meaning = Meaning::of(&args, chosen.as_ref(), &surroundings)?;
    if !args.quiet {
        meaning.notes.iter().for_each(render::warning);
    }
    let mut spec = load(&args, &meaning, chosen.as_ref(), &surroundings.folder)?;
    let lines = output::Printer::new(args.prefix || args.compatible.wants_prefix(), &args.ranks);
    let talk = if args.quiet { follow::Talk::Little } else { follow::Talk::Usual };
    let status = match &args.master {
        Some(master) => {
            let request = request(&spec, meaning.job_toml);
            follow::on_cluster(master, request, lines, talk, &mut interrupts).await?
        }
        None => {
            let site = site(&args, &mut spec, chosen.as_ref(), &surroundings)?;
            let private = follow::Private { site, spec, job_toml: meaning.job_toml };
            let is_kept = args.log_dir.is_some();
            follow::on_private(private, is_kept, lines, talk, &mut interrupts).await?
        }
    };
    Ok(conclude(&status, args.quiet))
}

/// Where the private cluster is to be.
fn site(
    args: &Args,
    spec: &mut JobSpec,
    chosen: Option<&Chosen>,
    around: &Surroundings,
) -> Result<Site, Failure> {
    let asked = Asked { workers: 1, slots: None, origin: "--nproc" };
    match here::site(&mut spec.resources, asked, &around.machine)? {
        here::Site::Here(asked) => {
            let plan = plan::plan(&spec.resources, asked, cores())?;
            Ok(Site::Here(plan, Runs::Commands))
        }
        here::Site::OnHosts => {
            let variables = variables::of_hosts(args, around)?;
            if !args.quiet {
                variables.told().iter().for_each(render::talk);
            }
            let order = site::order(spec, chosen, &args.ssh, variables, &around.machine)?;
            let scratch = format!("/tmp/rustspeed-launch-{}", uuid::Uuid::new_v4().simple());
            Ok(Site::OnHosts(Box::new(Order {
                scratch: Some(scratch.into()),
                shows_slots: meaning::like(args) == Like::Deepspeed,
                ..order
            })))
        }
    }
}

fn load(
    args: &Args,
    meaning: &Meaning,
    chosen: Option<&Chosen>,
    folder: &PathBuf,
) -> Result<JobSpec, Error> {
    let mut overrides = Vec::new();
    if let Some(chosen) = chosen {
        overrides.push(Override::hosts(&chosen.hosts()?, &chosen.flags));
    }
    for text in &args.env {
        overrides.push(Override::env(text)?);
    }
    let input = jobfile::Input {
        name: "rsctl launch",
        text: &meaning.job_toml,
        base_dir: folder,
        caller_dir: folder,
        overrides: &overrides,
        strict: false,
        read: &job::read_regular,
        variable: &|_| None,
    };
    Ok(jobfile::load(&input).map_err(Error::Job)?.spec)
}

fn request(spec: &JobSpec, job_toml: String) -> v1::SubmitRequest {
    v1::SubmitRequest {
        spec_json: convert::spec_json(spec),
        job_toml,
        request_id: uuid::Uuid::new_v4().to_string(),
        command_secret: job::command_secret(spec),
        ..Default::default()
    }
}

/// Tells how it ended, and gives the code of the rank that failed first.
fn conclude(status: &JobStatus, is_quiet: bool) -> ProcessExit {
    if status.row.state != JobState::Failed {
        return crate::follow::exit_code(status).into();
    }
    let last_lines = render::status::last_lines(status);
    if !is_quiet && !last_lines.is_empty() {
        render::talk(last_lines);
    }
    let failure = Failure::new(ExitCode::Failed, anyhow!("{}", status.row.reason));
    render::talk(failure.render());
    match guilty_code(status) {
        Some(code) => code.into(),
        None => crate::follow::exit_code(status).into(),
    }
}

/// As shells tell it: the exit code, or 128 and the signal's number.
fn guilty_code(status: &JobStatus) -> Option<u8> {
    let guilty = status.failure.as_ref()?.rank?;
    let rank = status.ranks.iter().find(|rank| rank.rank == guilty)?;
    let code = match rank.end.as_ref()? {
        TrainerEnd::Exited { code } => *code,
        TrainerEnd::Killed { signal, .. } => 128 + signal,
        _ => return None,
    };
    u8::try_from(code).ok()
}

#[cfg(test)]
mod tests;
