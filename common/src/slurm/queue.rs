//! What `squeue` and `sbatch` print. Text in a format that we give is the same in every version of
//! SLURM, which their JSON is not: 22.05 ignores the filters there and knows fewer keys. What cannot
//! be read is skipped.

/// For `squeue --format`. A name may hold anything, so it is the last.
pub const FORMAT: &str = "%i|%T|%N|%r|%j";

/// A job as `squeue` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: u64,
    /// `PENDING`, `RUNNING`, ...
    pub state: String,
    /// SLURM's list of them; empty: none yet.
    pub nodes: String,
    /// `Priority`, `Resources`, ...; empty where SLURM gives none.
    pub reason: String,
    pub name: String,
}

/// Final states. A state that a newer SLURM adds is taken for a living one.
const OVER: &[&str] = &[
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
];

impl Row {
    pub fn is_over(&self) -> bool {
        OVER.contains(&self.state.as_str())
    }
}

/// The rows of `squeue --noheader --format=FORMAT`. Array tasks (`17_2`) are nobody's allocation.
pub fn rows(text: &str) -> Vec<Row> {
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let mut fields = line.splitn(5, '|');
    let mut field = || fields.next().map(|field| field.trim().to_owned());
    let id = field()?.parse().ok()?;
    // `CANCELLED by 1000`, as sacct writes it.
    let state = field()?.split_whitespace().next()?.to_ascii_uppercase();
    let (nodes, reason, name) = (field()?, field()?, field()?);
    let reason = if reason == "None" { String::new() } else { reason };
    Some(Row { id, state, nodes, reason, name })
}

/// The number that `sbatch --parsable` tells: `17`, or `17;cluster`. Sites print greetings before it.
pub fn submitted(text: &str) -> Option<u64> {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let number = last.split(';').next()?;
    number.strip_prefix("Submitted batch job ").unwrap_or(number).trim().parse().ok()
}

#[cfg(test)]
mod tests;
