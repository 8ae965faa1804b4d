//! What SLURM says of the allocation that this process is in. Pure: the environment is passed in.

use common::exit::ExitCode;
use common::slurm::{counts, nodelist};
use service::exit::Failure;

const JOB_ID: &str = "SLURM_JOB_ID";
const NODELIST: &str = "SLURM_JOB_NODELIST";
const NUM_NODES: &str = "SLURM_JOB_NUM_NODES";
const CPUS_PER_NODE: &str = "SLURM_JOB_CPUS_PER_NODE";
const RESTARTS: &str = "SLURM_RESTART_COUNT";
const GPUS: &str = "SLURM_GPUS_ON_NODE";
const CLUSTER: &str = "SLURM_CLUSTER_NAME";
/// Set where an allocation has components with resources of their own.
const COMPONENTS: &str = "SLURM_HET_SIZE";
/// Set on the nodes, and not where `salloc` left the shell on the machine that it was typed on.
const THIS_NODE: &str = "SLURMD_NODENAME";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Those that SLURM gave us there.
    pub(crate) cpus: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) job: u32,
    /// Job ids are unique in a cluster only.
    pub(crate) cluster: Option<String>,
    pub(crate) nodes: Vec<Node>,
    /// How often SLURM has queued the job again.
    pub(crate) restarts: u32,
    /// Given to us on this node.
    pub(crate) gpus: u32,
    /// This process's node, if it is on one.
    pub(crate) this_node: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("not inside a SLURM allocation: {JOB_ID} is not set")]
    NotInside,
    #[error("{variable} is not set in this allocation")]
    Missing { variable: &'static str },
    #[error("{variable} is `{value}`, not a number")]
    Number { variable: &'static str, value: String },
    #[error("{NODELIST} is `{value}`")]
    Nodes {
        value: String,
        #[source]
        source: nodelist::Error,
    },
    #[error("{CPUS_PER_NODE} is `{value}`")]
    Cpus {
        value: String,
        #[source]
        source: counts::Error,
    },
    #[error("{variable} speaks of {said} nodes, {NODELIST} of {listed}")]
    Contradiction { variable: &'static str, said: usize, listed: usize },
    #[error("the allocation is heterogeneous ({COMPONENTS} is set)")]
    Heterogeneous,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::NotInside => (
                ExitCode::Usage,
                Some(
                    "get one: `sbatch deploy/slurm/rustspeed.sbatch job.toml`, or `salloc \
                     --nodes=2 rsctl slurm run job.toml`; `rsctl run job.toml` needs no SLURM",
                ),
            ),
            Error::Heterogeneous => {
                (ExitCode::BadConfiguration, Some("ask for all nodes in one component"))
            }
            _ => (
                ExitCode::BadConfiguration,
                Some(
                    "a step that was started with --export=NONE, or by hand, lacks SLURM's own variables",
                ),
            ),
        };
        Self { code, hint: hint.map(str::to_owned), error: error.into() }
    }
}

impl Allocation {
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let get = |name: &'static str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .ok_or(Error::Missing { variable: name })
        };
        let job = number(JOB_ID, get(JOB_ID).map_err(|_| Error::NotInside)?)?;
        if variable(COMPONENTS).is_some() {
            return Err(Error::Heterogeneous);
        }
        let optional = |name: &'static str| get(name).map_or(Ok(0), |value| number(name, value));
        let names = get(NODELIST)?;
        let names = nodelist::expand(&names)
            .map_err(|source| Error::Nodes { value: shortened(&names), source })?;
        let cpus = get(CPUS_PER_NODE)?;
        let cpus = counts::expand(&cpus)
            .map_err(|source| Error::Cpus { value: shortened(&cpus), source })?;
        let said = number(NUM_NODES, get(NUM_NODES)?)? as usize;
        for (variable, said) in [(NUM_NODES, said), (CPUS_PER_NODE, cpus.len())] {
            if said != names.len() {
                return Err(Error::Contradiction { variable, said, listed: names.len() });
            }
        }
        let nodes = names.into_iter().zip(cpus).map(|(name, cpus)| Node { name, cpus });
        Ok(Self {
            job,
            cluster: get(CLUSTER).ok(),
            nodes: nodes.collect(),
            restarts: optional(RESTARTS)?,
            gpus: optional(GPUS)?,
            this_node: get(THIS_NODE).ok(),
        })
    }
}

fn number(variable: &'static str, value: String) -> Result<u32, Error> {
    value.parse().map_err(|_| Error::Number { variable, value: shortened(&value) })
}

/// Errors repeat a value; a long list says no more than its beginning.
fn shortened(value: &str) -> String {
    const SHOWN: usize = 80;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests;
