//! The name of an allocation that the coordinator asks for: `co2-lstm-x7k2p9.2` is the second one of
//! that job, `pool@small.2` of that pool. It is SLURM's job name, so an allocation is found again by
//! it, and the workers in it say it when they join.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::JobId;
use crate::slurm::pool::PoolName;

/// No job id has an `@`.
const POOL: &str = "pool@";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allocation `{text}` must be JOB-ID.N or pool@POOL.N, such as co2-lstm-x7k2p9.1")]
pub struct InvalidName {
    text: String,
}

/// For whom SLURM is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Owner {
    Job(JobId),
    Pool(PoolName),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllocationName {
    owner: Owner,
    number: u32,
}

impl AllocationName {
    /// The `number`th of the job, from 1.
    pub fn of_job(job_id: JobId, number: u32) -> Self {
        Self { owner: Owner::Job(job_id), number }
    }

    /// The `number`th of the pool, from 1.
    pub fn of_pool(pool: PoolName, number: u32) -> Self {
        Self { owner: Owner::Pool(pool), number }
    }

    /// The job whose own it is; None: it is a pool's.
    pub fn job(&self) -> Option<&JobId> {
        match &self.owner {
            Owner::Job(job_id) => Some(job_id),
            Owner::Pool(_) => None,
        }
    }

    /// The pool whose it is; None: it is a job's own.
    pub fn pool(&self) -> Option<&PoolName> {
        match &self.owner {
            Owner::Job(_) => None,
            Owner::Pool(pool) => Some(pool),
        }
    }
}

impl FromStr for AllocationName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (owner, number) = text.rsplit_once('.')?;
            let owner = match owner.strip_prefix(POOL) {
                Some(pool) => Owner::Pool(pool.parse().ok()?),
                None => Owner::Job(owner.parse().ok()?),
            };
            let name = Self { owner, number: number.parse().ok()? };
            // One name has one spelling.
            (name.number > 0 && name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| InvalidName { text: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for AllocationName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AllocationName> for String {
    fn from(name: AllocationName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for AllocationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Job(job_id) => write!(f, "{job_id}.{}", self.number),
            Owner::Pool(pool) => write!(f, "{POOL}{pool}.{}", self.number),
        }
    }
}

#[cfg(test)]
mod tests;
