//! Runs a job with its ranks as threads, each with its own mesh on loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use collectives::{
    Communicator, DeviceCommunicator, Listener, Mesh, MeshConfig, PeerAddress, Transport,
};
use common::ids::{AttemptId, Generation, JobId, Rank};
use common::spec::JobSpec;
use common::status::{CheckpointRow, Live, MetricPoint};

use crate::{Device, Error, Outcome, RankContext, Reporter};

/// What one rank told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) notes: Mutex<Vec<String>>,
    pub(crate) losses: Mutex<Vec<f64>>,
    pub(crate) loss_scales: Mutex<Vec<f64>>,
    /// By the metric's name.
    pub(crate) seconds: Mutex<BTreeMap<&'static str, Vec<f64>>>,
    pub(crate) checkpoints: Mutex<Vec<(CheckpointRow, Vec<String>)>>,
    /// What an attempt found at its start.
    pub(crate) found: Mutex<Vec<CheckpointRow>>,
    /// Asks for a graceful stop once this step has been told.
    stop_after: Option<u64>,
    stop: Arc<AtomicBool>,
    /// A file to make once the run has started, in the way of a save.
    obstacle: Option<PathBuf>,
}

impl Reporter for Heard {
    fn progress(&self, live: Live) {
        if let Some(path) = self.obstacle.as_ref().filter(|_| live.step == 0) {
            fs_err::write(path, b"in the way").unwrap();
        }
        if self.stop_after.is_some_and(|step| live.step >= step) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn metric(&self, name: &'static str, point: MetricPoint) {
        if name == common::metric::TRAIN_LOSS.name {
            self.losses.lock().unwrap().push(point.value);
        } else if name == common::metric::LOSS_SCALE.name {
            self.loss_scales.lock().unwrap().push(point.value);
        } else if name.ends_with("-seconds") {
            self.seconds.lock().unwrap().entry(name).or_default().push(point.value);
        }
    }
    fn note(&self, text: String) {
        self.notes.lock().unwrap().push(text);
    }
    fn checkpoint(&self, row: CheckpointRow, removed: Vec<String>) {
        self.checkpoints.lock().unwrap().push((row, removed));
    }
    fn found(&self, rows: Vec<CheckpointRow>) {
        self.found.lock().unwrap().extend(rows);
    }
}

/// A change of the job, as a file on one node would make it.
type Change = fn(&mut JobSpec);

/// One attempt at a job.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) spec: JobSpec,
    pub(crate) job_id: JobId,
    pub(crate) world: u32,
    pub(crate) device: Device,
    /// What is on the device has a communicator of its own.
    pub(crate) sums_on_device: bool,
    pub(crate) generation: u64,
    /// One folder for all ranks, or one each (nodes that share no disk).
    pub(crate) run_dirs: Vec<PathBuf>,
    pub(crate) stop_after: Option<u64>,
    pub(crate) obstacle: Option<PathBuf>,
    /// One rank whose job differs.
    pub(crate) of_rank: Option<(u32, Change)>,
}

/// How it went, by rank.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcomes: Vec<Result<Outcome, Error>>,
    pub(crate) heard: Vec<Arc<Heard>>,
}

impl Attempt {
    pub(crate) fn new(spec: JobSpec, world: u32, run_dir: &Path) -> Self {
        let run_dirs = vec![run_dir.to_owned(); world as usize];
        Self {
            spec,
            job_id: "test-abc123".parse().unwrap(),
            world,
            device: Device::CPU,
            sums_on_device: false,
            generation: 1,
            run_dirs,
            stop_after: None,
            obstacle: None,
            of_rank: None,
        }
    }

    pub(crate) fn generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    pub(crate) fn run(self) -> Ended {
        let heard: Vec<_> = (0..self.world)
            .map(|_| Heard {
                stop_after: self.stop_after,
                obstacle: self.obstacle.clone(),
                ..Heard::default()
            })
            .map(Arc::new)
            .collect();
        let meshes = meshes(self.world, self.spec.job.collective_timeout);
        let outcomes = std::thread::scope(|scope| {
            let ranks: Vec<_> = (0_u32..)
                .zip(meshes.into_iter().zip(&heard))
                .map(|(rank, (mesh, heard))| {
                    let attempt = &self;
                    std::thread::Builder::new()
                        .name(format!("rank-{rank}"))
                        .spawn_scoped(scope, move || attempt.run_rank(rank, &mesh, heard))
                        .unwrap()
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        Ended { outcomes, heard }
    }

    fn run_rank(&self, rank: u32, mesh: &Mesh, heard: &Arc<Heard>) -> Result<Outcome, Error> {
        let mut spec = self.spec.clone();
        if let Some((_, change)) = self.of_rank.filter(|(changed, _)| *changed == rank) {
            change(&mut spec);
        }
        let outcome = crate::run(RankContext {
            spec,
            job_id: self.job_id.clone(),
            attempt: AttemptId(self.generation as u32),
            generation: Generation(self.generation),
            rank: Rank(rank),
            world: self.world,
            run_dir: self.run_dirs[rank as usize].clone(),
            worker: format!("worker-{rank}"),
            device: self.device,
            communicator: mesh.communicator(0).unwrap(),
            device_communicator: self.sums_on_device.then(|| {
                let communicator = mesh.communicator(2).unwrap();
                Box::new(communicator) as Box<dyn DeviceCommunicator>
            }),
            save_communicator: mesh.communicator(1).unwrap(),
            reporter: heard.clone(),
            stop: heard.stop.clone(),
            pulse: Default::default(),
        });
        if let Err(error) = &outcome {
            // As a trainer does: one failure ends the attempt everywhere.
            mesh.abort_handle().abort(&error.to_string());
        }
        outcome
    }
}

impl Ended {
    /// Every rank finished; what rank 0 told.
    pub(crate) fn unwrap(self) -> (Outcome, Arc<Heard>) {
        let mut outcomes: Vec<_> = self.outcomes.into_iter().map(Result::unwrap).collect();
        (outcomes.swap_remove(0), self.heard[0].clone())
    }
}

/// Runs a closure on every rank of a small world; returns what they returned, by rank.
pub(crate) fn with_ranks<T: Send>(
    world: u32,
    body: impl Fn(&mut Communicator) -> T + Sync,
) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = meshes(world, Duration::from_secs(20))
            .into_iter()
            .map(|mesh| scope.spawn(move || body(&mut mesh.communicator(0).unwrap())))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// As [`with_ranks`], with meshes that a rank may abort or leave.
pub(crate) fn with_meshes<T: Send>(world: u32, body: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = meshes(world, Duration::from_secs(20))
            .into_iter()
            .map(|mesh| scope.spawn(move || body(mesh)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn meshes(world: u32, collective_timeout: Duration) -> Vec<Mesh> {
    if world == 1 {
        return vec![Mesh::solo(3)];
    }
    let listeners: Vec<_> =
        (0..world).map(|_| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap()).collect();
    let peers: Vec<_> = (0_u32..)
        .zip(&listeners)
        .map(|(rank, listener)| PeerAddress {
            rank,
            address: listener.address(),
            unix_name: listener.unix_name().to_owned(),
            worker: format!("worker-{rank}"),
        })
        .collect();
    let connect = |rank: u32, listener: Listener| {
        let config = MeshConfig {
            rank,
            world,
            token: [7; 16],
            peers: peers.clone(),
            transport: Transport::Auto,
            connect_timeout: Duration::from_secs(20),
            collective_timeout,
            channels: 3,
            has_own_cores: false,
        };
        Mesh::connect(Some(listener), config).unwrap()
    };
    let connect = &connect;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0_u32..)
            .zip(listeners)
            .map(|(rank, listener)| scope.spawn(move || connect(rank, listener)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}
