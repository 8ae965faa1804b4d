//! One NCCL communicator as its owner, its watcher and those who end it share it.
//!
//! Every call on the communicator is made under the lock, and none blocks; so whoever takes the
//! communicator out of it is the only one who has it. It is taken out to be ended, and for nothing
//! else: until then anybody can abort it.
#![expect(unsafe_code, reason = "calls a C library")]

use std::{
    collections::VecDeque,
    os::raw::c_int,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    api::{Api, Comm, IN_PROGRESS, SUCCESS},
    error::NcclError,
};
use crate::{
    Error, OpKind, Signature, Whereabouts,
    device::{Issued, Probe},
};

/// How often a call that goes on by itself is asked whether it is over.
const POLL: Duration = Duration::from_micros(200);

/// So long it is asked without a pause: NCCL hands most calls to a thread of its own, which has made them
/// within microseconds, and a timer cannot wait for so little.
const SPIN: Duration = Duration::from_millis(1);

/// How often the watcher looks at what is under way; an abort wakes it at once.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Shared {
    pub(super) api: Arc<Api>,
    pub(super) rank: u32,
    pub(super) world: u32,
    /// The deadline of every operation.
    pub(super) timeout: Duration,
    /// Inside while something is watched. Changed under the lock.
    pub(super) whereabouts: Arc<Whereabouts>,
    /// Held for calls that do not block.
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    life: Life,
    fault: Option<Fault>,
    /// In the order of the queue.
    watched: VecDeque<Watched>,
    is_leaving: bool,
}

/// Of the communicator.
#[derive(Clone, Copy)]
enum Life {
    Alive(Handle),
    /// Who took it out is at it: what runs on the device may still run.
    Ending,
    /// Aborted or destroyed.
    Ended,
}

#[derive(Clone, Copy)]
struct Handle(Comm);

// SAFETY: NCCL lets any thread call on a communicator, one at a time; the lock sees to that.
unsafe impl Send for Handle {}

struct Watched {
    op: OpKind,
    sequence: u64,
    started: Instant,
    is_done: Probe,
}

/// Why the communicator ended.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Aborted { reason: String },
    Timeout { op: OpKind, sequence: u64 },
    Failed { reason: String },
}

impl Shared {
    pub(super) fn new(
        (api, comm): (Arc<Api>, Comm),
        (rank, world): (u32, u32),
        timeout: Duration,
        channel: u32,
    ) -> Self {
        let life = Life::Alive(Handle(comm));
        let inner = Inner { life, fault: None, watched: VecDeque::new(), is_leaving: false };
        let (inner, changed) = (Mutex::new(inner), Condvar::new());
        let whereabouts = Arc::new(Whereabouts::new(channel));
        Self { api, rank, world, timeout, whereabouts, inner, changed }
    }

    /// Makes a call on the communicator and returns when it has been made for good: for an operation,
    /// when it is on its queue.
    pub(super) fn call(
        &self,
        (op, sequence): (OpKind, u64),
        body: impl FnOnce(Comm) -> c_int,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let mut inner = self.lock();
        let comm = self.live(&inner).map_err(|fault| self.error(&fault, op, sequence))?;
        let mut result = body(comm);
        while result == IN_PROGRESS && began.elapsed() < self.timeout {
            inner = self.let_others(inner, began);
            let comm = self.live(&inner).map_err(|fault| self.error(&fault, op, sequence))?;
            result = self.async_result(comm);
        }
        drop(inner);
        let fault = match result {
            SUCCESS => return Ok(()),
            IN_PROGRESS => Fault::Timeout { op, sequence },
            result => Fault::Failed { reason: self.api.reason(result) },
        };
        Err(self.error(&self.trip(fault), op, sequence))
    }

    /// Hands an operation to the watcher.
    pub(super) fn watch(&self, Issued { op, sequence, bytes }: Issued, is_done: Probe) {
        let started = Instant::now();
        let mut inner = self.lock();
        self.whereabouts
            .enter(sequence, &Signature { kind: op, bytes, reduction: None, root: None });
        inner.watched.push_back(Watched { op, sequence, started, is_done });
        drop(inner);
        self.changed.notify_all();
    }

    /// Ends the communicator, unless it has ended: then that reason stays. Returns the one that holds.
    pub(super) fn trip(&self, fault: Fault) -> Fault {
        let mut inner = self.lock();
        let fault = inner.fault.get_or_insert(fault).clone();
        let taken = take(&mut inner);
        drop(inner);
        self.changed.notify_all();
        if let Some(taken) = taken {
            self.end(taken, self.api.functions.comm_abort);
        }
        fault
    }

    /// With a communicator that was taken out of the lock.
    fn end(&self, Handle(comm): Handle, how: unsafe extern "C" fn(Comm) -> c_int) {
        // SAFETY: taken out, so nobody else has it, and nobody will.
        unsafe { how(comm) };
        self.lock().life = Life::Ended;
        self.changed.notify_all();
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.lock().fault.clone()
    }

    /// Looks at what is under way until the communicator ends. For a thread of its own: the owner's
    /// may wait for the device meanwhile.
    pub(super) fn run_watcher(&self) {
        while !self.lock().is_over() {
            if let Some(fault) = self.look() {
                self.trip(fault);
                return;
            }
            let inner = self.lock();
            if !inner.is_over() {
                drop(self.pause(inner, LOOK));
            }
        }
    }

    /// Asks the device without the lock: a driver that is busy may let it wait, and who aborts must not.
    /// Nobody else takes from the front meanwhile.
    fn look(&self) -> Option<Fault> {
        loop {
            let Some(watched) = self.lock().watched.pop_front() else { break };
            let Watched { op, sequence, started, ref is_done } = watched;
            match is_done() {
                Ok(true) => {
                    let inner = self.lock();
                    if inner.watched.is_empty() {
                        self.whereabouts.leave();
                    }
                }
                Ok(false) if started.elapsed() < self.timeout => {
                    self.lock().watched.push_front(watched);
                    break;
                }
                Ok(false) => return Some(Fault::Timeout { op, sequence }),
                Err(reason) => return Some(Fault::Failed { reason }),
            }
        }
        let inner = self.lock();
        let Life::Alive(Handle(comm)) = inner.life else { return None };
        match self.async_result(comm) {
            SUCCESS | IN_PROGRESS => None,
            result => Some(Fault::Failed { reason: self.api.reason(result) }),
        }
    }

    /// The owner takes leave: what is under way ends within `patience`, else it is aborted. Whether
    /// all of it is over, and memory that it used is the owner's again.
    pub(super) fn leave(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let functions = &self.api.functions;
        let mut inner = self.lock();
        inner.is_leaving = true;
        self.changed.notify_all();
        let mut result = match inner.life {
            // SAFETY: it is alive, and the lock is held.
            Life::Alive(Handle(comm)) => unsafe { (functions.comm_finalize)(comm) },
            Life::Ending | Life::Ended => SUCCESS,
        };
        while result == IN_PROGRESS && Instant::now() < until {
            inner = self.pause(inner, POLL);
            let Life::Alive(Handle(comm)) = inner.life else { break };
            result = self.async_result(comm);
        }
        if let Some(taken) = take(&mut inner) {
            drop(inner);
            let is_over = result == SUCCESS;
            self.end(taken, if is_over { functions.comm_destroy } else { functions.comm_abort });
            return true;
        }
        while matches!(inner.life, Life::Ending) && Instant::now() < until {
            inner = self.pause(inner, POLL);
        }
        matches!(inner.life, Life::Ended)
    }

    pub(super) fn error(&self, fault: &Fault, op: OpKind, sequence: u64) -> Error {
        match fault.clone() {
            Fault::Aborted { reason } => Error::Aborted { by: None, reason, op, sequence },
            // NCCL does not tell who is missing: all others may be.
            Fault::Timeout { op, sequence } => Error::Timeout {
                op,
                sequence,
                waiting_for: (0..self.world).filter(|rank| *rank != self.rank).collect(),
                after: self.timeout,
            },
            Fault::Failed { reason } => Error::Device { op, sequence, reason },
        }
    }

    fn live(&self, inner: &Inner) -> Result<Comm, Fault> {
        let gone = || Fault::Aborted { reason: "the communicator has ended".to_owned() };
        match (&inner.fault, inner.life) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Life::Alive(Handle(comm))) => Ok(comm),
            (None, Life::Ending | Life::Ended) => Err(gone()),
        }
    }

    fn async_result(&self, comm: Comm) -> c_int {
        async_result(&self.api, comm)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock away for a moment, in a call that began then.
    fn let_others<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
        began: Instant,
    ) -> MutexGuard<'a, Inner> {
        if began.elapsed() >= SPIN {
            return self.pause(inner, POLL);
        }
        drop(inner);
        std::thread::yield_now();
        self.lock()
    }

    fn pause<'a>(&self, inner: MutexGuard<'a, Inner>, time: Duration) -> MutexGuard<'a, Inner> {
        self.changed.wait_timeout(inner, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Inner {
    /// Nothing is to be watched any more.
    fn is_over(&self) -> bool {
        self.is_leaving || self.fault.is_some()
    }
}

impl Drop for Shared {
    /// An owner has taken leave; where none came to be, the peers must not wait in vain.
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Handle(comm)) = take(inner) {
            // SAFETY: nobody else is left who could have it.
            unsafe { (self.api.functions.comm_abort)(comm) };
        }
    }
}

/// Takes the communicator out, if it is alive, for who ends it.
fn take(inner: &mut Inner) -> Option<Handle> {
    let Life::Alive(handle) = inner.life else { return None };
    inner.life = Life::Ending;
    Some(handle)
}

/// What a communicator says of the call that it was given last.
fn async_result(api: &Api, comm: Comm) -> c_int {
    let mut result = SUCCESS;
    // SAFETY: the caller has a live communicator to himself; writes a number.
    let asked = unsafe { (api.functions.comm_async_error)(comm, &raw mut result) };
    if asked == SUCCESS { result } else { asked }
}

/// Waits for a communicator that is being made, of which `result` is known; aborts it otherwise.
pub(super) fn await_init(
    api: &Api,
    (comm, mut result): (Comm, c_int),
    after: Duration,
    called_off: &dyn Fn() -> Option<String>,
) -> Result<Comm, NcclError> {
    const WHAT: &str = "meet the other ranks";
    let until = Instant::now() + after;
    let failure = loop {
        match result {
            SUCCESS => return Ok(comm),
            IN_PROGRESS => {}
            result => break NcclError::Refused { what: WHAT, reason: api.reason(result) },
        }
        if let Some(reason) = called_off() {
            break NcclError::Aborted { what: WHAT, reason };
        }
        if Instant::now() >= until {
            break NcclError::Timeout { what: WHAT, after };
        }
        // Nobody else knows it yet, so there is nothing to be woken by.
        std::thread::park_timeout(POLL);
        result = async_result(api, comm);
    };
    if !comm.is_null() {
        // SAFETY: nobody else has it, and it is not used again.
        unsafe { (api.functions.comm_abort)(comm) };
    }
    Err(failure)
}
