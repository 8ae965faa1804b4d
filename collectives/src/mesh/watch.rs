//! The thread that listens to the control connections: a peer's end of file is its death, and its
//! notices say why it gave up.
//!
//! Only records faults; the operations see them at their next wait.

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    notice::{Notice, Parsed},
    shared::{Control, Fault, Shared},
};
use crate::link::sys;

/// The watcher has nothing to do at the end of a silent slice; A5 wants one.
const SLICE: Duration = Duration::from_secs(1);

/// Runs until `join`, which its owner calls once nobody needs the mesh.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: UnixStream,
    thread: JoinHandle<()>,
}

struct Watched {
    rank: usize,
    received: Vec<u8>,
    is_open: bool,
}

impl Watcher {
    pub(crate) fn spawn(shared: &Arc<Shared>) -> io::Result<Self> {
        for (_, control) in shared.controls() {
            control.set_nonblocking()?;
        }
        let (stop, stopped) = UnixStream::pair()?;
        let shared = Arc::clone(shared);
        let thread = thread::Builder::new()
            .name("mesh-watch".to_owned())
            .stack_size(256 << 10)
            .spawn(move || watch(&shared, &stopped))?;
        Ok(Self { stop, thread })
    }

    pub(crate) fn join(self) {
        drop(self.stop);
        // A panic of the watcher was printed by its hook, and nothing here depends on its value.
        let _ = self.thread.join();
    }
}

fn watch(shared: &Shared, stopped: &UnixStream) {
    let mut peers: Vec<Watched> = shared
        .controls()
        .map(|(rank, _)| Watched { rank, received: Vec::new(), is_open: true })
        .collect();
    let controls: Vec<&Control> = shared.controls().map(|(_, control)| control).collect();
    loop {
        let mut entries = vec![sys::poll_entry(stopped.as_fd(), true, false)];
        for (peer, control) in peers.iter().zip(&controls) {
            entries.push(match peer.is_open {
                true => sys::poll_entry(control.as_fd(), true, false),
                false => sys::ignored_entry(),
            });
        }
        if !sys::poll(&mut entries, SLICE) {
            continue;
        }
        if entries[0].revents != 0 {
            return;
        }
        for ((peer, control), entry) in peers.iter_mut().zip(&controls).zip(&entries[1..]) {
            if entry.revents != 0 {
                peer.on_readable(control, shared);
            }
        }
    }
}

impl Watched {
    fn on_readable(&mut self, control: &Control, shared: &Shared) {
        let mut bytes = [0; 512];
        match control.read(&mut bytes) {
            Ok(0) => self.on_end(shared),
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                self.on_received(shared);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.on_end(shared),
            },
        }
    }

    fn on_received(&mut self, shared: &Shared) {
        loop {
            match Notice::parse(&self.received) {
                Parsed::Incomplete => return,
                Parsed::Garbage => return self.on_end(shared),
                Parsed::Whole(notice, taken) => {
                    self.received.drain(..taken);
                    self.on_notice(notice, shared);
                }
            }
        }
    }

    fn on_notice(&self, notice: Notice, shared: &Shared) {
        let fault = match notice {
            Notice::Goodbye => return shared.on_departed(self.rank),
            // Who reports this rank dead has lost the connection to it; both shall end.
            Notice::PeerLost { rank } if rank == shared.rank || rank >= shared.world => {
                let reason = format!("it lost the connection to rank {rank}");
                Fault::Aborted { by: Some(self.rank as u32), reason }
            }
            Notice::PeerLost { rank } => Fault::PeerLost { rank },
            Notice::Aborted { reason } => Fault::Aborted { by: Some(self.rank as u32), reason },
        };
        shared.trip(fault);
    }

    fn on_end(&mut self, shared: &Shared) {
        self.is_open = false;
        if !shared.has_departed(self.rank) {
            shared.trip(Fault::PeerLost { rank: self.rank as u32 });
        }
    }
}
