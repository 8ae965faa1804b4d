//! One rank: what the worker's assignment makes of this process, and how it fails.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use collectives::nccl::{Nccl, NcclError};
use collectives::{ConnectError, Listener, MeshConfig, PeerAddress, Transport};
use common::ids::{AttemptId, Generation, JobId, Rank};
use common::ports::{self, PortRange};
use common::spec::{self, JobSpec};
use common::status::{FailureKind, TrainerFailure};
use engine::Device;
use proto::convert;
use proto::v1::{Assignment, RankTable};
use service::exit::chain;

use crate::rank::sums::Way;

mod sums;
mod training;

pub(crate) use training::Training;

/// All ranks have the table when it is handed out, so peers are there within moments.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

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
    #[error(
        "the ranks of this job sum between their GPUs by NCCL; without it \
         `--set resources.transport=tcp` sums through the hosts' memory"
    )]
    Nccl {
        #[source]
        source: NcclError,
    },
    #[error(
        "the ranks of this job sum between their GPUs by NCCL, and rank 0 has made no meeting \
         point; `--set resources.transport=tcp` sums through the hosts' memory"
    )]
    NoMeetingPoint,
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
        match self {
            Self::Engine(error) => error.is_departure(),
            Self::Nccl { source } => matches!(source, NcclError::Aborted { .. }),
            _ => false,
        }
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
    /// How what a GPU keeps is summed.
    way: Way,
    /// Where that takes it.
    nccl: Option<Nccl>,
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
        let spec = convert::spec(&wire.spec_json).map_err(assignment)?;
        let is_on_gpu = wire.cuda_device.is_some() || spec.resources.device == spec::Device::Cuda;
        Ok(Self {
            rank: Rank(wire.rank),
            world: wire.world,
            way: Way::of(&spec, wire.world, is_on_gpu),
            nccl: None,
            spec,
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

    fn mesh_config(&self, table: RankTable) -> Result<MeshConfig, Error> {
        let wrong = |source| Error::Table { source };
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

#[cfg(test)]
mod tests;
