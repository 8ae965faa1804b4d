//! A long-lived coordinator that asks a real SLURM for nodes: `docs/slurm.md`, "Nodes for one job".

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::binary;
use tests::process::Running;
use tests::rsctl::Rsctl;
use tests::slurm::Slurm;
use tests::wait::{report, wait_for};

use crate::slurm::{DRY_RUN, SERVE, SUBMIT, command, tiny};

/// A coordinator beside a cluster of SLURM, and no worker.
pub(crate) struct Site {
    pub(crate) slurm: Slurm,
    pub(crate) coordinator: Running,
    master: String,
}

impl Site {
    /// None, said, where no SLURM can be started.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Option<Self> {
        let slurm = Slurm::start()?;
        let (coordinator, master) = serve(&slurm, "127.0.0.1:0", variables);
        Some(Self { slurm, coordinator, master })
    }

    /// It dies and comes back.
    pub(crate) fn restart(&mut self) {
        self.coordinator.signal(Signal::SIGKILL);
        self.coordinator.wait(Duration::from_secs(10));
        let (coordinator, master) = serve(&self.slurm, &self.master, &[]);
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

    fn submit(&self, flags: &[&str]) -> String {
        let arguments = [&["submit", "--json", "--slurm", "job.toml"], flags].concat();
        let answer = self.rsctl().call(&arguments).expect_code(0);
        answer.json()["job_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn status(&self, job: &str) -> Value {
        self.rsctl().call(&["status", "--json", job]).expect_code(0).json()
    }

    pub(crate) fn wait_for(
        &self,
        what: &str,
        job: &str,
        is_there: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("{job}: {what}"), Duration::from_secs(60), || {
            let status = self.status(job);
            let is_over =
                ["succeeded", "failed", "cancelled"].contains(&status["state"].as_str().unwrap());
            let found = is_there(&status);
            assert!(found || !is_over, "wanted {what}: {status:#}");
            found.then_some(status)
        })
    }

    pub(crate) fn wait_for_reason(&self, job: &str, part: &str) -> Value {
        self.wait_for(part, job, |status| status["reason"].as_str().unwrap().contains(part))
    }

    pub(crate) fn wait_for_step(&self, job: &str, step: u64) -> Value {
        self.wait_for("steps", job, |status| status["step"].as_u64().unwrap() >= step)
    }

    /// Nodes are back within the 10 s that are promised, and nothing runs on them.
    pub(crate) fn expect_release(&self) {
        let began = Instant::now();
        wait_for("an empty queue", Duration::from_secs(10), || {
            self.slurm.queue().is_empty().then_some(())
        });
        report(&format!("nodes were back after {:.1} s", began.elapsed().as_secs_f64()));
        let bin = binary("worker");
        wait_for("no worker of ours", Duration::from_secs(10), || {
            let work = self.slurm.work();
            let ours = tests::process::processes_with(work.to_str().unwrap());
            let is_worker = |pid: &u32| {
                let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).starts_with(bin.to_str().unwrap())
            };
            (!ours.iter().any(is_worker)).then_some(())
        });
    }
}

/// The page's command, on a port of loopback.
fn serve(slurm: &Slurm, listen: &str, variables: &[(&str, &str)]) -> (Running, String) {
    let log = slurm.work().join("coordinator.log");
    let earlier = fs_err::read_to_string(&log).unwrap_or_default().len();
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
    let master = wait_for("a coordinator", Duration::from_secs(20), || {
        let output = coordinator.output();
        assert!(coordinator.is_running(), "{output}");
        let line = output[earlier..].lines().find(|line| line.starts_with("listening "))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    });
    (coordinator, master)
}

/// Numbers of all allocations that SLURM has seen so far: the next one's would be the first free.
fn allocations(status: &Value) -> Vec<String> {
    let ranks = status["ranks"].as_array().unwrap();
    let of = |rank: &Value| {
        let worker = rank["worker"].as_str().unwrap();
        worker.rsplit_once('-').unwrap().1.to_owned()
    };
    let mut all: Vec<String> = ranks.iter().map(of).collect();
    all.dedup();
    all
}

#[test]
fn a_job_gets_nodes_trains_on_them_and_gives_them_back() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    // Behind what is told on stderr.
    let script = site.line(&command(DRY_RUN));
    assert!(script.contains("#!/bin/sh\n#SBATCH --job-name=tiny-dryrun.1\n"), "{script}");
    assert!(script.contains(&format!("'{}'", site.master)), "{script}");
    assert_eq!(site.slurm.queue(), Vec::<String>::new());

    let told = site.line(&format!("{} --watch", command(SUBMIT)));
    site.expect_release();
    let job = told.lines().find(|line| line.starts_with("tiny-")).unwrap();
    let status = site.status(job);
    assert_eq!((&status["state"], &status["step"]), (&"succeeded".into(), &20.into()));
    let worker = |rank: usize| status["ranks"][rank]["worker"].as_str().unwrap();
    assert_eq!((worker(0), worker(1)), ("node1-1", "node2-1"));
    let story = site.rsctl().call(&["explain", job]).expect_code(0).stdout;
    assert!(story.contains("is SLURM job 1"), "{story}");
    assert!(story.contains("is given back: the job has ended"), "{story}");
    let left = fs_err::read_dir(site.slurm.work().join("runs/.slurm")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [format!("{job}.1.log").as_str()], "the log alone is kept");
}

#[test]
fn a_cancel_from_outside_is_noticed_and_the_job_goes_on_with_other_nodes() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    let job = site.submit(&["--nodes", "2", "--set", "checkpoint.every-steps=20"]);
    let first = allocations(&site.wait_for_step(&job, 50));
    let number = first[0].as_str();
    site.slurm.succeed("scancel $job", &[("job", number)]);
    let began = Instant::now();
    site.wait_for("that its nodes go", &job, |status| status["attempts"][0]["ended_at"].is_u64());
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let again = site.wait_for("a second attempt that goes on", &job, |status| {
        status["attempts"][1]["resumed_at_step"].is_u64() && status["state"] == "running"
    });
    assert_ne!(allocations(&again), first, "{again:#}");
    assert!(again["attempts"][1]["resumed_at_step"].as_u64().unwrap_or(0) >= 20, "{again:#}");
    site.rsctl().call(&["cancel", &job]).expect_code(0);
    site.wait_for("its end", &job, |status| status["state"] == "cancelled");
    site.expect_release();
}

#[test]
fn a_job_that_waits_in_slurms_queue_says_so_and_can_be_cancelled_from_both_sides() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    let holder =
        site.slurm.submit("sbatch --exclusive --nodes=2 --output=/dev/null --wrap 'sleep 1000'");
    site.slurm.wait_for_job(&holder, &["JobState=RUNNING"]);
    let ours = site.submit(&["--nodes", "2"]);
    let theirs = site.submit(&["--nodes", "2"]);
    let status = site.wait_for_reason(&ours, "is PENDING (");
    assert_eq!(status["waiting"]["kind"], "allocation", "{status:#}");
    let number = site.wait_for_reason(&theirs, "is PENDING (")["waiting"]["slurm_job"].to_string();
    site.rsctl().call(&["cancel", &ours]).expect_code(0);
    site.slurm.succeed("scancel $job", &[("job", &number)]);
    site.wait_for("its end", &ours, |status| status["state"] == "cancelled");
    let theirs = site.wait_for("its end", &theirs, |status| status["state"] == "cancelled");
    let reason = theirs["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("SLURM job {number} CANCELLED")), "{reason}");
    wait_for("the holder alone", Duration::from_secs(10), || {
        (site.slurm.queue().len() == 1).then_some(())
    });
    site.slurm.succeed("scancel $job", &[("job", &holder)]);
}

#[test]
fn what_slurm_does_not_give_is_told_with_what_to_do() {
    let Some(site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(20));
    let wrong = site.submit(&["--partition", "nowhere"]);
    let told = site.wait_for("its end", &wrong, |status| status["state"] == "failed");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("SLURM refuses") && reason.contains("partition"), "{reason}");
    let large = site.submit(&["--nodes", "3"]);
    let told = site.wait_for_reason(&large, "PartitionNodeLimit");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("the partition never gives this"), "{reason}");
    site.rsctl().call(&["cancel", &large]).expect_code(0);
    let hostile = ["submit", "--slurm", "job.toml", "--partition", "a\n#SBATCH --uid=0"];
    site.rsctl().call(&hostile).expect_code(78).expect_stderr(&["slurm.partition", "blanks"]);
    site.expect_release();

    let Some(without) = Site::start(&[("PATH", "/nowhere")]) else { return };
    without.slurm.write("job.toml", &tiny(20));
    let job = without.submit(&[]);
    let told = without.wait_for("its end", &job, |status| status["state"] == "failed");
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("is not in the coordinator's PATH"), "{reason}");
}

#[test]
fn a_coordinator_that_was_killed_comes_back_to_the_allocation_that_it_has() {
    let Some(mut site) = Site::start(&[]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    let job = site.submit(&["--nodes", "2"]);
    // At once: before, while or after SLURM is asked.
    site.restart();
    let first = site.wait_for_step(&job, 10);
    site.restart();
    let step = first["step"].as_u64().unwrap();
    let later = site.wait_for_step(&job, step + 50);
    assert_eq!(later["attempts"].as_array().unwrap().len(), 1, "{later:#}");
    assert_eq!(allocations(&later), allocations(&first));
    assert_eq!(site.slurm.queue().len(), 1, "asked for once");
    site.rsctl().call(&["cancel", &job]).expect_code(0);
    site.wait_for("its end", &job, |status| status["state"] == "cancelled");
    site.expect_release();
}

#[test]
fn without_a_coordinator_nodes_go_back_by_themselves() {
    let Some(mut site) = Site::start(&[("RUSTSPEED_SLURM_LEASE", "5s")]) else { return };
    site.slurm.write("job.toml", &tiny(1_000_000));
    let job = site.submit(&["--nodes", "2"]);
    site.wait_for_step(&job, 10);
    site.coordinator.signal(Signal::SIGKILL);
    site.coordinator.wait(Duration::from_secs(10));
    wait_for("an empty queue", Duration::from_secs(30), || {
        site.slurm.queue().is_empty().then_some(())
    });
    site.slurm.wait_until_empty();
}
