//! Whether a job fits an allocation, before anything is started. Pure.

use common::exit::ExitCode;
use common::spec::Resources;
use service::exit::Failure;

use crate::slurm::allocation::{Allocation, Node};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the job wants {world} rank{} of {threads} CPU{}, and the allocation's {nodes} node{} with \
     {cpus} CPU{} can take {room}{}",
    plural(*.world), plural(*.threads), plural(*.nodes), plural(*.cpus), bounded(*.bound)
)]
pub(crate) struct TooSmall {
    world: u32,
    threads: u32,
    nodes: u32,
    cpus: u32,
    room: u32,
    /// `resources.workers`, where it is smaller than the number of nodes.
    bound: Option<u32>,
}

impl From<TooSmall> for Failure {
    fn from(error: TooSmall) -> Self {
        let ask = "ask SLURM for more (--nodes, --cpus-per-task)";
        let hint = match error.room {
            0 => format!("{ask}, or lower resources.threads-per-rank"),
            room => format!("{ask}, or train on less: --set resources.world-size={room}"),
        };
        Self::new(ExitCode::BadConfiguration, error).hint(hint)
    }
}

/// The ranks that the job will have and where, for a person.
pub(crate) fn check(resources: &Resources, allocation: &Allocation) -> Result<String, TooSmall> {
    let nodes = u32::try_from(allocation.nodes.len()).unwrap_or(u32::MAX);
    let threads = resources.threads_per_rank.max(1);
    let bound = resources.workers.filter(|most| *most < nodes);
    let room = room(&allocation.nodes, threads, bound.unwrap_or(nodes));
    let cpus = allocation.nodes.iter().fold(0_u32, |sum, node| sum.saturating_add(node.cpus));
    let world = resources.smallest_world();
    if room < world {
        return Err(TooSmall { world, threads, nodes, cpus, room, bound });
    }
    let ranks = resources.largest_world().map_or(room, |most| most.min(room));
    let gpus = match allocation.gpus {
        0 => String::new(),
        gpus => format!("; its GPUs ({gpus} on this node) stay idle: jobs compute on CPUs"),
    };
    let (s, r, c) = (plural(nodes), plural(ranks), plural(cpus));
    Ok(format!("{ranks} rank{r} on {nodes} node{s} with {cpus} CPU{c}{gpus}"))
}

/// Ranks that fit on at most `most` of the nodes: a rank is on one node.
fn room(nodes: &[Node], threads: u32, most: u32) -> u32 {
    let mut ranks: Vec<u32> = nodes.iter().map(|node| node.cpus / threads).collect();
    ranks.sort_unstable_by(|a, b| b.cmp(a));
    ranks.iter().take(most as usize).fold(0, |sum, ranks| sum.saturating_add(*ranks))
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn bounded(bound: Option<u32>) -> String {
    bound.map_or(String::new(), |most| format!(" (resources.workers = {most})"))
}

#[cfg(test)]
mod tests;
