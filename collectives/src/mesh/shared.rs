//! What all threads of one rank's mesh know: who the peers are, and the first fault.
//!
//! Promises that the first fault wins and that peers are told of it once. Does not wait.

use std::{
    io::{self, Write as _},
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::notice::Notice;
use crate::PeerAddress;

/// Why the mesh is of no more use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A peer's process is gone.
    PeerLost { rank: u32 },
    /// Aborted by this process (none) or by a peer.
    Aborted { by: Option<u32>, reason: String },
}

/// The connection to a peer that carries no data: its end is the peer's end.
#[derive(Debug)]
pub(crate) enum Control {
    Local(UnixStream),
    Tcp(TcpStream),
}

/// One rank's common knowledge.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rank: u32,
    pub(crate) world: u32,
    pub(crate) collective_timeout: Duration,
    /// Indexed by rank; none at this rank's own place.
    controls: Vec<Option<Control>>,
    workers: Vec<String>,
    departed: Vec<AtomicBool>,
    is_faulty: AtomicBool,
    /// Guards the first fault; held for the copy only.
    fault: Mutex<Option<Fault>>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(
        rank: u32,
        collective_timeout: Duration,
        controls: Vec<Option<Control>>,
        peers: &[PeerAddress],
    ) -> Self {
        let world = controls.len() as u32;
        let mut workers = vec![String::new(); controls.len()];
        for peer in peers {
            workers[peer.rank as usize].clone_from(&peer.worker);
        }
        let departed = controls.iter().map(|_| AtomicBool::new(false)).collect();
        Self {
            rank,
            world,
            collective_timeout,
            controls,
            workers,
            departed,
            is_faulty: AtomicBool::new(false),
            fault: Mutex::new(None),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn controls(&self) -> impl Iterator<Item = (usize, &Control)> {
        self.controls
            .iter()
            .enumerate()
            .filter_map(|(rank, control)| Some((rank, control.as_ref()?)))
    }

    pub(crate) fn worker(&self, rank: u32) -> String {
        self.workers.get(rank as usize).cloned().unwrap_or_default()
    }

    /// The first fault, if there was one. Cheap while there is none.
    pub(crate) fn fault(&self) -> Option<Fault> {
        if self.is_faulty.load(Ordering::Acquire) { self.lock().clone() } else { None }
    }

    /// The fault that becomes known within `grace`, unless `rank` just left in peace.
    pub(crate) fn fault_within(&self, grace: Duration, rank: usize) -> Option<Fault> {
        let until = Instant::now() + grace;
        let mut fault = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if fault.is_some() || self.has_departed(rank) || left.is_zero() {
                return fault.clone();
            }
            fault =
                self.changed.wait_timeout(fault, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Records the fault unless there is one already; says whether this one is the first.
    pub(crate) fn trip(&self, fault: Fault) -> bool {
        let mut first = self.lock();
        if first.is_some() {
            return false;
        }
        *first = Some(fault);
        self.is_faulty.store(true, Ordering::Release);
        self.changed.notify_all();
        true
    }

    /// Tells every peer. A peer that cannot be told sees the connection's end instead.
    pub(crate) fn tell_all(&self, notice: &Notice) {
        let encoded = notice.encode();
        for (_, control) in self.controls() {
            // A notice is far smaller than any socket buffer: it goes whole or the peer is gone.
            let _ = control.write(&encoded);
        }
    }

    pub(crate) fn has_departed(&self, rank: usize) -> bool {
        self.departed[rank].load(Ordering::Acquire)
    }

    pub(crate) fn on_departed(&self, rank: usize) {
        self.departed[rank].store(true, Ordering::Release);
        // Taken so that a waiter between its look and its sleep does not miss the news.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Ends the control connections, whoever still holds this value.
    pub(crate) fn hang_up(&self) {
        for (_, control) in self.controls() {
            // It fails only where the peer hung up first.
            let _ = match control {
                Control::Local(stream) => stream.shutdown(Shutdown::Both),
                Control::Tcp(stream) => stream.shutdown(Shutdown::Both),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        use std::io::Read as _;
        match self {
            Self::Local(stream) => (&*stream).read(into),
            Self::Tcp(stream) => (&*stream).read(into),
        }
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Local(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Local(stream) => (&*stream).write_all(bytes),
            Self::Tcp(stream) => (&*stream).write_all(bytes),
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Local(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}
