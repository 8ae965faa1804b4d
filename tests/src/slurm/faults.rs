//! What befalls the nodes and the controller of a test's cluster.

use std::time::Duration;

use crate::process::Running;
use crate::slurm::Slurm;
use crate::wait::wait_for;

/// The controller looks after its nodes in rounds; a dead one is seen in the second.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);

/// A node whose job was ended has `KillWait` and its epilogue before it is idle.
const IDLE_WITHIN: Duration = Duration::from_secs(30);

impl Slurm {
    /// A person says that the node has failed. SLURM ends what runs there.
    pub fn set_down(&self, node: &str) {
        let line = "scontrol update NodeName=$node State=DOWN Reason=test";
        self.succeed(line, &[("node", node)]);
    }

    /// A person says that the node is fit again.
    pub fn resume(&self, node: &str) {
        self.succeed("scontrol update NodeName=$node State=RESUME", &[("node", node)]);
    }

    /// The node's power goes: its slurmd and every process there are gone at once.
    pub fn crash(&self, node: &str) {
        self.tell("crash", node);
    }

    /// Waits until the controller has noticed. A node that is back before that keeps its job, as a
    /// ghost.
    pub fn wait_until_noticed(&self, node: &str) {
        wait_for(&format!("the controller misses {node}"), NOTICED_WITHIN, || {
            self.nodes().contains(&format!("{node} down*")).then_some(())
        });
    }

    /// The node's power is back.
    pub fn power_on(&self, node: &str) {
        self.tell("start", node);
    }

    /// It saves its state and ends; jobs go on.
    pub fn stop_controller(&self) {
        self.tell("stop", "ctld");
    }

    pub fn start_controller(&self) {
        self.tell("start", "ctld");
    }

    /// Names and states of all nodes.
    pub fn nodes(&self) -> Vec<String> {
        let said = self.succeed("sinfo --noheader --Node --format='%N %T'", &[]);
        said.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// Waits until every node is there for the next job.
    pub fn wait_until_idle(&self) {
        wait_for("idle nodes", IDLE_WITHIN, || {
            self.nodes().iter().all(|node| node.ends_with(" idle")).then_some(())
        });
    }

    fn tell(&self, verb: &str, whom: &str) {
        let log = self.path(&format!("{verb}-{whom}.log"));
        let mut running = Running::start(self.tool(verb).arg(whom), &log);
        let status = running.wait(Duration::from_secs(30));
        assert!(status.success(), "{verb} {whom}: {}", running.output());
    }
}
