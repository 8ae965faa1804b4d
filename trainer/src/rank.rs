//! The training thread: meets the peers, runs the engine. Blocks; knows nothing of the worker.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use collectives::nccl::{Nccl, UniqueId};
use collectives::{AbortHandle, ConnectError, Listener, Mesh, MeshConfig, PeerAddress, Transport};
use common::ids::{AttemptId, Generation, JobId, Rank};
use common::ports::{self, PortRange};
use common::position::Position;
use common::spec::{self, JobSpec};
use common::status::{FailureKind, TrainerFailure};
use engine::{Device, Fault, Outcome, RankContext};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use proto::convert;
use proto::v1::trainer_message::Kind;
use proto::v1::{Assignment, Empty, RankTable};
use service::exit::chain;
use tokio::sync::oneshot;

use crate::outbox::Outbox;
use crate::whereabouts::Whereabouts;

/// All ranks have the table when it is handed out, so peers are there within moments.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// libtorch's backward pass recurses.
const STACK_BYTES: usize = 16 << 20;

/// Channel 0 is the training thread's, channel 1 the save thread's.
const CHANNELS: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read the assignment")]
    Assignment {
        #[source]
        source: convert::Error,
    },
    #[error("rank {rank} of a world of {world}")]
    World { rank: u32, world: u32 },
    #[error("read the rank table")]
    Table {
        #[source]
        source: convert::Error,
    },
    #[error("read the rank table: rank {rank} gives {bytes} bytes as NCCL's id, not 128")]
    NcclId { rank: u32, bytes: usize },
    #[error("meet the other ranks")]
    Meet {
        #[source]
        source: ConnectError,
    },
    #[error("listen for the other ranks on {place}")]
    Listen {
        place: String,
        #[source]
        source: std::io::Error,
    },
    #[error("make a communicator")]
    Communicator {
        #[source]
        source: collectives::Error,
    },
    #[error(transparent)]
    Fault(#[from] engine::FaultError),
    #[error("start the training thread")]
    Thread {
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl Error {
    /// Whether a collective returned because a peer left or the mesh was ended on purpose.
    pub(crate) fn is_departure(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_departure())
    }

    /// What crosses the process boundary.
    pub(crate) fn failure(&self) -> TrainerFailure {
        match self {
            Self::Engine(error) => error.failure(),
            Self::Fault(error) => TrainerFailure {
                kind: FailureKind::Configuration,
                step: None,
                message: error.to_string(),
            },
            _ => TrainerFailure { kind: FailureKind::Start, step: None, message: chain(self) },
        }
    }
}

/// What this process is, checked.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) rank: Rank,
    world: u32,
    spec: JobSpec,
    job_id: JobId,
    attempt: AttemptId,
    generation: Generation,
    run_dir: PathBuf,
    worker: String,
    /// What peers are told.
    advertise: IpAddr,
    /// What is bound: another address where the network between translates it.
    listen: IpAddr,
    ports: Option<PortRange>,
    cores: Vec<u32>,
    /// The whole process is on them already.
    is_bound: bool,
    cuda_device: Option<u32>,
    device: Device,
}

impl TryFrom<Assignment> for Identity {
    type Error = Error;

    fn try_from(wire: Assignment) -> Result<Self, Error> {
        let assignment = |source| Error::Assignment { source };
        if wire.rank >= wire.world {
            return Err(Error::World { rank: wire.rank, world: wire.world });
        }
        // An older worker says only what is told, and that is bound.
        let listen = if wire.listen.is_empty() { &wire.advertise } else { &wire.listen };
        Ok(Self {
            rank: Rank(wire.rank),
            world: wire.world,
            spec: convert::spec(&wire.spec_json).map_err(assignment)?,
            job_id: convert::job_id(&wire.job_id).map_err(assignment)?,
            attempt: AttemptId(wire.attempt),
            generation: Generation(wire.generation),
            run_dir: wire.run_dir.into(),
            worker: wire.worker,
            listen: convert::ip_address("listen", listen).map_err(assignment)?,
            ports: convert::port_range("port_range", &wire.port_range).map_err(assignment)?,
            advertise: convert::ip_address("advertise", &wire.advertise).map_err(assignment)?,
            cores: wire.cores,
            is_bound: wire.is_bound,
            cuda_device: wire.cuda_device,
            device: Device::CPU,
        })
    }
}

impl Identity {
    /// Finds the GPU that this rank was given, if it was: before the peers know of it, so that a node
    /// that cannot is known by name.
    pub(crate) fn open_device(&mut self) -> Result<(), Error> {
        if let Some(index) = self.cuda_device {
            self.device = Device::cuda(index).map_err(engine::Error::from)?;
            tracing::info!(gpu = index, "computing on a GPU");
        }
        Ok(())
    }

    pub(crate) fn listen(&self) -> Result<Listener, Error> {
        let failed = |source| {
            let ports = self.ports.map_or_else(String::new, |ports| format!(", ports {ports}"));
            Error::Listen { place: format!("{}{ports}", self.listen), source }
        };
        // Ranks of one node begin at different ports.
        let start = std::process::id();
        let tcp = ports::listen(self.listen, self.ports, start).map_err(failed)?;
        Listener::over(tcp, self.advertise).map_err(|source| Error::Meet { source })
    }

    /// Where the ranks of a job on GPUs can meet by NCCL: rank 0's to make. Nothing sums by NCCL yet,
    /// so its absence is told and stops nobody.
    pub(crate) fn nccl_id(&self) -> Vec<u8> {
        let is_asked = self.rank == Rank(0) && self.spec.resources.device == spec::Device::Cuda;
        let made = is_asked.then(|| Nccl::load().and_then(|nccl| nccl.unique_id()));
        match made {
            Some(Ok(id)) => id.as_bytes().to_vec(),
            Some(Err(error)) => {
                tracing::warn!(error = chain(&error), "the ranks cannot meet by NCCL");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn mesh_config(&self, table: RankTable) -> Result<MeshConfig, Error> {
        let wrong = |source| Error::Table { source };
        for peer in table.peers.iter().filter(|peer| !peer.nccl_id.is_empty()) {
            let bytes = peer.nccl_id.len();
            UniqueId::from_bytes(&peer.nccl_id).ok_or(Error::NcclId { rank: peer.rank, bytes })?;
        }
        let peers = table
            .peers
            .into_iter()
            .map(|peer| {
                Ok(PeerAddress {
                    rank: peer.rank,
                    address: convert::socket_address("address", &peer.address).map_err(wrong)?,
                    unix_name: peer.unix_name,
                    worker: peer.worker,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(MeshConfig {
            rank: self.rank.0,
            world: self.world,
            token: convert::token(&table.token).map_err(wrong)?,
            peers,
            transport: match self.spec.resources.transport {
                spec::Transport::Auto => Transport::Auto,
                spec::Transport::SharedMemory => Transport::SharedMemory,
                spec::Transport::Tcp => Transport::Tcp,
            },
            connect_timeout: CONNECT_TIMEOUT,
            collective_timeout: self.spec.job.collective_timeout,
            channels: CHANNELS,
            has_own_cores: self.is_bound,
        })
    }
}

/// The outside's hold on the training thread.
#[derive(Debug)]
pub(crate) struct Training {
    /// Set to ask for a graceful stop.
    pub(crate) stop: Arc<AtomicBool>,
    /// There once the peers are met; held for a clone.
    mesh: Arc<Mutex<Option<AbortHandle>>>,
    /// Where the training thread is.
    whereabouts: Arc<Whereabouts>,
    /// Gone without an answer: the thread panicked.
    pub(crate) result: oneshot::Receiver<Result<Outcome, Error>>,
}

impl Training {
    /// Meets the peers of `table` and trains, on a thread of its own.
    pub(crate) fn start(
        identity: Identity,
        listener: Listener,
        table: RankTable,
        outbox: Arc<Outbox>,
    ) -> Result<Self, Error> {
        let config = identity.mesh_config(table)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mesh = Arc::new(Mutex::new(None));
        let whereabouts = Arc::new(Whereabouts::new(fault(identity.rank)?));
        let (sender, result) = oneshot::channel();
        let (their_stop, their_mesh) = (Arc::clone(&stop), Arc::clone(&mesh));
        let theirs = Arc::clone(&whereabouts);
        let body = move || {
            let outcome = Mesh::connect(Some(listener), config)
                .map_err(|source| Error::Meet { source })
                .and_then(|met| {
                    if let Ok(mut slot) = their_mesh.lock() {
                        *slot = Some(met.abort_handle());
                    }
                    train(identity, &met, outbox, (their_stop, theirs))
                });
            // The other side is gone only when the process is leaving.
            let _ = sender.send(outcome);
        };
        thread::Builder::new()
            .name("training".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { stop, mesh, whereabouts, result })
    }

    /// Makes every collective return, here and on the peers. False: the peers are not met yet, so
    /// there is nothing that the process could not leave at once.
    pub(crate) fn abort(&self, reason: &str) -> bool {
        let handle = self.mesh.lock().ok().and_then(|slot| slot.clone());
        handle.inspect(|handle| handle.abort(reason)).is_some()
    }

    /// Where the training thread is.
    pub(crate) fn position(&self) -> Position {
        self.whereabouts.position()
    }

    /// Whether the peers are met.
    pub(crate) fn has_met(&self) -> bool {
        self.mesh.lock().is_ok_and(|slot| slot.is_some())
    }
}

fn train(
    identity: Identity,
    mesh: &Mesh,
    outbox: Arc<Outbox>,
    (stop, whereabouts): (Arc<AtomicBool>, Arc<Whereabouts>),
) -> Result<Outcome, Error> {
    if identity.is_bound {
        tracing::info!(cores = ?identity.cores, "bound to cores of its own");
    } else {
        // Not before: the collectives look at how many cores the ranks have together.
        pin(&identity.cores);
    }
    for path in mesh.describe() {
        tracing::info!(peer = path.rank, worker = path.worker, transport = ?path.transport, "met");
    }
    let communicator =
        |channel| mesh.communicator(channel).map_err(|source| Error::Communicator { source });
    let (training, save) = (communicator(0)?, communicator(1)?);
    whereabouts.watch([&training, &save]);
    outbox.event(Kind::Running(Empty {}));
    let context = RankContext {
        spec: identity.spec,
        job_id: identity.job_id,
        attempt: identity.attempt,
        generation: identity.generation,
        rank: identity.rank,
        world: identity.world,
        run_dir: identity.run_dir,
        worker: identity.worker,
        communicator: training,
        device: identity.device,
        save_communicator: save,
        reporter: outbox,
        stop,
        pulse: Arc::clone(&whereabouts.pulse),
    };
    Ok(engine::run(context)?)
}

/// The fault that a test asks this rank for.
fn fault(rank: Rank) -> Result<Option<Fault>, Error> {
    match std::env::var(engine::FAULT_VARIABLE) {
        Ok(text) => Ok(Fault::parse(&text, rank.0)?),
        Err(_) => Ok(None),
    }
}

/// Keeps this thread, and every thread that it starts from now on, on `cores`. Without it training
/// is slower and nothing else.
fn pin(cores: &[u32]) {
    if cores.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    let pinned = cores
        .iter()
        .try_for_each(|&core| set.set(core as usize))
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    match pinned {
        Ok(()) => tracing::info!(?cores, "on cores of its own"),
        Err(error) => tracing::warn!(?cores, %error, "cannot stay on cores of its own"),
    }
}

#[cfg(test)]
mod tests;
