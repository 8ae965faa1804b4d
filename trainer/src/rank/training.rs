//! The training thread: meets the peers, runs the engine. Blocks; knows nothing of the worker.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;

use collectives::nccl::{NcclAbortHandle, NcclCommunicator};
use collectives::{AbortHandle, DeviceCommunicator, Listener, Mesh};
use common::ids::Rank;
use common::position::Position;
use engine::{Fault, Outcome, RankContext};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use proto::v1::trainer_message::Kind;
use proto::v1::{Empty, RankTable};
use tokio::sync::oneshot;

use super::{Error, Identity, sums};
use crate::outbox::Outbox;
use crate::whereabouts::Whereabouts;

/// libtorch's backward pass recurses.
const STACK_BYTES: usize = 16 << 20;

/// The outside's hold on the training thread.
#[derive(Debug)]
pub(crate) struct Training {
    /// Set to ask for a graceful stop.
    pub(crate) stop: Arc<AtomicBool>,
    /// There once the peers are met; held for a clone.
    ends: Arc<Mutex<Option<Ends>>>,
    /// Where the training thread is.
    whereabouts: Arc<Whereabouts>,
    /// Gone without an answer: the thread panicked.
    pub(crate) result: oneshot::Receiver<Result<Outcome, Error>>,
}

/// What ends the operations of a rank, of which NCCL's know nothing of the mesh.
#[derive(Debug, Clone)]
struct Ends {
    mesh: AbortHandle,
    nccl: Option<NcclAbortHandle>,
}

impl Ends {
    fn abort(&self, reason: &str) {
        self.mesh.abort(reason);
        if let Some(nccl) = &self.nccl {
            nccl.abort(reason);
        }
    }
}

impl Training {
    /// Meets the peers of `table` and trains, on a thread of its own.
    pub(crate) fn start(
        identity: Identity,
        listener: Listener,
        table: RankTable,
        outbox: Arc<Outbox>,
    ) -> Result<Self, Error> {
        let point = sums::meeting_point(&table)?;
        let config = identity.mesh_config(table)?;
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(Mutex::new(None));
        let whereabouts = Arc::new(Whereabouts::new(fault(identity.rank)?));
        let (sender, result) = oneshot::channel();
        let (their_stop, their_ends) = (Arc::clone(&stop), Arc::clone(&ends));
        let theirs = Arc::clone(&whereabouts);
        let body = move || {
            let outcome = Mesh::connect(Some(listener), config)
                .map_err(|source| Error::Meet { source })
                .and_then(|met| {
                    let mesh = met.abort_handle();
                    set(&their_ends, Ends { mesh: mesh.clone(), nccl: None });
                    let nccl = identity.meet_by_nccl(point, &mesh)?;
                    let handle = nccl.as_ref().map(NcclCommunicator::abort_handle);
                    set(&their_ends, Ends { mesh, nccl: handle });
                    train(identity, (&met, nccl), outbox, (their_stop, theirs))
                });
            // The other side is gone only when the process is leaving.
            let _ = sender.send(outcome);
        };
        thread::Builder::new()
            .name("training".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|source| Error::Thread { source })?;
        Ok(Self { stop, ends, whereabouts, result })
    }

    /// Makes every collective return, here and on the peers. False: the peers are not met yet, so
    /// there is nothing that the process could not leave at once.
    pub(crate) fn abort(&self, reason: &str) -> bool {
        self.ends().inspect(|ends| ends.abort(reason)).is_some()
    }

    /// What ended the mesh ends NCCL, too, which nobody tells that a peer is gone: asked for once a
    /// second, for a thread that waits for its GPU in vain.
    pub(crate) fn relay_faults(&self) {
        let Some(ends) = self.ends() else { return };
        if let Some((nccl, fault)) = ends.nccl.zip(ends.mesh.fault()) {
            nccl.abort(&fault);
        }
    }

    /// Where the training thread is.
    pub(crate) fn position(&self) -> Position {
        self.whereabouts.position()
    }

    /// Whether the peers are met.
    pub(crate) fn has_met(&self) -> bool {
        self.ends().is_some()
    }

    fn ends(&self) -> Option<Ends> {
        self.ends.lock().ok().and_then(|slot| slot.clone())
    }
}

fn set(slot: &Mutex<Option<Ends>>, ends: Ends) {
    if let Ok(mut slot) = slot.lock() {
        *slot = Some(ends);
    }
}

fn train(
    identity: Identity,
    (mesh, nccl): (&Mesh, Option<NcclCommunicator>),
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
    let channels = [training.whereabouts(), save.whereabouts()];
    whereabouts.watch(channels.into_iter().chain(nccl.as_ref().map(NcclCommunicator::whereabouts)));
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
        device_communicator: nccl.map(|nccl| Box::new(nccl) as Box<dyn DeviceCommunicator>),
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
