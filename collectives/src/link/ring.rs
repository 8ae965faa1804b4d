//! A byte ring between one writer and one reader, in memory that two processes may share.
//!
//! Promises: what was published is read whole, in order, with at most one sleeper on each side and
//! no lost wake-up. Trusts the peer's counters only as far as memory safety allows: a counter out of
//! range is cut to the ring.

#![expect(unsafe_code, reason = "memory shared with another process")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering, fence},
    },
    time::Duration,
};

use super::{Region, Span, sys};

/// The counters of one ring, each on cache lines of its own (two: the prefetcher fetches pairs).
/// They count bytes modulo 2^32; the ring's size is a power of two far below that.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Control {
    written: Counter,
    read: Counter,
}

#[repr(C, align(128))]
#[derive(Debug)]
struct Counter {
    value: AtomicU32,
    /// Set by the side that sleeps on `value`, so that the other side calls the kernel only then.
    sleeper: AtomicU32,
}

/// Both directions between two ranks.
#[derive(Debug)]
pub(crate) struct Duplex {
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
}

/// The side that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    region: Arc<Region>,
    ring: usize,
    written: u32,
    published: u32,
    /// The peer's last seen counter, so that its cache line is fetched only when room seems short.
    read: u32,
}

/// The side that reads.
#[derive(Debug)]
pub(crate) struct Reader {
    region: Arc<Region>,
    ring: usize,
    read: u32,
    /// The peer's last seen counter.
    written: std::cell::Cell<u32>,
}

impl Writer {
    pub(super) fn new(region: Arc<Region>, ring: usize) -> Self {
        Self { region, ring, written: 0, published: 0, read: 0 }
    }

    /// Room for this many bytes.
    pub(crate) fn free(&mut self) -> usize {
        self.read = self.region.control(self.ring).read.value.load(Ordering::Acquire);
        self.known_free()
    }

    /// Copies as much of `span` as there is room for. Not visible before `publish`.
    pub(crate) fn write(&mut self, span: Span) -> usize {
        if self.known_free() < span.len() {
            self.free();
        }
        let count = span.len().min(self.known_free());
        let at = self.written as usize & (self.region.ring_bytes() - 1);
        // SAFETY: `at` is below the ring's size and `count` at most that, so the range lies in the
        // double mapping; the reader does not look at unpublished bytes, and the span is readable
        // (its maker vouches) and outside this memory.
        unsafe {
            let target = self.region.ring_start(self.ring).as_ptr().add(at);
            let source = span.range(0, count).as_slice();
            std::ptr::copy_nonoverlapping(source.as_ptr(), target, count);
        }
        self.written = self.written.wrapping_add(count as u32);
        count
    }

    /// Shows what was written to the reader and wakes it if it sleeps.
    pub(crate) fn publish(&mut self) {
        if self.published != self.written {
            self.published = self.written;
            self.region.control(self.ring).written.advance(self.written);
        }
    }

    /// Sleeps until the reader makes room, at most `slice`.
    pub(crate) fn sleep(&mut self, slice: Duration) {
        self.region.control(self.ring).read.sleep(self.read, slice);
    }

    fn known_free(&self) -> usize {
        let used = self.written.wrapping_sub(self.read) as usize;
        self.region.ring_bytes().saturating_sub(used)
    }
}

impl Reader {
    pub(super) fn new(region: Arc<Region>, ring: usize) -> Self {
        Self { region, ring, read: 0, written: std::cell::Cell::new(0) }
    }

    /// This many bytes can be viewed.
    pub(crate) fn available(&self) -> usize {
        let written = self.region.control(self.ring).written.value.load(Ordering::Acquire);
        self.written.set(written);
        (written.wrapping_sub(self.read) as usize).min(self.region.ring_bytes())
    }

    /// The next `len` bytes; `available` has shown that they are there.
    pub(crate) fn view(&self, len: usize) -> &[u8] {
        let known = self.written.get().wrapping_sub(self.read) as usize;
        assert!(len <= known.min(self.region.ring_bytes()), "a view covers published bytes only");
        let at = self.read as usize & (self.region.ring_bytes() - 1);
        // SAFETY: the range lies in the double mapping, and the writer leaves published bytes alone
        // until `release`.
        unsafe {
            let start = self.region.ring_start(self.ring).as_ptr().add(at);
            std::slice::from_raw_parts(start, len)
        }
    }

    /// Gives the room of the next `len` bytes back and wakes the writer if it sleeps.
    pub(crate) fn release(&mut self, len: usize) {
        self.read = self.read.wrapping_add(len as u32);
        self.region.control(self.ring).read.advance(self.read);
    }

    /// Sleeps until the writer publishes, at most `slice`.
    pub(crate) fn sleep(&self, slice: Duration) {
        self.region.control(self.ring).written.sleep(self.written.get(), slice);
    }
}

impl Counter {
    fn advance(&self, value: u32) {
        self.value.store(value, Ordering::Release);
        // Orders the store before the look at `sleeper`; pairs with the fence in `sleep`: either the
        // sleeper sees the new value or we see the sleeper.
        fence(Ordering::SeqCst);
        // Only the sleeper clears its mark: cleared here, it could be lost between two of its sleeps.
        if self.sleeper.load(Ordering::Relaxed) != 0 {
            sys::futex_wake(&self.value);
        }
    }

    fn sleep(&self, seen: u32, slice: Duration) {
        self.sleeper.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.value.load(Ordering::Acquire) == seen {
            sys::futex_wait(&self.value, seen, slice);
        }
        self.sleeper.store(0, Ordering::Relaxed);
    }
}
