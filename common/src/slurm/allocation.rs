//! The name of an allocation that the coordinator asks for: `co2-lstm-x7k2p9.2` is the second one of
//! that job. It is SLURM's job name, so an allocation is found again by it, and the workers in it say
//! it when they join.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::JobId;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allocation `{text}` must be JOB-ID.N, such as co2-lstm-x7k2p9.1")]
pub struct InvalidName {
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllocationName {
    job_id: JobId,
    number: u32,
}

impl AllocationName {
    /// The `number`th of the job, from 1.
    pub fn new(job_id: JobId, number: u32) -> Self {
        Self { job_id, number }
    }

    pub fn job_id(&self) -> &JobId {
        &self.job_id
    }
}

impl FromStr for AllocationName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (job_id, number) = text.rsplit_once('.')?;
            let name = Self { job_id: job_id.parse().ok()?, number: number.parse().ok()? };
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
        write!(f, "{}.{}", self.job_id, self.number)
    }
}

#[cfg(test)]
mod tests;
