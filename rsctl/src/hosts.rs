//! From `--hostfile` and its filters to the hosts that are meant. Asks no host and no coordinator.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use common::exit::ExitCode;
use common::hostfile::{Filter, Hostfile, InvalidFilter, Mistakes, NotThere, Selection};
use common::spec::{Hosts, InvalidHosts};
use service::exit::Failure;

use crate::job;

pub(crate) mod compare;

/// Ignored parts of lines that are told one by one.
const MAX_IGNORED: usize = 5;

/// Where a job may run, in DeepSpeed's words.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct HostArgs {
    /// Use the hosts and slots of this DeepSpeed hostfile only: a line is HOST slots=N
    #[arg(long, value_name = "FILE")]
    pub(crate) hostfile: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Which part of a hostfile.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct FilterArgs {
    /// Of the hostfile use these: HOST or HOST:SLOT,SLOT, joined by @
    #[arg(long, value_name = "HOSTS", requires = "hostfile")]
    pub(crate) include: Option<String>,
    /// Of the hostfile use all but these
    #[arg(long, value_name = "HOSTS", requires = "hostfile")]
    pub(crate) exclude: Option<String>,
    /// Of the hostfile use the first N hosts
    #[arg(long, value_name = "N", alias = "num_nodes", requires = "hostfile")]
    pub(crate) num_nodes: Option<NonZeroU32>,
    /// Of each host use the first N slots; without a hostfile as --gpus
    #[arg(long, value_name = "N", alias = "num_gpus")]
    pub(crate) num_gpus: Option<NonZeroU32>,
}

/// Why there are no such hosts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read hostfile")]
    Read(#[source] std::io::Error),
    #[error("{} has {}:{}", .0.file(), count(.0), list(.0))]
    Mistakes(Mistakes),
    #[error(transparent)]
    Filter(#[from] InvalidFilter),
    #[error(transparent)]
    NotThere(#[from] NotThere),
    #[error("{file} {problem}")]
    Hosts { file: String, problem: InvalidHosts },
}

fn count(mistakes: &Mistakes) -> String {
    match mistakes.problems().len() {
        1 => "a mistake".to_owned(),
        several => format!("{several} mistakes"),
    }
}

fn list(mistakes: &Mistakes) -> String {
    mistakes.to_string().lines().map(|line| format!("\n  {line}")).collect()
}

impl Error {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Filter(_) => ExitCode::Usage,
            Self::Read(_) | Self::Mistakes(_) | Self::NotThere(_) | Self::Hosts { .. } => {
                ExitCode::BadConfiguration
            }
        }
    }

    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read(_) => Some(
                "nothing runs without it, unlike under DeepSpeed, which would go on with this \
                 machine alone: leave --hostfile out for that",
            ),
            Self::Mistakes(_) => Some("configs/hostfile.example is one to start from"),
            Self::NotThere(_) | Self::Hosts { .. } => {
                Some("`rsctl hostfile check FILE` lists its hosts and slots")
            }
            Self::Filter(_) => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { code: error.exit_code(), hint, error: error.into() }
    }
}

impl FilterArgs {
    pub(crate) fn filter(&self) -> Result<Filter, InvalidFilter> {
        let text = |flag: &Option<String>| flag.clone().unwrap_or_default();
        let (include, exclude) = (text(&self.include), text(&self.exclude));
        Filter::from_flags(&include, &exclude, self.num_nodes, self.num_gpus)
    }

    /// As typed, behind the hostfile's own flag.
    pub(crate) fn flags(&self) -> String {
        let number = |number: Option<NonZeroU32>| number.map(|number| number.to_string());
        let flags = [
            ("--include", self.include.clone()),
            ("--exclude", self.exclude.clone()),
            ("--num-nodes", number(self.num_nodes)),
            ("--num-gpus", number(self.num_gpus)),
        ];
        let given = flags.into_iter().filter_map(|(flag, value)| Some((flag, value?)));
        given.map(|(flag, value)| format!(" {flag} {value}")).collect()
    }
}

/// A hostfile and the part of it that is meant.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) hostfile: Hostfile,
    pub(crate) selection: Selection,
    /// What the command line says: `--hostfile hosts.txt --num-nodes 2`.
    pub(crate) flags: String,
}

impl HostArgs {
    /// None: no hostfile is given.
    pub(crate) fn choose(&self) -> Result<Option<Chosen>, Error> {
        self.hostfile.as_deref().map(|path| choose(path, &self.filter)).transpose()
    }
}

pub(crate) fn choose(path: &Path, filter: &FilterArgs) -> Result<Chosen, Error> {
    let part = filter.filter()?;
    let text = job::read_regular(path).map_err(Error::Read)?;
    let file = path.display().to_string();
    let flags = format!("--hostfile {file}{}", filter.flags());
    let hostfile = Hostfile::parse(&file, &text).map_err(Error::Mistakes)?;
    let selection = hostfile.select(&part)?;
    Ok(Chosen { hostfile, selection, flags })
}

impl Chosen {
    /// As a job names them.
    pub(crate) fn hosts(&self) -> Result<Hosts, Error> {
        let file = self.hostfile.file().to_owned();
        self.selection.to_hosts().map_err(|problem| Error::Hosts { file, problem })
    }

    /// What is ignored and may have been meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let file = self.hostfile.file();
        let ignored = self.hostfile.ignored();
        let told = ignored.iter().take(MAX_IGNORED);
        let mut warnings: Vec<String> = told
            .map(|ignored| format!("{file}:{}: ignored: `{}`", ignored.line, ignored.text))
            .collect();
        if let Some(more) = ignored.len().checked_sub(MAX_IGNORED).filter(|more| *more > 0) {
            warnings.push(format!("{file}: the ends of {more} more lines are ignored"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
