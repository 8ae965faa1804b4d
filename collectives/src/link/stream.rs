//! One channel's TCP stream to one peer: non-blocking, with a queue of spans to write and a bounded
//! buffer of bytes read ahead.
//!
//! Never waits; `link` decides when to poll, so that all streams move while one is waited for and
//! two ranks that send much to each other cannot block each other.

#![expect(unsafe_code, reason = "spans into callers' buffers")]

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::Span;
use crate::header;

/// What one read fetches at least when something is awaited: small messages come with one call.
const READ_AHEAD: usize = 16 << 10;

/// Pieces that are read at once while contributions stream in.
const PIECES_AHEAD: usize = 4;

/// Pieces of one vectored write; more would rarely fit the socket's buffer.
const WRITE_PIECES: usize = 8;

/// A connected stream.
#[derive(Debug)]
pub(crate) struct StreamLink {
    stream: TcpStream,
    queue: VecDeque<Queued>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

#[derive(Debug)]
enum Queued {
    Header { bytes: [u8; header::BYTES], sent: usize },
    Span(Span),
}

impl StreamLink {
    /// `view_max` is the largest piece that will be viewed at once.
    pub(crate) fn new(stream: TcpStream, view_max: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let buffer = vec![0; PIECES_AHEAD * view_max.max(READ_AHEAD)].into_boxed_slice();
        Ok(Self { stream, queue: VecDeque::new(), buffer, start: 0, end: 0 })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn queue_header(&mut self, bytes: [u8; header::BYTES]) {
        self.queue.push_back(Queued::Header { bytes, sent: 0 });
    }

    /// The caller keeps the span's bytes valid and unchanged until the queue is empty.
    pub(crate) fn queue(&mut self, span: Span) {
        if span.len() > 0 {
            self.queue.push_back(Queued::Span(span));
        }
    }

    pub(crate) fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn forget_queue(&mut self) {
        self.queue.clear();
    }

    /// Writes queued bytes until the queue is empty or the kernel takes no more.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let pieces: [IoSlice<'_>; WRITE_PIECES] = std::array::from_fn(|at| {
                IoSlice::new(self.queue.get(at).map_or(&[], Queued::bytes))
            });
            match (&self.stream).write_vectored(&pieces) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.dequeue(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn available(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn view(&self, len: usize) -> &[u8] {
        assert!(len <= self.available(), "a view covers bytes that arrived");
        &self.buffer[self.start..self.start + len]
    }

    pub(crate) fn release(&mut self, len: usize) {
        assert!(len <= self.available(), "released bytes were viewed before");
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads towards `wanted` viewable bytes. Zero means that nothing is there now.
    pub(crate) fn fill(&mut self, wanted: usize) -> io::Result<usize> {
        // A large view is one of many; what else comes with it ends in this buffer anyway.
        let goal = if wanted > READ_AHEAD { self.buffer.len() } else { READ_AHEAD };
        assert!(wanted <= goal, "views are at most as large as the buffer was made for");
        if self.start + goal > self.buffer.len() && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.start + goal;
        if self.end >= room {
            return Ok(0);
        }
        let count = read_some(&self.stream, &mut self.buffer[self.end..room])?;
        self.end += count;
        Ok(count)
    }

    /// Reads bytes to where they belong. Zero means that nothing is there now.
    ///
    /// # Safety
    /// `into` is valid for writes and not borrowed elsewhere during the call.
    pub(crate) unsafe fn read_into(&mut self, into: Span) -> io::Result<usize> {
        let ahead = self.available().min(into.len());
        if ahead > 0 {
            // SAFETY: forwarded from the caller; the buffer is ours and lies elsewhere.
            unsafe { into.range(0, ahead).fill_from(self.view(ahead)) };
            self.release(ahead);
            return Ok(ahead);
        }
        // SAFETY: forwarded from the caller.
        read_some(&self.stream, unsafe { into.as_slice_mut() })
    }

    fn dequeue(&mut self, mut count: usize) {
        while count > 0 {
            let head = self.queue.front_mut().expect("the kernel took bytes that were queued");
            let rest = head.bytes().len();
            if count < rest {
                head.advance(count);
                return;
            }
            count -= rest;
            self.queue.pop_front();
        }
    }
}

impl Queued {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Header { bytes, sent } => &bytes[*sent..],
            // SAFETY: `Fabric::send`'s caller keeps the bytes valid and unchanged until `finish`.
            Self::Span(span) => unsafe { span.as_slice() },
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Header { sent, .. } => *sent += count,
            Self::Span(span) => *span = span.range(count, span.len()),
        }
    }
}

fn read_some(mut stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(into) {
            Ok(0) if !into.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
