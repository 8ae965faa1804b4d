//! A real cluster on loopback: one coordinator, some workers, each with folders of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::binaries::binary;
use crate::ports;
use crate::process::Running;
use crate::rsctl::Rsctl;
use crate::wait::wait_for;

/// Ends everything it started when dropped; the folder stays when the test panics.
#[derive(Debug)]
pub struct Cluster {
    pub folder: tempfile::TempDir,
    pub master: String,
    pub coordinator: Option<Running>,
    pub workers: Vec<Running>,
    serving: Serving,
}

/// How a coordinator is started.
#[derive(Debug, Clone)]
pub struct Serving {
    pub listen: String,
    /// None: in the cluster's folder.
    pub data_dir: Option<PathBuf>,
    /// Further flags.
    pub flags: Vec<&'static str>,
    /// A program that becomes the coordinator, and its arguments.
    pub through: Vec<&'static str>,
}

impl Default for Serving {
    fn default() -> Self {
        let listen = "127.0.0.1:0".to_owned();
        Self { listen, data_dir: None, flags: Vec::new(), through: Vec::new() }
    }
}

impl Cluster {
    /// A coordinator and `slots.len()` workers with so many slots each, all ready.
    pub fn start(slots: &[u32]) -> Self {
        Self::start_as(Serving::default(), slots)
    }

    /// As [`Cluster::start`], with a coordinator that is not like every other.
    pub fn start_as(serving: Serving, slots: &[u32]) -> Self {
        // It may be started again there.
        let serving = Serving { listen: ports::settled(&serving.listen), ..serving };
        let folder =
            tempfile::Builder::new().prefix("rustspeed-it-").tempdir().expect("temp folder");
        let (coordinator, master) = start_coordinator(folder.path(), &serving);
        let coordinator = Some(coordinator);
        let mut cluster = Self { folder, master, coordinator, workers: Vec::new(), serving };
        for (index, slots) in slots.iter().enumerate() {
            let worker = cluster.worker_command(&format!("w{index}"), *slots);
            cluster.add_worker(&format!("w{index}"), worker);
        }
        cluster.wait_until_ready(slots.len());
        cluster
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn worker_command(&self, name: &str, slots: u32) -> Command {
        let mut command = Command::new(binary("worker"));
        command
            .args(["join", "--master", &self.master, "--name", name])
            .args(["--slots", &slots.to_string(), "--state-dir"])
            .arg(self.path().join(name));
        command
    }

    pub fn add_worker(&mut self, name: &str, mut command: Command) {
        let log = self.path().join(format!("{name}.log"));
        self.workers.push(Running::start(&mut command, &log));
    }

    /// Starts worker `w<index>`, which has ended, again on the state of its last life.
    pub fn restart_worker(&mut self, index: usize, slots: u32) {
        let name = format!("w{index}");
        let log = self.path().join(format!("{name}.log"));
        self.workers[index] = Running::start(&mut self.worker_command(&name, slots), &log);
    }

    pub fn wait_until_ready(&self, count: usize) {
        self.wait_for_workers(count, &["ready"]);
    }

    /// As [`Cluster::wait_until_ready`], also of workers that are kept for the case of need.
    pub fn wait_until_connected(&self, count: usize) {
        self.wait_for_workers(count, &["ready", "excluded"]);
    }

    fn wait_for_workers(&self, count: usize, states: &[&str]) {
        let what = format!("{count} workers {}", states.join(" or "));
        wait_for(&what, Duration::from_secs(30), || {
            let rows = self.rsctl().read(&["workers", "--json"]);
            let counts = |row: &&serde_json::Value| {
                row["state"].as_str().is_some_and(|state| states.contains(&state))
            };
            (rows.as_array()?.iter().filter(counts).count() == count).then_some(())
        });
    }

    /// Starts the coordinator again on the same address and data.
    pub fn restart_coordinator(&mut self) {
        self.coordinator = None;
        let serving = Serving { listen: self.master.clone(), ..self.serving.clone() };
        let (coordinator, master) = start_coordinator(self.folder.path(), &serving);
        assert_eq!(master, self.master);
        self.coordinator = Some(coordinator);
    }

    pub fn rsctl(&self) -> Rsctl {
        Rsctl { folder: self.path().to_owned(), master: Some(self.master.clone()) }
    }

    /// Writes `<folder>/<name>` and gives its path as text.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs_err::write(&path, text).expect("write into the test's own folder");
        path.to_str().expect("temp paths are UTF-8").to_owned()
    }

    /// Submits and gives the job's id.
    pub fn submit(&self, job: &str) -> String {
        let answer = self.rsctl().call(&["submit", "--json", job]).expect_code(0);
        answer.json()["job_id"].as_str().expect("job_id is text").to_owned()
    }

    pub fn status(&self, job_id: &str) -> serde_json::Value {
        self.rsctl().read(&["status", "--json", job_id])
    }

    /// Waits until `jobs` shows the state; gives the status.
    pub fn wait_for_state(&self, job_id: &str, state: &str) -> serde_json::Value {
        wait_for(&format!("{job_id} {state}"), Duration::from_secs(60), || {
            let status = self.status(job_id);
            let now = status["state"].as_str().expect("state is text");
            let is_final = ["succeeded", "failed", "cancelled"].contains(&now);
            assert!(now == state || !is_final, "wanted {state}: {status:#}");
            (now == state).then_some(status)
        })
    }

    /// Waits until the job has finished `step`.
    pub fn wait_for_step(&self, job_id: &str, step: u64) -> serde_json::Value {
        wait_for(&format!("step {step} of {job_id}"), Duration::from_secs(60), || {
            let status = self.status(job_id);
            assert_ne!(status["state"], "failed", "{status:#}");
            (status["step"].as_u64()? >= step).then_some(status)
        })
    }

    /// Pids of all trainers of this cluster's workers.
    pub fn trainers(&self) -> Vec<u32> {
        self.workers.iter().flat_map(|worker| crate::process::children_of(worker.pid())).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in self.workers.iter().chain(&self.coordinator) {
                // A test's failure report, read by a person.
                let tail: Vec<_> = log.output().lines().rev().take(25).map(str::to_owned).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                crate::wait::report(&format!("--- {}\n{}", log.log.display(), tail.join("\n")));
            }
        }
    }
}

fn start_coordinator(folder: &Path, serving: &Serving) -> (Running, String) {
    let log: PathBuf = folder.join("coordinator.log");
    let data_dir = serving.data_dir.clone().unwrap_or_else(|| folder.join("coordinator"));
    let mut command = match serving.through.split_first() {
        None => Command::new(binary("coordinator")),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary("coordinator"));
            command
        }
    };
    command.args(["serve", "--listen", &serving.listen]).args(&serving.flags);
    command.arg("--data-dir").arg(data_dir);
    let mut coordinator = Running::start(&mut command, &log);
    let master = coordinator.listening();
    (coordinator, master)
}
