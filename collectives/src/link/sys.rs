//! The system calls that std and nix do not wrap: futexes, polls, and the twice-mapped ring.

#![expect(unsafe_code, reason = "system calls")]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::AtomicU32,
    time::Duration,
};

/// Sleeps while `word` holds `expected`, at most `slice`. Returns on any wake-up; the caller looks
/// again. The futex is not private: the other side may be another process.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, slice: Duration) {
    let timeout = libc::timespec {
        tv_sec: slice.as_secs().cast_signed(),
        tv_nsec: i64::from(slice.subsec_nanos()),
    };
    // SAFETY: the word and the timespec live through the call; the kernel only reads them.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        )
    };
}

/// Wakes the one sleeper on `word`.
pub(crate) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word lives through the call; the kernel does not touch its value.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

pub(crate) fn poll_entry(fd: BorrowedFd<'_>, read: bool, write: bool) -> libc::pollfd {
    let events = if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 };
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// An entry that is never ready: the kernel skips negative descriptors.
pub(crate) fn ignored_entry() -> libc::pollfd {
    libc::pollfd { fd: -1, events: 0, revents: 0 }
}

/// Waits until an entry is ready, at most `slice`. False if none was; an interrupted wait counts as
/// ready, so that the caller looks for itself.
pub(crate) fn poll(entries: &mut [libc::pollfd], slice: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: slice.as_secs().cast_signed(),
        tv_nsec: i64::from(slice.subsec_nanos()),
    };
    let count = entries.len() as libc::nfds_t;
    // SAFETY: the entries and the timespec live through the call.
    let ready =
        unsafe { libc::ppoll(entries.as_mut_ptr(), count, &raw const timeout, ptr::null()) };
    ready != 0
}

/// A mapping of a file, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is memory; the ring's protocol decides who touches which byte when.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, `copies` times in a row, so that a ring's wrapped
    /// bytes can be seen in one piece.
    pub(crate) fn new(
        file: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        copies: usize,
    ) -> io::Result<Self> {
        let total = len * copies;
        let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: asks for fresh addresses; nothing existing is touched.
        let start = unsafe { libc::mmap(ptr::null_mut(), total, libc::PROT_NONE, reserve, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(io::Error::last_os_error)?;
        let mapping = Self { start, len: total };
        for copy in 0..copies {
            // SAFETY: the address lies inside the reservation that this value owns.
            let at = unsafe { start.as_ptr().add(copy * len) }.cast();
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_SHARED | libc::MAP_FIXED;
            let offset = offset as libc::off_t;
            // SAFETY: MAP_FIXED replaces pages of our own reservation only.
            let mapped = unsafe { libc::mmap(at, len, access, kind, file.as_raw_fd(), offset) };
            if mapped == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(mapping)
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nobody keeps pointers beyond the owner's life.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
