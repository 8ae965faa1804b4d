//! The one `srun` that makes every node of the allocation a worker: its arguments, and whom its
//! words blame. Pure.

use std::path::Path;
use std::time::Duration;

use common::slurm::step;

use crate::cluster::Runs;

/// What each node runs: the shell knows the node's own name and CPUs, and becomes the worker.
/// Missing variables end it with their name.
const BECOME_WORKER: &str = "\
export RUSTSPEED_NOTICE_GRACE=\"$4\"
exec \"$0\" join --master \"$1\" --trainer \"$2\" --state-dir \"$3/${SLURMD_NODENAME:?}\" \
--name \"$SLURMD_NODENAME\" --slots \"${SLURM_CPUS_ON_NODE:?}\" --exit-with-stdin";

#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) nodes: usize,
    /// Where the nodes reach the coordinator.
    pub(super) master: &'a str,
    pub(super) worker: &'a Path,
    pub(super) trainer: &'a Path,
    /// Each node makes one of its own below it.
    pub(super) state_dir: &'a Path,
    pub(super) notice_grace: Duration,
    /// Whether the job can go on when a node is lost.
    pub(super) is_elastic: bool,
    pub(super) runs: Runs,
}

impl Step<'_> {
    /// The arguments of `srun`. `KillOnBadExit` of `slurm.conf` is said anew.
    pub(super) fn arguments(&self) -> Vec<String> {
        let nodes = self.nodes;
        let kill_on_bad_exit = u8::from(!self.is_elastic);
        let mut arguments: Vec<String> = step::OPTIONS.iter().map(|o| (*o).to_owned()).collect();
        arguments.extend([
            format!("--nodes={nodes}"),
            format!("--ntasks={nodes}"),
            "--input=all".to_owned(),
            format!("--kill-on-bad-exit={kill_on_bad_exit}"),
        ]);
        let become_worker = [&[BECOME_WORKER], self.runs.flags()].concat().join(" ");
        arguments.extend(["sh", "-c", &become_worker].map(str::to_owned));
        let path = |path: &Path| path.display().to_string();
        arguments.extend([
            path(self.worker),
            self.master.to_owned(),
            path(self.trainer),
            path(self.state_dir),
            format!("{}ms", self.notice_grace.as_millis()),
        ]);
        arguments
    }
}

/// A node that ended the step, and how, as `srun: error: n2: task 1: Exited with exit code 127`
/// says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blame {
    pub(super) node: String,
    pub(super) how: String,
}

impl Blame {
    /// The first one that its words blame; who ends later was ended.
    pub(super) fn read(words: &str) -> Option<Self> {
        words.lines().find_map(|line| {
            let (node, rest) = line.strip_prefix("srun: error: ")?.split_once(": task")?;
            let (_, how) = rest.split_once(": ")?;
            Some(Self { node: node.to_owned(), how: how.to_owned() })
        })
    }

    /// What a shell says where there is no such program, or none that it may run.
    pub(super) fn is_missing_program(&self) -> bool {
        ["Exited with exit code 126", "Exited with exit code 127"].contains(&self.how.as_str())
    }
}

#[cfg(test)]
mod tests;
