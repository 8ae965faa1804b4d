//! How the ranks of a job sum what their GPUs keep: by NCCL, or through the hosts' memory.
//!
//! Promise: the way follows from the job, its world and whether it is on GPUs, so all ranks take the
//! same one; a node that lacks what the way needs is refused by name before it trains. Refusal: what
//! is summed is the engine's.

use collectives::AbortHandle;
use collectives::nccl::{Nccl, NcclCommunicator, NcclConfig, NcclError, UniqueId};
use common::spec::{JobSpec, Transport};
use proto::v1::RankTable;
use service::exit::chain;

use super::{CONNECT_TIMEOUT, Error, Identity};

/// Beside the mesh's channels in what a rank tells of its operations.
const CHANNEL: u32 = super::CHANNELS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By the mesh: nothing is kept on a GPU, or the job wants it so.
    Host,
    /// A rank alone has nothing to sum. NCCL where it is there, so that it is the same job.
    NcclIfThere,
    Nccl,
}

impl Way {
    pub(super) fn of(spec: &JobSpec, world: u32, is_on_gpu: bool) -> Self {
        let is_kept_there = is_on_gpu && spec.zero.offload_optimizer.is_none();
        match (is_kept_there, spec.resources.transport) {
            (false, _) | (true, Transport::Tcp | Transport::SharedMemory) => Self::Host,
            (true, Transport::Auto) if world == 1 => Self::NcclIfThere,
            (true, Transport::Auto) => Self::Nccl,
        }
    }

    /// Of a step towards NCCL: what it gave, or that the job goes on without.
    pub(super) fn accept<T>(self, made: Result<T, NcclError>) -> Result<Option<T>, Error> {
        match (made, self) {
            (Ok(made), _) => Ok(Some(made)),
            (Err(source), Self::Nccl) => Err(Error::Nccl { source }),
            (Err(error), _) => {
                tracing::warn!(error = chain(&error), "this rank trains alone, without NCCL");
                Ok(None)
            }
        }
    }
}

/// Rank 0's meeting point, where it made one.
pub(super) fn meeting_point(table: &RankTable) -> Result<Option<UniqueId>, Error> {
    let mut first = None;
    for peer in table.peers.iter().filter(|peer| !peer.nccl_id.is_empty()) {
        let wrong = || Error::NcclId { rank: peer.rank, bytes: peer.nccl_id.len() };
        let id = UniqueId::from_bytes(&peer.nccl_id).ok_or_else(wrong)?;
        if peer.rank == 0 {
            first = Some(id);
        }
    }
    Ok(first)
}

impl Identity {
    /// Where the ranks of a job on GPUs can meet by NCCL: rank 0's to make. Every rank looks for the
    /// library now, so that a node without it is known before anybody waits for it.
    pub(crate) fn nccl_id(&mut self) -> Result<Vec<u8>, Error> {
        self.find_nccl(Nccl::load)
    }

    pub(super) fn find_nccl(
        &mut self,
        load: impl FnOnce() -> Result<Nccl, NcclError>,
    ) -> Result<Vec<u8>, Error> {
        if self.way == Way::Host {
            return Ok(Vec::new());
        }
        self.nccl = self.way.accept(load())?;
        let first = self.nccl.as_ref().filter(|_| self.rank.0 == 0);
        let made = first.map(|nccl| self.way.accept(nccl.unique_id())).transpose()?.flatten();
        Ok(made.map_or_else(Vec::new, |id| id.as_bytes().to_vec()))
    }

    /// Meets the other ranks' GPUs, on the thread that will compute on this rank's. None: nothing is
    /// summed by NCCL.
    pub(super) fn meet_by_nccl(
        &self,
        point: Option<UniqueId>,
        mesh: &AbortHandle,
    ) -> Result<Option<NcclCommunicator>, Error> {
        let (nccl, id) = match (self.way, &self.nccl, point) {
            (Way::Host, ..) | (Way::NcclIfThere, None, _) | (Way::NcclIfThere, _, None) => {
                return Ok(None);
            }
            (_, Some(nccl), Some(id)) => (nccl, id),
            (Way::Nccl, ..) => return Err(Error::NoMeetingPoint),
        };
        self.device.enter()?;
        let config = NcclConfig {
            id,
            rank: self.rank.0,
            world: self.world,
            // It looks at the fabric first, which takes long where there is much of it.
            connect_timeout: CONNECT_TIMEOUT.max(self.spec.job.collective_timeout),
            collective_timeout: self.spec.job.collective_timeout,
            channel: CHANNEL,
            called_off: &|| mesh.fault(),
        };
        let met = self.way.accept(NcclCommunicator::connect(nccl, config))?;
        if met.is_some() {
            tracing::info!(version = nccl.version(), library = nccl.library(), "met by NCCL");
        }
        Ok(met)
    }
}

#[cfg(test)]
mod tests;
