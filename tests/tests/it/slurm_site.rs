//! A coordinator that stays, beside a real SLURM: what stories of `submit --slurm` share.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::binary;
use tests::ports;
use tests::process::{Running, processes_with, working_below};
use tests::rsctl::Rsctl;
use tests::slurm::Slurm;
use tests::wait::{report, wait_for};

use crate::slurm::{SERVE, command};

/// `docs/slurm.md` promises nodes back within 10 s of their job's end. What it took is told; SLURM may
/// take longer on a machine with other work.
const RELEASED_WITHIN: Duration = Duration::from_secs(30);

/// After the batch script, SLURM sees to what it has left.
const GONE_WITHIN: Duration = Duration::from_secs(30);

const FINAL: [&str; 3] = ["succeeded", "failed", "cancelled"];

/// How the coordinator's log tells that these facts of an allocation are durable.
const ASKED: &str = "coordinator::core: SLURM is asked for nodes allocation=";
const OVER: &str = "coordinator::core: allocation is over allocation=";

/// A coordinator beside a cluster of SLURM, and no worker.
pub(crate) struct Site {
    pub(crate) slurm: Slurm,
    pub(crate) master: String,
    coordinator: Running,
    /// Of the coordinator, in each of its lives.
    variables: Vec<(&'static str, &'static str)>,
}

impl Site {
    /// None, said, where no SLURM can be started.
    pub(crate) fn start(variables: &[(&'static str, &'static str)]) -> Option<Self> {
        Some(Self::beside(Slurm::start()?, variables))
    }

    pub(crate) fn beside(slurm: Slurm, variables: &[(&'static str, &'static str)]) -> Self {
        // It may be started again there.
        let (coordinator, master) = serve(&slurm, &ports::settled("127.0.0.1:0"), variables);
        Self { slurm, master, coordinator, variables: variables.to_vec() }
    }

    /// kill -9 of the coordinator.
    pub(crate) fn kill_coordinator(&mut self) {
        self.coordinator.signal(Signal::SIGKILL);
        self.coordinator.wait(Duration::from_secs(10));
    }

    /// On the same address and data.
    pub(crate) fn start_coordinator(&mut self) {
        let (coordinator, master) = serve(&self.slurm, &self.master, &self.variables);
        assert_eq!(master, self.master);
        self.coordinator = coordinator;
    }

    pub(crate) fn rsctl(&self) -> Rsctl {
        Rsctl { folder: self.slurm.work(), master: Some(self.master.clone()) }
    }

    /// Runs a line of the page; what it prints on stdout and stderr.
    pub(crate) fn line(&self, line: &str) -> String {
        self.slurm.succeed(line, &[("RUSTSPEED_MASTER", &self.master)])
    }

    /// Submits `job.toml`.
    pub(crate) fn submit(&self, flags: &[&str]) -> String {
        self.submit_file("job.toml", flags)
    }

    pub(crate) fn submit_file(&self, file: &str, flags: &[&str]) -> String {
        let arguments = [&["submit", "--json", "--slurm", file], flags].concat();
        let answer = self.rsctl().call(&arguments).expect_code(0);
        answer.json()["job_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn status(&self, job: &str) -> Value {
        self.rsctl().read(&["status", "--json", job])
    }

    pub(crate) fn wait_for(
        &self,
        what: &str,
        job: &str,
        is_there: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("{job}: {what}"), Duration::from_secs(60), || {
            let status = self.status(job);
            let found = is_there(&status);
            assert!(found || !is_over(&status), "wanted {what}: {status:#}");
            found.then_some(status)
        })
    }

    /// Waits for the job's end, whichever it is.
    pub(crate) fn wait_for_end(&self, job: &str, deadline: Duration) -> Value {
        wait_for(&format!("{job}: its end"), deadline, || {
            let status = self.status(job);
            is_over(&status).then_some(status)
        })
    }

    pub(crate) fn wait_for_reason(&self, job: &str, part: &str) -> Value {
        self.wait_for(part, job, |status| status["reason"].as_str().unwrap().contains(part))
    }

    pub(crate) fn wait_for_step(&self, job: &str, step: u64) -> Value {
        self.wait_for("steps", job, |status| status["step"].as_u64().unwrap() >= step)
    }

    /// Waits for the job's second attempt to train; it does not begin anew.
    pub(crate) fn wait_until_it_goes_on(&self, job: &str) -> Value {
        let again = self.wait_for("a second attempt that goes on", job, |status| {
            status["attempts"][1]["resumed_at_step"].is_u64()
        });
        assert_ne!(again["attempts"][1]["resumed_at_step"], 0, "{again:#}");
        again
    }

    pub(crate) fn cancel(&self, job: &str) {
        self.rsctl().call(&["cancel", job]).expect_code(0);
    }

    /// Nodes are back soon, and nothing runs on them.
    pub(crate) fn expect_release(&self) {
        let took = self.release();
        report(&format!("nodes were back after {:.1} s", took.as_secs_f64()));
    }

    /// As [`Self::expect_release`]; how long it took.
    pub(crate) fn release(&self) -> Duration {
        let began = Instant::now();
        wait_for("an empty queue", RELEASED_WITHIN, || self.slurm.queue().is_empty().then_some(()));
        let took = began.elapsed();
        wait_for("no worker and no trainer of ours", GONE_WITHIN, || {
            (self.workers().is_empty() && self.trainers().is_empty()).then_some(())
        });
        took
    }

    /// Pids of our workers on all nodes.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let (bin, work) = (binary("worker"), self.slurm.work());
        let ours = processes_with(work.to_str().unwrap()).into_iter();
        let is_worker = |pid: &u32| {
            let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).starts_with(bin.to_str().unwrap())
        };
        ours.filter(is_worker).collect()
    }

    /// Pids of our trainers on all nodes.
    pub(crate) fn trainers(&self) -> Vec<u32> {
        working_below(&self.slurm.work().join("runs"))
    }

    /// Allocations that SLURM was asked for, and those of them that are not over: by the durable
    /// facts of all lives of the coordinator, which its log tells one by one.
    pub(crate) fn allocations(&self) -> (usize, BTreeSet<String>) {
        let log = self.coordinator.output();
        let name = |line: &str, fact: &str| -> Option<String> {
            let (_, rest) = line.split_once(fact)?;
            rest.split_whitespace().next().map(str::to_owned)
        };
        let mut open = BTreeSet::new();
        let mut asked = 0;
        for line in log.lines() {
            if let Some(allocation) = name(line, ASKED) {
                asked += 1;
                assert!(open.insert(allocation), "asked for twice: {line}");
            } else if let Some(allocation) = name(line, OVER) {
                assert!(open.remove(&allocation), "over, and was never asked for: {line}");
            }
        }
        (asked, open)
    }
}

pub(crate) fn is_over(status: &Value) -> bool {
    FINAL.contains(&status["state"].as_str().unwrap())
}

/// The page's command, on a port of loopback.
fn serve(slurm: &Slurm, listen: &str, variables: &[(&str, &str)]) -> (Running, String) {
    let log = slurm.work().join("coordinator.log");
    let line = command(SERVE);
    let mut words = line.split_whitespace();
    let mut serve = Command::new(binary(words.next().unwrap()));
    serve
        .args(words)
        .current_dir(slurm.work())
        .env("SLURM_CONF", slurm.conf())
        .env("RUSTSPEED_LISTEN", listen)
        .env("RUSTSPEED_DATA_DIR", slurm.work().join("coordinator"))
        .envs(variables.iter().copied());
    let mut coordinator = Running::start(&mut serve, &log);
    let master = coordinator.listening();
    (coordinator, master)
}

/// SLURM's numbers of the allocations in which the job's ranks are, or were.
pub(crate) fn allocations_of(status: &Value) -> Vec<String> {
    let ranks = status["ranks"].as_array().unwrap();
    let of = |rank: &Value| {
        let worker = rank["worker"].as_str().unwrap();
        worker.rsplit_once('-').unwrap().1.to_owned()
    };
    let mut all: Vec<String> = ranks.iter().map(of).collect();
    all.dedup();
    all
}
