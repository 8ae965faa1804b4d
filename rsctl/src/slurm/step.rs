//! The one `srun` that makes every node of the allocation a worker: its arguments, and whom its
//! words blame. Pure.

use std::path::Path;
use std::time::Duration;

/// What each node runs: the shell knows the node's own name and CPUs, and becomes the worker.
/// Missing variables end it with their name.
const BECOME_WORKER: &str = "\
export RUSTSPEED_NOTICE_GRACE=\"$4\"
exec \"$0\" join --master \"$1\" --trainer \"$2\" --state-dir \"$3/${SLURMD_NODENAME:?}\" \
--name \"$SLURMD_NODENAME\" --slots \"${SLURM_CPUS_ON_NODE:?}\" --exit-with-stdin";

/// Options of the job that a step would inherit from the environment, and that would give its one
/// task per node less than the whole allocation.
pub(super) const NOT_INHERITED: &[&str] = &[
    "SLURM_CPUS_PER_TASK",
    "SRUN_CPUS_PER_TASK",
    "SLURM_TRES_PER_TASK",
    "SLURM_GPUS_PER_TASK",
    "SLURM_NTASKS_PER_GPU",
    "SLURM_NTASKS_PER_SOCKET",
    "SLURM_NTASKS_PER_CORE",
    "SLURM_EXACT",
    "SLURM_STEP_GRES",
];

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
}

impl Step<'_> {
    /// The arguments of `srun`. Options of `slurm.conf` that would end workers early are said
    /// anew: `WaitTime` (--wait), `KillOnBadExit`.
    pub(super) fn arguments(&self) -> Vec<String> {
        let nodes = self.nodes;
        let kill_on_bad_exit = u8::from(!self.is_elastic);
        let mut arguments: Vec<String> = [
            // Beside another step: `srun --pty bash`, or the one that `salloc` itself started.
            "--overlap".to_owned(),
            format!("--nodes={nodes}"),
            format!("--ntasks={nodes}"),
            "--ntasks-per-node=1".to_owned(),
            "--cpu-bind=none".to_owned(),
            "--mpi=none".to_owned(),
            "--export=ALL".to_owned(),
            "--input=all".to_owned(),
            "--label".to_owned(),
            "--wait=0".to_owned(),
            format!("--kill-on-bad-exit={kill_on_bad_exit}"),
            "--job-name=rustspeed".to_owned(),
        ]
        .into();
        arguments.extend(["sh", "-c", BECOME_WORKER].map(str::to_owned));
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
