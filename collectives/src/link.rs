//! One channel's links to all peers, and the waits on them.
//!
//! Promises: bytes arrive whole and in order; every wait ends at the operation's deadline, within
//! one [`WAIT_SLICE`] of a fault, or when the bytes are there, and bytes that already arrived are
//! delivered before a fault is reported (a peer may have left after its last message).
//! Knows nothing of operations: `communicator` decides what is sent in which order.

#![expect(unsafe_code, reason = "spans into callers' buffers outlive borrows within one operation")]

mod faults;
mod region;
mod ring;
mod span;
mod stream;
pub(crate) mod sys;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::{
    region::{End, Region, RegionLayout},
    ring::Duplex,
    span::Span,
    stream::StreamLink,
};
use crate::{Error, OpKind, mesh::shared::Shared};

/// The longest sleep before a waiting rank looks at the fault flag and the clock again. A tenth of
/// what an abort may take; 100 wake-ups a second cost nothing measurable.
const WAIT_SLICE: Duration = Duration::from_millis(10);

/// The sleep where bytes must be moved on sockets while a ring is watched: no system call waits for
/// both.
const MIXED_SLICE: Duration = Duration::from_micros(100);

/// Polls of an atomic between two looks at the clock.
const SPINS_PER_CLOCK: u32 = 64;

/// The way to one peer on one channel.
#[derive(Debug)]
pub(crate) enum Link {
    /// A pair of rings in shared memory.
    Memory(Duplex),
    /// A TCP stream.
    Stream(StreamLink),
}

/// The operation that the links work for.
#[derive(Debug, Clone, Copy)]
struct Current {
    kind: OpKind,
    sequence: u64,
    started: Instant,
}

/// The links of one channel, indexed by rank; none at this rank's own place.
#[derive(Debug)]
pub(crate) struct Fabric {
    links: Vec<Option<Link>>,
    has_streams: bool,
    spin: Duration,
    current: Current,
    /// Bytes of buffers handed to `send`, ever; no headers.
    sent: u64,
    pub(crate) shared: Arc<Shared>,
}

impl Fabric {
    pub(crate) fn new(links: Vec<Option<Link>>, shared: Arc<Shared>, spin: Duration) -> Self {
        let has_streams = links.iter().flatten().any(|link| matches!(link, Link::Stream(_)));
        let current = Current { kind: OpKind::Barrier, sequence: 0, started: Instant::now() };
        Self { links, has_streams, spin, current, sent: 0, shared }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// How long a wait polls before it sleeps.
    pub(crate) fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// Begins an operation: all waits until the next call count against its deadline.
    pub(crate) fn begin(&mut self, kind: OpKind, sequence: u64) -> Result<(), Error> {
        self.current = Current { kind, sequence, started: Instant::now() };
        match self.shared.fault() {
            Some(fault) => Err(self.fault_error(fault)),
            None => Ok(()),
        }
    }

    /// True if the peer is reached by TCP.
    pub(crate) fn is_stream(&self, rank: usize) -> bool {
        matches!(self.links[rank], Some(Link::Stream(_)))
    }

    /// Queues a header; it leaves with the next `send` or `push_out` to that peer.
    pub(crate) fn stage(
        &mut self,
        to: usize,
        header: [u8; crate::header::BYTES],
    ) -> Result<(), Error> {
        if let Link::Stream(stream) = self.link(to) {
            stream.queue_header(header);
            return Ok(());
        }
        // SAFETY: the array outlives this call, and rings copy before `write_ring` returns.
        let span = unsafe { Span::from_slice(&header) };
        self.write_ring(to, span)
    }

    /// Sends `span`. Rings have copied it on return; streams may read it until `finish`.
    ///
    /// # Safety
    /// `span` stays valid, and its bytes unchanged until the peer has them, until `finish` returns.
    pub(crate) unsafe fn send(&mut self, to: usize, span: Span) -> Result<(), Error> {
        self.sent += span.len() as u64;
        match self.link(to) {
            Link::Memory(_) => {
                self.write_ring(to, span)?;
                self.push_out(to)
            }
            Link::Stream(stream) => {
                stream.queue(span);
                self.push_out(to)
            }
        }
    }

    /// Makes staged bytes visible to the peer, as far as its link takes them now.
    pub(crate) fn push_out(&mut self, to: usize) -> Result<(), Error> {
        match self.link(to) {
            Link::Memory(duplex) => duplex.writer.publish(),
            Link::Stream(stream) => {
                if let Err(error) = stream.flush() {
                    return Err(self.stream_error(to, "write to", error));
                }
            }
        }
        Ok(())
    }

    /// Returns when `len` bytes from the peer can be viewed. `len` is at most [`Self::max_view`].
    pub(crate) fn wait(&mut self, from: usize, len: usize) -> Result<(), Error> {
        match self.link(from) {
            Link::Memory(duplex) if duplex.reader.available() >= len => Ok(()),
            Link::Memory(_) => self.wait_ring(from, len),
            Link::Stream(_) => self.wait_stream(from, len),
        }
    }

    /// The next `len` bytes from the peer, for which `wait` has returned.
    pub(crate) fn view(&self, from: usize, len: usize) -> &[u8] {
        match self.links[from].as_ref().expect("operations address peers only") {
            Link::Memory(duplex) => duplex.reader.view(len),
            Link::Stream(stream) => stream.view(len),
        }
    }

    /// Gives the next `len` bytes' room back.
    pub(crate) fn release(&mut self, from: usize, len: usize) {
        match self.link(from) {
            Link::Memory(duplex) => duplex.reader.release(len),
            Link::Stream(stream) => stream.release(len),
        }
    }

    /// Fills `into` with the next bytes from the peer.
    ///
    /// # Safety
    /// `into` is valid for writes and not borrowed elsewhere during the call.
    pub(crate) unsafe fn receive(&mut self, from: usize, into: Span) -> Result<(), Error> {
        match self.link(from) {
            Link::Memory(_) => {
                self.wait(from, into.len())?;
                // SAFETY: the caller vouches for `into`; the view lies in shared memory, apart from it.
                unsafe { into.fill_from(self.view(from, into.len())) };
                self.release(from, into.len());
                Ok(())
            }
            // SAFETY: forwarded from the caller.
            Link::Stream(_) => unsafe { self.receive_stream(from, into) },
        }
    }

    /// Returns when streams hold no more of the caller's spans.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if !self.has_streams {
            return Ok(());
        }
        loop {
            if !self.flush_streams()? {
                return Ok(());
            }
            self.sleep_on_sockets(None, WAIT_SLICE);
            self.check(&[])?;
        }
    }

    /// Forgets the spans of a failed operation, whose buffers go back to the caller.
    pub(crate) fn forget_spans(&mut self) {
        for link in self.links.iter_mut().flatten() {
            if let Link::Stream(stream) = link {
                stream.forget_queue();
            }
        }
    }

    fn link(&mut self, rank: usize) -> &mut Link {
        self.links[rank].as_mut().expect("operations address peers only")
    }

    fn ring(&mut self, rank: usize) -> &mut Duplex {
        match self.link(rank) {
            Link::Memory(duplex) => duplex,
            Link::Stream(_) => unreachable!("asked for where the link was seen to be a ring"),
        }
    }

    fn stream(&mut self, rank: usize) -> &mut StreamLink {
        match self.link(rank) {
            Link::Stream(stream) => stream,
            Link::Memory(_) => unreachable!("asked for where the link was seen to be a stream"),
        }
    }

    fn write_ring(&mut self, to: usize, span: Span) -> Result<(), Error> {
        let mut done = 0;
        loop {
            let duplex = self.ring(to);
            done += duplex.writer.write(span.range(done, span.len()));
            if done == span.len() {
                return Ok(());
            }
            duplex.writer.publish();
            self.wait_space(to)?;
        }
    }

    fn wait_space(&mut self, to: usize) -> Result<(), Error> {
        let spin_until = Instant::now() + self.spin;
        loop {
            let duplex = self.ring(to);
            if duplex.writer.free() > 0 {
                return Ok(());
            }
            if Instant::now() < spin_until {
                spin_a_little();
                continue;
            }
            let queued = self.flush_streams()?;
            let slice = if queued { MIXED_SLICE } else { WAIT_SLICE };
            let duplex = self.ring(to);
            duplex.writer.sleep(slice);
            if duplex.writer.free() == 0
                && let Err(error) = self.check(&[to])
            {
                // A peer may have made room and left between the look and the check.
                return if self.ring(to).writer.free() > 0 { Ok(()) } else { Err(error) };
            }
        }
    }

    fn wait_ring(&mut self, from: usize, len: usize) -> Result<(), Error> {
        let spin_until = Instant::now() + self.spin;
        loop {
            let duplex = self.ring(from);
            for _ in 0..SPINS_PER_CLOCK {
                if duplex.reader.available() >= len {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            if Instant::now() < spin_until {
                continue;
            }
            let queued = self.flush_streams()?;
            let slice = if queued { MIXED_SLICE } else { WAIT_SLICE };
            let duplex = self.ring(from);
            duplex.reader.sleep(slice);
            if duplex.reader.available() < len
                && let Err(error) = self.check(&[from])
            {
                // A peer may have sent its last bytes and left between the look and the check:
                // what has arrived is delivered first.
                return if self.ring(from).reader.available() >= len { Ok(()) } else { Err(error) };
            }
        }
    }

    fn wait_stream(&mut self, from: usize, len: usize) -> Result<(), Error> {
        let spin_until = Instant::now() + self.spin;
        loop {
            let stream = self.stream(from);
            if stream.available() >= len {
                return Ok(());
            }
            match stream.fill(len) {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => return Err(self.stream_error(from, "read from", error)),
            }
            self.pause_on_stream(from, spin_until)?;
        }
    }

    unsafe fn receive_stream(&mut self, from: usize, into: Span) -> Result<(), Error> {
        let spin_until = Instant::now() + self.spin;
        let mut done = 0;
        while done < into.len() {
            // A segment that keeps coming must not outlast an abort.
            self.check_abort()?;
            let rest = into.range(done, into.len());
            let stream = self.stream(from);
            // SAFETY: forwarded from the caller.
            match unsafe { stream.read_into(rest) } {
                Ok(0) => self.pause_on_stream(from, spin_until)?,
                Ok(count) => done += count,
                Err(error) => return Err(self.stream_error(from, "read from", error)),
            }
        }
        Ok(())
    }

    /// Nothing to read now: writes what can be written, then polls or sleeps until something moves.
    fn pause_on_stream(&mut self, from: usize, spin_until: Instant) -> Result<(), Error> {
        self.flush_streams()?;
        if Instant::now() < spin_until {
            spin_a_little();
            return Ok(());
        }
        if self.sleep_on_sockets(Some(from), WAIT_SLICE) {
            return Ok(());
        }
        match self.check(&[from]) {
            // As on a ring: what came between the look and the check is read first, an end-of-file
            // included. An abort stays an abort.
            Err(error) => {
                self.check_abort()?;
                let has_arrived = self.sleep_on_sockets(Some(from), Duration::ZERO);
                if has_arrived { Ok(()) } else { Err(error) }
            }
            Ok(()) => Ok(()),
        }
    }

    /// Writes queued spans as far as the kernel takes them; says whether any is left.
    fn flush_streams(&mut self) -> Result<bool, Error> {
        let mut queued = false;
        if !self.has_streams {
            return Ok(false);
        }
        for rank in 0..self.links.len() {
            let Some(Link::Stream(stream)) = &mut self.links[rank] else { continue };
            match stream.flush() {
                Ok(()) => queued |= stream.is_queued(),
                Err(error) => return Err(self.stream_error(rank, "write to", error)),
            }
        }
        Ok(queued)
    }

    /// Sleeps until `from` is readable or a queued stream writable; false after a silent slice.
    fn sleep_on_sockets(&self, from: Option<usize>, slice: Duration) -> bool {
        let mut waits = Vec::with_capacity(self.links.len());
        for (rank, link) in self.links.iter().enumerate() {
            let Some(Link::Stream(stream)) = link else { continue };
            let read = from == Some(rank);
            if read || stream.is_queued() {
                waits.push(sys::poll_entry(stream.as_fd(), read, stream.is_queued()));
            }
        }
        sys::poll(&mut waits, slice)
    }
}

fn spin_a_little() {
    for _ in 0..SPINS_PER_CLOCK {
        std::hint::spin_loop();
    }
}
