//! The batch script of an allocation: its `#SBATCH` lines, and one `srun` that makes each node a
//! worker of the coordinator that asked for it. Nothing secret is in it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::slurm::allocation::AllocationName;
use crate::slurm::request::Request;
use crate::slurm::step;

/// Trainers save in this time when the allocation's time is nearly over ...
const NOTICE_GRACE: &str = "45s";
/// ... which SLURM tells the workers so long before.
const NOTICE: &str = "--signal=USR1@60";

/// What each node runs: the shell knows the node's own name and CPUs, and becomes the worker. Missing
/// variables end it with their name. Two allocations may share a node, so the name holds SLURM's number.
const BECOME_WORKER: &str = "exec \"$0\" join --master \"$1\" --trainer \"$2\" \
--state-dir \"$3/${SLURMD_NODENAME:?}\" --name \"$SLURMD_NODENAME-${SLURM_JOB_ID:?}\" \
--slots \"${SLURM_CPUS_ON_NODE:?}\" --allocation \"$4\" --leave-after \"$5\"";
/// Behind it, where the jobs of this coordinator may have programs of their own.
const ALLOW_COMMANDS: &str = " --allow-commands";

#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    pub allocation: &'a AllocationName,
    pub request: &'a Request,
    /// Whether the job can go on when a node is lost.
    pub is_elastic: bool,
    /// Where the nodes reach the coordinator.
    pub master: &'a str,
    /// Holds our binaries, on every node.
    pub bin_dir: &'a Path,
    /// Where the job's results go: log and workers' state are in `.slurm` below it.
    pub output_dir: &'a Path,
    /// Workers end by themselves when they were without a coordinator, or idle, for so long.
    pub leave_after: Duration,
    /// Whether the coordinator was started with `--allow-commands`. Its secret is not for workers: who
    /// knows it may submit, and what is in here is everybody's who can ask SLURM for it.
    pub allows_commands: bool,
}

impl Script<'_> {
    /// The whole text. It does nothing before its last line, so that half of it does nothing.
    pub fn render(&self) -> String {
        let mut text = "#!/bin/sh\n".to_owned();
        for option in self.options() {
            // The values were checked: no blank, no quote.
            let _ = writeln!(text, "#SBATCH {option}");
        }
        let folder = quoted(&self.output_dir.join(".slurm"));
        let name = self.allocation;
        let unset = step::NOT_INHERITED.join(" ");
        let srun = self.srun();
        let _ = write!(
            text,
            "\nmain() {{
  folder={folder}
  mkdir -p -- \"$folder\" || exit
  exec >>\"$folder/{name}.log\" 2>&1 </dev/null
  unset {unset}
  export RUSTSPEED_NOTICE_GRACE={NOTICE_GRACE}
  # scancel tells this shell, too: the workers go first.
  trap : TERM
  {srun} &
  srun=$!
  wait \"$srun\"
  code=$?
  while kill -0 \"$srun\" 2>/dev/null; do
    wait \"$srun\"
    code=$?
  done
  rm -rf -- \"$folder/{name}\"
  exit \"$code\"
}}
main
"
        );
        text
    }

    /// What the `#SBATCH` lines say; for `sbatch` itself, too.
    pub fn options(&self) -> Vec<String> {
        let Request { partition, account, time, gres, nodes, cpus_per_task, extra } = self.request;
        let named =
            [("partition", partition), ("account", account), ("time", time), ("gres", gres)];
        let mut options = vec![
            format!("--job-name={}", self.allocation),
            "--comment=rustspeed".to_owned(),
            format!("--nodes={nodes}"),
            "--ntasks-per-node=1".to_owned(),
            format!("--cpus-per-task={cpus_per_task}"),
        ];
        let given = named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        options.extend(given.map(|(name, value)| format!("--{name}={value}")));
        options.extend(["--no-requeue", "--output=/dev/null"].map(str::to_owned));
        if !extra.iter().any(|flag| flag.starts_with("--signal")) {
            options.push(NOTICE.to_owned());
        }
        options.extend(extra.iter().cloned());
        options
    }

    fn srun(&self) -> String {
        let nodes = self.request.nodes;
        let kill_on_bad_exit = u8::from(!self.is_elastic);
        let state_dir = self.output_dir.join(".slurm").join(self.allocation.to_string());
        let more = if self.allows_commands { ALLOW_COMMANDS } else { "" };
        let arguments = [
            quote(&format!("{BECOME_WORKER}{more}")),
            quoted(&self.bin_dir.join("worker")),
            quote(self.master),
            quoted(&self.bin_dir.join("trainer")),
            quoted(&state_dir),
            quote(&self.allocation.to_string()),
            quote(&format!("{}ms", self.leave_after.as_millis())),
        ];
        format!(
            "srun {} --nodes={nodes} --ntasks={nodes} --kill-on-bad-exit={kill_on_bad_exit} \\\n    sh -c {}",
            step::OPTIONS.join(" "),
            arguments.join(" \\\n    ")
        )
    }
}

fn quoted(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// One word of a shell, whatever is in it.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
