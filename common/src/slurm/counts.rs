//! SLURM's counts per node, as in `SLURM_JOB_CPUS_PER_NODE`: `4(x2),2` is 4, 4, 2.

use crate::slurm::nodelist::MAX_NODES;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("`{item}` is neither a count nor a count with its repetitions, such as 4(x2)")]
    Item { item: String },
    #[error("it counts for more than {MAX_NODES} nodes")]
    TooMany,
}

/// One count for each node, in the order of the list of nodes.
pub fn expand(text: &str) -> Result<Vec<u32>, Error> {
    let mut counts = Vec::new();
    for item in text.split(',') {
        let (count, times) = read(item).ok_or_else(|| Error::Item { item: item.to_owned() })?;
        if times > MAX_NODES - counts.len() {
            return Err(Error::TooMany);
        }
        counts.extend(std::iter::repeat_n(count, times));
    }
    Ok(counts)
}

/// `4` or `4(x2)`.
fn read(item: &str) -> Option<(u32, usize)> {
    match item.split_once("(x") {
        None => Some((digits(item)?, 1)),
        Some((count, times)) => {
            let times = digits(times.strip_suffix(')')?)?;
            (times > 0).then_some((digits(count)?, usize::try_from(times).ok()?))
        }
    }
}

/// A number without a sign.
fn digits(text: &str) -> Option<u32> {
    text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
