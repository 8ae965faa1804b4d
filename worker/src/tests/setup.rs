//! A worker in this process, its folders and its jobs.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use common::exit::ExitCode;
use common::spec::{DataSource, JobSpec, Missing, Normalization};
use proto::v1::coordinator_message::Kind as Say;
use proto::v1::start_trainers::RankSlots;
use proto::v1::worker_message::Kind as Heard;
use proto::v1::{EndsAcknowledged, Peer, RankTable, RunningTrainer, StartTrainers, TrainerEnded};
use service::exit::Failure;
use service::shutdown::Shutdown;
use service::tasks;
use tokio::task::JoinHandle;

use super::coordinator::Coordinator;
use super::script::{SCRIPT, Script};
use crate::config::{Config, Device};
use crate::cores::Use;
use crate::libtorch::Libtorch;
use crate::network::Network;
use crate::node;

pub(super) const JOB: &str = "a-1";
pub(super) const SLOTS: u32 = 4;

/// Folders of one test.
pub(super) struct Folders {
    temporary: tempfile::TempDir,
}

impl Folders {
    pub(super) fn new() -> Self {
        Self { temporary: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.path("runs").join(JOB)
    }

    pub(super) fn config(&self, master: &str) -> Config {
        let trainer = self.path("trainer.sh");
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\nexec '{}' --exact tests::script::act --nocapture\n",
            program.display()
        );
        fs_err::write(&trainer, script).unwrap();
        fs_err::set_permissions(&trainer, PermissionsExt::from_mode(0o755)).unwrap();
        Config {
            master: master.to_owned(),
            slots: NonZeroU32::new(SLOTS).unwrap(),
            name: "node-1".to_owned(),
            network: Network::default(),
            state_dir: self.path("state"),
            trainer,
            libtorch: Libtorch::Linked,
            device: Device::Cpu,
            stop_grace: Duration::from_secs(5),
            notice_grace: Duration::from_secs(50),
            ends_at: None,
            leave_after: None,
            allocation: None,
            cores: Use::Pin,
            allow_commands: false,
        }
    }

    pub(super) fn spec(&self, script: Script) -> JobSpec {
        spec(self.path("runs"), script)
    }

    pub(super) fn start(&self, script: Script, generation: u64, world: u32) -> StartTrainers {
        start(&self.spec(script), generation, world)
    }
}

/// A worker that runs in this process.
pub(super) struct Worker {
    pub(super) shutdown: Shutdown,
    running: JoinHandle<Result<ExitCode, Failure>>,
}

impl Worker {
    pub(super) fn start(config: Config) -> Self {
        let shutdown = Shutdown::new();
        let running =
            tasks::spawn(tasks::Kind::Finish, "worker", node::run(config, shutdown.clone()));
        Self { shutdown, running }
    }

    /// How it ended, by itself.
    pub(super) async fn end(self) -> Result<ExitCode, Failure> {
        tokio::time::timeout(Duration::from_secs(20), self.running)
            .await
            .expect("the worker ends in time")
            .unwrap()
    }

    pub(super) async fn stop(self) {
        self.shutdown.request("the test is over");
        assert_eq!(self.end().await.unwrap(), ExitCode::Done);
    }
}

pub(super) fn start(spec: &JobSpec, generation: u64, world: u32) -> StartTrainers {
    StartTrainers {
        job_id: JOB.to_owned(),
        generation,
        attempt: 1,
        world,
        spec_json: proto::convert::spec_json(spec),
        job_toml: "x = 1".to_owned(),
        uploads: HashMap::new(),
        ranks: (0..world).map(|rank| RankSlots { rank, slots: vec![rank] }).collect(),
    }
}

/// [`hand_out_table`], then waits until all ranks run.
pub(super) async fn meet(
    coordinator: &mut Coordinator,
    generation: u64,
    world: u32,
) -> BTreeMap<u32, u32> {
    let pids = hand_out_table(coordinator, generation, world).await;
    let mut running = 0;
    while running < world {
        let end = coordinator
            .wait("running", |heard| match heard {
                Heard::TrainerRunning(_) => Some(None),
                Heard::TrainerEnded(end) => Some(Some(end)),
                _ => None,
            })
            .await;
        match end {
            Some(end) => coordinator.early_ends.push_back(end),
            None => running += 1,
        }
    }
    pids
}

/// Waits for `world` ranks to listen and hands out the table. Returns their process ids by rank.
pub(super) async fn hand_out_table(
    coordinator: &mut Coordinator,
    generation: u64,
    world: u32,
) -> BTreeMap<u32, u32> {
    let mut peers: Vec<Peer> = Vec::new();
    let mut pids = BTreeMap::new();
    while peers.len() < world as usize {
        let ready = coordinator
            .wait("ready", |heard| match heard {
                Heard::TrainerReady(ready) => Some(ready),
                Heard::TrainerEnded(end) => panic!("ended early: {end:?}"),
                Heard::PrepareFailed(failed) => panic!("{failed:?}"),
                _ => None,
            })
            .await;
        assert_eq!(ready.generation, generation);
        let peer = ready.peer.unwrap();
        pids.insert(peer.rank, ready.pid);
        peers.push(peer);
    }
    let table = RankTable { job_id: JOB.to_owned(), generation, token: vec![7; 16], peers };
    coordinator.say(Say::RankTable(table));
    pids
}

pub(super) fn acknowledge(coordinator: &Coordinator, ends: &[TrainerEnded]) {
    let ends = ends
        .iter()
        .map(|end| RunningTrainer {
            job_id: end.job_id.clone(),
            generation: end.generation,
            rank: end.rank,
            ..RunningTrainer::default()
        })
        .collect();
    coordinator.say(Say::Ends(EndsAcknowledged { ends }));
}

/// A small job whose trainers follow `script`.
fn spec(output_dir: PathBuf, script: Script) -> JobSpec {
    let mut spec: JobSpec = serde_json::from_str(SPEC).unwrap();
    spec.job.output_dir = output_dir;
    spec.job.env.insert(SCRIPT.to_owned(), format!("{script:?}"));
    spec
}

const SPEC: &str = r#"{
    "job": {
        "name": "a", "seed": 1, "priority": 0, "output-dir": "/set-below",
        "collective-timeout": "60s"
    },
    "resources": { "device": "cpu", "threads-per-rank": 1, "transport": "auto" },
    "model": {
        "kind": "lstm", "hidden-size": 32, "num-layers": 1, "dropout": 0.0, "head-dropout": 0.0,
        "bidirectional": false
    },
    "data": {
        "source": { "kind": "sine", "samples": 100, "validation-samples": 10, "noise": 0.1 },
        "window": 10, "horizon": 1, "shuffle": true, "drop-last": true
    },
    "training": {
        "epochs": 1, "validate": "never", "batch": { "mismatch": "adapt" },
        "optimizer": {
            "learning-rate": 0.001, "weight-decay": 0.0,
            "rule": { "kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "bias-correction": true }
        },
        "schedule": { "kind": "constant" }, "gradient-clipping": 0.0,
        "precision": { "asked": "fp32", "effective": "fp32" }
    },
    "zero": {
        "stage": 0, "overlap-comm": false, "reduce-bucket-size": 1
    },
    "checkpoint": {
        "keep-last": 1, "keep-best": 1, "async": true, "resume": "never", "layout": "auto"
    },
    "monitor": { "tensorboard": false, "csv": false }
}"#;

pub(super) fn csv(path: PathBuf) -> DataSource {
    DataSource::Csv {
        path,
        columns: Vec::new(),
        targets: Vec::new(),
        header: true,
        split: [0.7, 0.15, 0.15],
        normalization: Normalization::None,
        missing: Missing::Error,
    }
}
