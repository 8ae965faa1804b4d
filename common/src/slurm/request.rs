//! What a job asks SLURM for: an allocation of its own.

use serde::{Deserialize, Serialize};

use crate::spec::Resources;

/// Nodes of one allocation; SLURM itself has no larger cluster.
pub const MAX_NODES: u32 = 4096;
/// CPUs of one node.
pub const MAX_CPUS: u32 = 4096;
/// Flags that a job adds.
pub const MAX_EXTRA: usize = 32;
const MAX_TEXT: usize = 256;

/// One worker runs on each node and offers the CPUs of its task there as slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Request {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// In SLURM's own forms: `30`, `2:00:00`, `1-12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gres: Option<String>,
    pub nodes: u32,
    /// Of each node.
    pub cpus_per_task: u32,
    /// Further flags of `sbatch`: `--constraint=a100`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<String>,
}

/// A value that cannot stand in a batch script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slurm.{key} = `{value}`: {why}")]
pub struct Invalid {
    pub key: &'static str,
    pub value: String,
    pub why: String,
}

/// Flags that carry what the coordinator relies on, or for which there is a key.
const OURS: &[(&str, &str)] = &[
    ("--job-name", "it is how the coordinator finds its allocation"),
    ("--comment", "the coordinator sets it"),
    ("--output", "the log is in <output-dir>/.slurm"),
    ("--error", "the log is in <output-dir>/.slurm"),
    ("--parsable", "the coordinator sets it"),
    ("--wrap", "the script is the coordinator's"),
    ("--array", "a job has one allocation"),
    ("--test-only", "then nothing would run; --dry-run prints the script"),
    ("--wait", "the coordinator does not wait for it"),
    ("--requeue", "the coordinator asks for a new allocation instead"),
    ("--no-requeue", "the coordinator sets it"),
    ("--ntasks", "one worker runs on each node"),
    ("--ntasks-per-node", "one worker runs on each node"),
    ("--clusters", "the coordinator looks for its allocation on its own cluster"),
    ("--uid", "the coordinator looks for its user's allocations"),
    ("--gid", "the coordinator submits as its own user"),
    ("--help", "then nothing would run"),
    ("--usage", "then nothing would run"),
    ("--version", "then nothing would run"),
    ("--hold", "then nothing would run"),
    ("--bbf", "it names a file of the coordinator's user"),
    ("--export", "the coordinator sets what its workers need"),
    ("--export-file", "it names a file of the coordinator's user"),
    ("--nodefile", "it names a file of the coordinator's user; --nodelist names nodes"),
    ("--get-user-env", "the coordinator sets what its workers need"),
    ("--input", "the script is the coordinator's"),
    ("--partition", "use slurm.partition"),
    ("--account", "use slurm.account"),
    ("--time", "use slurm.time"),
    ("--gres", "use slurm.gres"),
    ("--nodes", "use slurm.nodes"),
    ("--cpus-per-task", "use slurm.cpus-per-task"),
];

/// Why a value cannot be one of an `#SBATCH` line. SLURM cuts such lines at blanks and reads quotes,
/// backslashes and `#` in them: none of that is needed, so none is let through.
pub fn text_problem(value: &str) -> Option<String> {
    let is_wrong = |c: char| !c.is_ascii_graphic() || matches!(c, '"' | '\'' | '\\' | '#');
    if value.is_empty() || value.len() > MAX_TEXT {
        return Some(format!("expected 1 to {MAX_TEXT} characters"));
    }
    let found = value.chars().find(|c| is_wrong(*c))?;
    Some(format!("{found:?} cannot be in it: blanks, quotes, `\\` and `#` mean something to SLURM"))
}

/// Why a value cannot be one of the named options.
pub fn option_problem(value: &str) -> Option<String> {
    let is_flag = value.starts_with('-');
    text_problem(value).or_else(|| is_flag.then(|| "expected a value, not a flag".to_owned()))
}

/// Why a text cannot be a further flag.
pub fn extra_problem(flag: &str) -> Option<String> {
    if let Some(problem) = text_problem(flag) {
        return Some(problem);
    }
    let name = flag.split('=').next().unwrap_or_default();
    if name.len() < 3 || !name.starts_with("--") {
        return Some("expected a long flag in one word, such as `--constraint=a100`".to_owned());
    }
    if flag.starts_with("--signal=B:") {
        return Some("the workers must hear it, not the script: leave out `B:`".to_owned());
    }
    // SLURM takes every beginning of a flag that is unique: a beginning of one of ours is it.
    let same = OURS.iter().find(|(ours, _)| ours.starts_with(name));
    same.map(|(ours, why)| format!("{ours} is not yours to set here: {why}"))
}

impl Request {
    /// What a job asks for that says nothing: one node with room for its ranks.
    pub fn of(resources: &Resources) -> Self {
        let cpus_per_task = cpus_for(resources, 1);
        Self {
            partition: None,
            account: None,
            time: None,
            gres: None,
            nodes: 1,
            cpus_per_task,
            extra: Vec::new(),
        }
    }

    /// Ranks for which it has room.
    pub fn room(&self, resources: &Resources) -> u32 {
        let nodes = resources.workers.map_or(self.nodes, |most| most.min(self.nodes));
        nodes.saturating_mul(self.cpus_per_task / resources.threads_per_rank.max(1))
    }

    /// Checks what the types cannot, of a request from anywhere.
    pub fn check(&self) -> Result<(), Invalid> {
        let wrong = |key, value: &str, why| Invalid { key, value: value.to_owned(), why };
        let texts = [
            ("partition", &self.partition),
            ("account", &self.account),
            ("time", &self.time),
            ("gres", &self.gres),
        ];
        for (key, value) in texts {
            let value = value.as_deref();
            if let Some((value, why)) =
                value.and_then(|value| Some((value, option_problem(value)?)))
            {
                return Err(wrong(key, value, why));
            }
        }
        if let Some((flag, why)) =
            self.extra.iter().find_map(|flag| Some((flag, extra_problem(flag)?)))
        {
            return Err(wrong("extra", flag, why));
        }
        let numbers =
            [("nodes", self.nodes, MAX_NODES), ("cpus-per-task", self.cpus_per_task, MAX_CPUS)];
        for (key, value, most) in numbers {
            if value == 0 || value > most {
                return Err(wrong(key, &value.to_string(), format!("expected 1 to {most}")));
            }
        }
        if self.extra.len() > MAX_EXTRA {
            let count = self.extra.len().to_string();
            return Err(wrong("extra", &count, format!("expected at most {MAX_EXTRA} flags")));
        }
        Ok(())
    }
}

/// CPUs of each of so many nodes that give all ranks of the job room.
pub fn cpus_for(resources: &Resources, nodes: u32) -> u32 {
    let world = resources.largest_world().unwrap_or_else(|| resources.smallest_world());
    world.div_ceil(nodes.max(1)).saturating_mul(resources.threads_per_rank.max(1)).min(MAX_CPUS)
}

#[cfg(test)]
mod tests;
