//! The operations of one rank over GPU memory.
#![expect(unsafe_code, reason = "calls a C library with pointers of the device")]

use std::{
    ffi::{c_int, c_void},
    fmt,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    api::{Comm, Config, Id, Nccl},
    call::{Call, Kind, TOKEN_BYTES},
    error::NcclError,
    state::{Fault, Shared, await_init},
    unique::UniqueId,
};
use crate::{
    Error, OpKind, Operation, Traffic, Whereabouts,
    device::{DeviceCommunicator, Issued, Probe, Queue},
};

/// How long a rank that leaves in peace waits for what is under way.
const LEAVE: Duration = Duration::from_secs(5);

/// How NCCL knows its own configuration, and that it was laid out as 2.17 has it: later versions read
/// that much of it and set the rest themselves.
const MAGIC: u32 = 0xcafe_beef;
const LAYOUT: u32 = 21_700;

/// A value that NCCL chooses itself.
const UNDEFINED: c_int = c_int::MIN;

/// All that a rank must know to join.
pub struct NcclConfig<'a> {
    /// Rank 0's, through the rendezvous.
    pub id: UniqueId,
    /// This rank.
    pub rank: u32,
    /// How many ranks there are.
    pub world: u32,
    /// The deadline for all ranks to be there.
    pub connect_timeout: Duration,
    /// The deadline of every operation.
    pub collective_timeout: Duration,
    /// The number under which its operations are told, beside the channels of the mesh.
    pub channel: u32,
    /// Is asked meanwhile: why it should give up, if so.
    pub called_off: &'a dyn Fn() -> Option<String>,
}

/// One rank's end. Sums come in NCCL's order, which is fixed for a world and its wiring but is not
/// that of the ranks: bits differ from those of the other transports.
pub struct NcclCommunicator {
    shared: Arc<Shared>,
    sequence: u64,
    traffic: Arc<Traffic>,
    /// Device memory for barriers, from the first one on.
    token: Option<*mut c_void>,
    watcher: Option<JoinHandle<()>>,
}

// SAFETY: the token is an address on the device, which any thread may pass to NCCL.
unsafe impl Send for NcclCommunicator {}

/// Ends an [`NcclCommunicator`] from outside: what runs on the device ends, and every later
/// operation fails.
#[derive(Clone)]
pub struct NcclAbortHandle(Arc<Shared>);

impl NcclAbortHandle {
    /// The first reason holds.
    pub fn abort(&self, reason: &str) {
        self.0.trip(Fault::Aborted { reason: reason.to_owned() });
    }
}

impl NcclCommunicator {
    /// Meets the other ranks. The calling thread's CUDA device is the one that this rank will use;
    /// no two ranks may have the same one.
    pub fn connect(nccl: &Nccl, config: NcclConfig<'_>) -> Result<Self, NcclError> {
        let NcclConfig { rank, world, .. } = config;
        let (Ok(own), Ok(count)) = (c_int::try_from(rank), c_int::try_from(world)) else {
            return Err(NcclError::NoSuchRank { rank, world });
        };
        if rank >= world {
            return Err(NcclError::NoSuchRank { rank, world });
        }
        let api = nccl.api();
        let id = Id { internal: config.id.0.map(|byte| byte as _) };
        let mut settings = Config {
            size: size_of::<Config>(),
            magic: MAGIC,
            version: LAYOUT,
            blocking: 0,
            cgaClusterSize: UNDEFINED,
            minCTAs: UNDEFINED,
            maxCTAs: UNDEFINED,
            netName: std::ptr::null(),
            splitShare: UNDEFINED,
        };
        let mut comm: Comm = std::ptr::null_mut();
        // SAFETY: all pointers live over the call. With `blocking = 0` NCCL keeps the address of the
        // configuration no longer than the call.
        let result =
            unsafe { (api.functions.comm_init)(&raw mut comm, count, id, own, &raw mut settings) };
        let comm = await_init(api, (comm, result), config.connect_timeout, config.called_off)?;
        let timeout = config.collective_timeout;
        let ends = (Arc::clone(api), comm);
        let shared = Arc::new(Shared::new(ends, (rank, world), timeout, config.channel));
        let watching = Arc::clone(&shared);
        let watcher = thread::Builder::new()
            .name("watch-nccl".to_owned())
            .spawn(move || watching.run_watcher())
            .map_err(|source| NcclError::SpawnThread { source: source.into() })?;
        let traffic = Arc::default();
        Ok(Self { shared, sequence: 0, traffic, token: None, watcher: Some(watcher) })
    }

    /// A handle that ends every operation from any thread.
    #[must_use]
    pub fn abort_handle(&self) -> NcclAbortHandle {
        NcclAbortHandle(Arc::clone(&self.shared))
    }

    /// Counts what this communicator sends, by the volume of a ring: NCCL does not tell.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Where this communicator is: in an operation from when it is watched until the device has
    /// passed it.
    #[must_use]
    pub fn whereabouts(&self) -> Arc<Whereabouts> {
        Arc::clone(&self.shared.whereabouts)
    }

    /// Device memory of a few bytes.
    fn token(&mut self) -> Result<*mut c_void, Error> {
        if let Some(token) = self.token {
            return Ok(token);
        }
        let mut token = std::ptr::null_mut();
        let functions = &self.shared.api.functions;
        // SAFETY: writes the address of memory that `drop` gives back.
        let result = unsafe { (functions.mem_alloc)(&raw mut token, TOKEN_BYTES) };
        self.shared.api.check("allocate", result).map_err(|error| Error::Device {
            op: OpKind::Barrier,
            sequence: self.sequence,
            reason: error.to_string(),
        })?;
        self.token = Some(token);
        Ok(token)
    }

    /// # Safety
    /// As [`DeviceCommunicator::enqueue`].
    unsafe fn call(&self, call: &Call, comm: Comm, Queue(queue): Queue) -> c_int {
        let functions = &self.shared.api.functions;
        let Call { input, output, count, data_type, .. } = *call;
        // SAFETY: forwarded from the caller; the communicator is alive, as the lock's holder says.
        unsafe {
            match call.kind {
                Kind::AllReduce(op) => {
                    (functions.all_reduce)(input, output, count, data_type, op, comm, queue)
                }
                Kind::ReduceScatter(op) => {
                    (functions.reduce_scatter)(input, output, count, data_type, op, comm, queue)
                }
                Kind::AllGather => {
                    (functions.all_gather)(input, output, count, data_type, comm, queue)
                }
                Kind::Broadcast(root) => {
                    (functions.broadcast)(input, output, count, data_type, root, comm, queue)
                }
            }
        }
    }
}

impl DeviceCommunicator for NcclCommunicator {
    fn rank(&self) -> u32 {
        self.shared.rank
    }

    fn world(&self) -> u32 {
        self.shared.world
    }

    unsafe fn enqueue(&mut self, operation: Operation, queue: Queue) -> Result<Issued, Error> {
        let op = operation.kind();
        let token = match operation {
            Operation::Barrier => self.token()?,
            _ => std::ptr::null_mut(),
        };
        let call = Call::of(operation, (self.shared.rank, self.shared.world), token)?;
        let sequence = self.sequence;
        self.sequence += 1;
        // SAFETY: forwarded from the caller; `Call::of` has checked the lengths.
        self.shared.call((op, sequence), |comm| unsafe { self.call(&call, comm, queue) })?;
        self.traffic.add(op, call.reduced, call.sent(self.shared.world));
        Ok(Issued { op, sequence, bytes: call.bytes as u64 })
    }

    fn watch(&mut self, issued: Issued, is_done: Probe) {
        self.shared.watch(issued, is_done);
    }

    fn fault(&self) -> Option<Error> {
        let fault = self.shared.fault()?;
        Some(self.shared.error(&fault, OpKind::Barrier, self.sequence))
    }
}

impl Drop for NcclCommunicator {
    fn drop(&mut self) {
        if !self.shared.leave(LEAVE) {
            // Somebody's abort is still at it. A few bytes are lost rather than given to a barrier
            // that may run, and who aborts may be the watcher.
            return;
        }
        if let Some(token) = self.token.take() {
            // SAFETY: from `mem_alloc`; the communicator has ended, and every barrier with it.
            unsafe { (self.shared.api.functions.mem_free)(token) };
        }
        if let Some(watcher) = self.watcher.take() {
            // Its panic was printed by its hook.
            let _ = watcher.join();
        }
    }
}

impl fmt::Debug for NcclCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclCommunicator")
            .field("rank", &self.shared.rank)
            .field("world", &self.shared.world)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NcclAbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclAbortHandle").field("rank", &self.0.rank).finish_non_exhaustive()
    }
}

impl fmt::Debug for NcclConfig<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NcclConfig")
            .field("rank", &self.rank)
            .field("world", &self.world)
            .field("connect_timeout", &self.connect_timeout)
            .field("collective_timeout", &self.collective_timeout)
            .field("channel", &self.channel)
            .finish_non_exhaustive()
    }
}
