//! A real SLURM on this machine: one slurmctld, two or more slurmd in namespaces of their own, with 4
//! CPUs each. Needs root and Debian's packages, which `make setup` installs.

mod faults;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries::{binary, workspace_root};
use crate::process::{Running, processes_with};
use crate::wait::{report, wait_for};

const PROGRAMS: &[&str] = &["munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "scancel"];

/// `up` takes half a second on an idle machine.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Ends everything it started when dropped.
#[derive(Debug)]
pub struct Slurm {
    folder: tempfile::TempDir,
}

impl Slurm {
    /// Starts a cluster of two nodes; None, said, where that is impossible.
    pub fn start() -> Option<Self> {
        Self::with_nodes(2)
    }

    /// As [`Self::start`], with so many.
    pub fn with_nodes(count: u32) -> Option<Self> {
        if let Some(why) = impossible() {
            report(&format!("SKIPPED: no SLURM cluster can be started: {why}"));
            return None;
        }
        let folder = tempfile::Builder::new().prefix("rustspeed-slurm-").tempdir();
        let folder = folder.expect("temp folder");
        let slurm = Self { folder };
        fs_err::create_dir(slurm.work()).expect("make our own folder");
        let deploy = workspace_root().join("deploy");
        fs_err::os::unix::fs::symlink(deploy, slurm.work().join("deploy"))
            .expect("link to deploy/");
        let mut up = slurm.tool("up");
        up.env("SC_GPUS", "0").env("SC_NODES", count.to_string());
        let mut up = Running::start(&mut up, &slurm.path("up.log"));
        let status = up.wait(UP_WITHIN);
        assert!(status.success(), "{}", up.output());
        if slurm.cluster().join("run/no-ns").exists() {
            report("SKIPPED: nodes of a SLURM cluster need namespaces, which cannot be made here");
            return None;
        }
        Some(slurm)
    }

    /// Where the jobs of this cluster are submitted; no daemon of SLURM mentions it.
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// All that a client of this cluster needs to know, as SLURM_CONF.
    pub fn conf(&self) -> PathBuf {
        self.cluster().join("slurm.conf")
    }

    /// Numbers, states and names of the jobs in the queue.
    pub fn queue(&self) -> Vec<String> {
        let said = self.succeed("squeue --noheader --format='%i %T %j'", &[]);
        said.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    fn cluster(&self) -> PathBuf {
        self.path("c")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tool(&self, verb: &str) -> Command {
        let mut command = Command::new(workspace_root().join("tests/tools/slurm-cluster.sh"));
        command.arg(verb).arg(self.cluster());
        command
    }

    pub fn write(&self, name: &str, text: &str) {
        fs_err::write(self.work().join(name), text).expect("write into our own folder");
    }

    /// A line of a shell, in the work folder, with our binaries in PATH.
    pub fn command(&self, line: &str) -> Command {
        let rsctl = binary("rsctl");
        let bin_dir = rsctl.parent().expect("a file has a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.tool("exec");
        command
            .args(["bash", "-c", line])
            .current_dir(self.work())
            .env("PATH", format!("{}:{path}", bin_dir.display()))
            .env_remove("RUSTSPEED_MASTER");
        command
    }

    /// Runs a line to its end; gives its exit code and all that it said.
    pub fn run(&self, line: &str, variables: &[(&str, &str)]) -> (i32, String) {
        let log = self.path("run.log");
        // Each line's own.
        let _ = fs_err::remove_file(&log);
        let mut running = Running::start(self.command(line).envs(variables.iter().copied()), &log);
        let status = running.wait(Duration::from_secs(60));
        (status.code().unwrap_or(-1), running.output())
    }

    /// As [`Self::run`], of a line that succeeds.
    pub fn succeed(&self, line: &str, variables: &[(&str, &str)]) -> String {
        let (code, said) = self.run(line, variables);
        assert_eq!(code, 0, "{line}\n{said}");
        said
    }

    /// Runs an `sbatch`; gives the number of the job.
    pub fn submit(&self, line: &str) -> String {
        let said = self.succeed(line, &[]);
        said.split_whitespace().last().expect("sbatch tells a number").to_owned()
    }

    /// What `scontrol show job` tells, as `Key=Value` words.
    pub fn job(&self, job: &str) -> String {
        let mut command = Command::new("scontrol");
        command
            .args(["show", "job", "-o", job])
            .env("SLURM_CONF", self.cluster().join("slurm.conf"));
        let told = command.output().expect("start scontrol");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8_lossy(&told.stdout).into_owned()
    }

    /// What the batch script of a job has said.
    pub fn output(&self, job: &str) -> String {
        fs_err::read_to_string(self.work().join(format!("rustspeed-{job}.out"))).unwrap_or_default()
    }

    pub fn wait_for_output(&self, job: &str, part: &str) {
        wait_for(&format!("`{part}` of SLURM job {job}"), Duration::from_secs(40), || {
            let output = self.output(job);
            assert!(!output.contains("error:"), "{output}");
            output.contains(part).then_some(())
        });
    }

    /// Waits until SLURM tells all of these of a job.
    pub fn wait_for_job(&self, job: &str, words: &[&str]) {
        wait_for(&format!("SLURM job {job} {words:?}"), Duration::from_secs(60), || {
            let told = self.job(job);
            let told: Vec<&str> = told.split_whitespace().collect();
            words.iter().all(|word| told.contains(word)).then_some(())
        });
    }

    /// Waits until no process of a job is left.
    pub fn wait_until_empty(&self) {
        let work = self.work();
        let needle = work.to_str().expect("temp paths are UTF-8");
        wait_for("no process of a job", Duration::from_secs(20), || {
            processes_with(needle).is_empty().then_some(())
        });
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&evidence(self.folder.path()));
        }
        // What `salloc` started on this machine is in no node: after a failure it may still be there.
        for pid in processes_with(&self.work().to_string_lossy()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        // `down` is safe to run on what is down already.
        let _ = self.tool("down").status();
    }
}

fn impossible() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("that needs root".to_owned());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let is_there =
        |name: &str| path.split(':').any(|folder| Path::new(folder).join(name).is_file());
    let missing: Vec<&str> = PROGRAMS.iter().copied().filter(|name| !is_there(name)).collect();
    let hint = "`make setup` as root installs Debian's slurm packages";
    (!missing.is_empty()).then(|| format!("no {}: {hint}", missing.join(", ")))
}

/// The ends of all logs.
fn evidence(folder: &Path) -> String {
    let script = "find . -name '*.out' -o -name '*.log' | while read -r f; do \
                  echo \"--- $f\"; tail -n 25 \"$f\"; done";
    let told = Command::new("sh").args(["-c", script]).current_dir(folder).output();
    told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default()
}
