//! One fault, made.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::wait::{report, wait_for};

use super::plan::{Fault, Round};
use super::{LEASE, Scene};
use crate::slurm_site::is_over;

/// Until what is to be hit is there, or never will be.
const THERE_WITHIN: Duration = Duration::from_secs(60);

/// SLURM may be starting the job's step when the coordinator dies, and the workers save before they
/// leave; the rest is what is promised for a job's end.
const LEFT_WITHIN: Duration = LEASE.saturating_add(Duration::from_secs(15));

impl Scene {
    /// False: there was nothing to hit.
    pub(super) fn strike(&mut self, round: &Round, job: &str) -> bool {
        // What is in the job itself needs no hand.
        let is_there = round.fault == Fault::JobFails || !is_over(&self.site.status(job));
        let node = ["node1", "node2"][round.which % 2];
        let slurm = &self.site.slurm;
        match round.fault {
            Fault::CoordinatorDies => self.kill_coordinator(round.lasts),
            Fault::CoordinatorStaysAway => self.lose_coordinator(),
            Fault::CancelledInQueue => return self.scancel(job, "PENDING"),
            Fault::CancelledWhileItRuns => return self.scancel(job, "RUNNING"),
            Fault::WorkerDies => return self.kill_one_of(round.which, job, |s| s.site.workers()),
            Fault::TrainerDies => return self.kill_one_of(round.which, job, |s| s.site.trainers()),
            Fault::NodeCrashes => {
                slurm.crash(node);
                slurm.wait_until_noticed(node);
                slurm.power_on(node);
            }
            Fault::NodeIsDown => {
                slurm.set_down(node);
                thread::sleep(round.lasts);
                slurm.resume(node);
            }
            Fault::ControllerStops => {
                slurm.stop_controller();
                thread::sleep(round.lasts);
                slurm.start_controller();
            }
            Fault::JobIsCancelled => self.site.cancel(job),
            Fault::JobIsStopped => {
                self.site.rsctl().call(&["cancel", "--now", job]).expect_code(0);
            }
            Fault::JobFails => {}
        }
        is_there
    }

    fn kill_coordinator(&mut self, absence: Duration) {
        let asked = self.ask();
        self.site.kill_coordinator();
        thread::sleep(absence);
        self.site.start_coordinator();
        self.hear(asked);
    }

    /// The nodes go back without any coordinator.
    fn lose_coordinator(&mut self) {
        self.site.kill_coordinator();
        let began = Instant::now();
        // An `sbatch` that was just called comes through within this time.
        thread::sleep(Duration::from_secs(1));
        wait_for("an empty queue without a coordinator", LEFT_WITHIN, || {
            self.site.slurm.queue().is_empty().then_some(())
        });
        report(&format!("without a coordinator nodes were back after {:?}", began.elapsed()));
        wait_for("no worker and no trainer of ours", Duration::from_secs(10), || {
            let is_empty = self.site.workers().is_empty() && self.site.trainers().is_empty();
            is_empty.then_some(())
        });
        self.site.start_coordinator();
    }

    fn scancel(&self, job: &str, state: &str) -> bool {
        let name = format!("{job}.");
        let number = self.when_there(job, |scene| {
            let queue = scene.site.slurm.queue();
            let rows = queue.iter().map(|row| row.split(' ').collect::<Vec<_>>());
            let mut ours = rows.filter(|row| row[1] == state && row[2].starts_with(&name));
            ours.next().map(|row| row[0].to_owned())
        });
        let Some(number) = number else { return false };
        self.site.slurm.succeed("scancel $number", &[("number", &number)]);
        true
    }

    fn kill_one_of(&self, which: usize, job: &str, pids: impl Fn(&Self) -> Vec<u32>) -> bool {
        let pid = self.when_there(job, |scene| {
            let pids = pids(scene);
            pids.get(which % pids.len().max(1)).copied()
        });
        let Some(pid) = pid else { return false };
        // It may have ended a moment ago; its number is not given away that fast.
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok()
    }

    /// Waits for what is to be hit; None: the job is over.
    fn when_there<T>(&self, job: &str, find: impl Fn(&Self) -> Option<T>) -> Option<T> {
        wait_for(&format!("something to hit of {job}"), THERE_WITHIN, || match find(self) {
            Some(found) => Some(Some(found)),
            None => is_over(&self.site.status(job)).then_some(None),
        })
    }

    /// Submits at the very moment of a fault, and does not wait for the answer.
    fn ask(&self) -> Child {
        let arguments = ["submit", "--json", "--slurm", "job.toml", "--nodes", "2"];
        let mut command = self.site.rsctl().command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().expect("start rsctl")
    }

    /// What was acknowledged is remembered.
    fn hear(&mut self, asked: Child) {
        let output = asked.wait_with_output().expect("wait for our own rsctl");
        if output.status.success() {
            let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer is JSON");
            let id = answer["job_id"].as_str().expect("job_id is text").to_owned();
            self.acknowledged.push(id);
        }
    }
}
