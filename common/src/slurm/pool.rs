//! A pool of SLURM's nodes: while jobs wait, the coordinator asks for nodes for it; idle ones go back.
//! (HyperQueue's automatic allocation calls it an allocation queue.)

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::slurm::allocation::AllocationName;
use crate::slurm::request::{Invalid, MAX_NODES, Request};
use crate::status::UnixMillis;
use crate::units;

const MAX_NAME: usize = 32;
/// Allocations that wait in SLURM's queue at once.
pub const MAX_BACKLOG: u32 = 64;
/// Pools of one coordinator.
pub const MAX_POOLS: usize = 64;
const IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pool `{text}` must be 1 to {MAX_NAME} of a-z, 0-9 and `-`, and begin with a letter")]
pub struct InvalidPoolName {
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolName(String);

impl FromStr for PoolName {
    type Err = InvalidPoolName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
        match begins && text.len() <= MAX_NAME && text.chars().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidPoolName { text: text.chars().take(80).collect() }),
        }
    }
}

impl TryFrom<String> for PoolName {
    type Error = InvalidPoolName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PoolName> for String {
    fn from(name: PoolName) -> Self {
        name.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a pool asks for, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pool {
    /// Of each allocation. It has `nodes` nodes, or as many more as the job needs for which it is
    /// asked: SLURM gives a gang its nodes together.
    pub request: Request,
    /// Nodes at once, one worker on each.
    pub max_workers: u32,
    /// Allocations that wait in SLURM's queue at once.
    pub backlog: u32,
    /// Nodes on which nothing ran for so long go back.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Absolute, on a file system that the nodes share: logs and the workers' state are in `.slurm`
    /// below it.
    pub folder: PathBuf,
}

impl Pool {
    /// Checks what the types cannot, of a pool from anywhere.
    pub fn check(&self) -> Result<(), Invalid> {
        self.request.check()?;
        let wrong = |key, value: String, why: String| Err(Invalid { key, value, why });
        let (least, most) = (self.request.nodes, self.max_workers);
        if most < least || most > MAX_NODES {
            let why = format!("expected {least} (nodes of one allocation) to {MAX_NODES}");
            return wrong("max-workers", most.to_string(), why);
        }
        if self.backlog == 0 || self.backlog > MAX_BACKLOG {
            let why = format!("expected 1 to {MAX_BACKLOG}");
            return wrong("backlog", self.backlog.to_string(), why);
        }
        if self.idle_timeout < IDLE.0 || self.idle_timeout > IDLE.1 {
            let value = format!("{} s", self.idle_timeout.as_secs_f64());
            return wrong("idle-timeout", value, "expected 1 s to 7 days".to_owned());
        }
        let folder = self.folder.to_str();
        if !folder.is_some_and(|f| self.folder.is_absolute() && !f.contains(['\n', '\r', '\0'])) {
            let value = self.folder.display().to_string();
            return wrong("folder", value, "expected an absolute path in UTF-8".to_owned());
        }
        Ok(())
    }
}

/// A pool as `rsctl slurm pool list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: PoolName,
    pub settings: Pool,
    pub state: PoolState,
    /// Why it is in this state, or why it asks for nothing; empty: there is nothing to say.
    pub reason: String,
    /// Those that have joined.
    pub workers: u32,
    /// Nodes that it has or has asked for.
    pub nodes: u32,
    pub allocations: Vec<PoolAllocation>,
    /// In a row, of which each is followed by a longer rest and the last by a pause.
    pub failures: u32,
    pub added_at: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    /// It asks when jobs wait.
    Open,
    /// After a failure, for a while.
    Resting,
    /// By an operator, or after failures in a row.
    Paused,
    /// It is gone when its nodes are.
    Closing,
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Resting => "resting",
            Self::Paused => "paused",
            Self::Closing => "closing",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAllocation {
    pub name: AllocationName,
    pub slurm_job: Option<u64>,
    pub nodes: u32,
    /// Of its nodes, those whose workers have joined.
    pub workers: u32,
    /// SLURM's word, with its reason; ours where SLURM has said none.
    pub state: String,
    /// Nothing runs there.
    pub is_idle: bool,
}

#[cfg(test)]
mod tests;
