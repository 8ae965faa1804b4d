//! What dialing and accepting have in common: the party, its deadline, timed reads, and what a
//! finished connection to a peer consists of.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::TcpStream,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt,
};

use super::{MeshConfig, handshake::Key};
use crate::link::{Region, RegionLayout};

/// How long a blocked read goes without a look at the deadline and the other connections' fate.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// A silent TCP peer is probed after this long...
const KEEPALIVE_IDLE_SECONDS: u32 = 5;
/// ... this often ...
const KEEPALIVE_INTERVAL_SECONDS: u32 = 2;
/// ... and given up after so many silent probes: eleven seconds in all.
const KEEPALIVE_PROBES: u32 = 3;
/// Sent bytes that nobody acknowledges for this long end the connection, too.
const USER_TIMEOUT_MILLISECONDS: u32 = 15_000;

/// This rank while it connects.
pub(super) struct Party<'a> {
    pub(super) config: &'a MeshConfig,
    pub(super) key: Key,
    pub(super) layout: RegionLayout,
    pub(super) deadline: Instant,
    /// Set when one connection met an error that waiting does not cure.
    pub(super) is_hopeless: AtomicBool,
}

/// A peer, reached.
#[derive(Debug)]
pub(super) enum Joined {
    /// Over one local socket and shared memory.
    Memory(UnixStream, Arc<Region>),
    /// Over a control connection and one stream per channel.
    Streams(TcpStream, Vec<TcpStream>),
}

/// A stream whose reads can be given a time limit.
pub(super) trait TimedStream: io::Read + io::Write {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()>;
}

impl TimedStream for TcpStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
}

impl TimedStream for UnixStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }
}

impl Party<'_> {
    pub(super) fn is_over(&self) -> bool {
        self.is_hopeless.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    pub(super) fn give_up(&self) {
        self.is_hopeless.store(true, Ordering::Relaxed);
    }

    /// Reads `N` bytes before the deadline.
    pub(super) fn read<const N: usize>(
        &self,
        stream: &mut impl TimedStream,
    ) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        stream.limit_reads(Some(SLICE))?;
        while filled < N {
            match stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if is_pause(&error) && !self.is_over() => {}
                Err(error) if is_pause(&error) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
        stream.limit_reads(None)?;
        Ok(bytes)
    }

    /// Reads one byte and the descriptor that comes with it before the deadline.
    pub(super) fn read_descriptor(&self, stream: &UnixStream) -> io::Result<OwnedFd> {
        stream.limit_reads(Some(SLICE))?;
        let descriptor = loop {
            match receive_descriptor(stream) {
                Err(error) if is_pause(&error) && !self.is_over() => {}
                Err(error) if is_pause(&error) => return Err(io::ErrorKind::TimedOut.into()),
                other => break other?,
            }
        };
        stream.limit_reads(None)?;
        Ok(descriptor)
    }
}

/// No Nagle, and a peer whose machine vanished is noticed. Buffers are left to the kernel: it grows
/// them to several megabytes by itself, where an explicit size would be capped far lower.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &USER_TIMEOUT_MILLISECONDS)?;
    Ok(())
}

/// Sends one byte with a descriptor.
pub(super) fn send_descriptor(stream: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let bytes = [IoSlice::new(&[1])];
    sendmsg::<()>(stream.as_raw_fd(), &bytes, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

#[expect(unsafe_code, reason = "received descriptors are plain numbers until owned")]
fn receive_descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            let mut owned = descriptors.into_iter().map(|descriptor| {
                // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
                unsafe { OwnedFd::from_raw_fd(descriptor) }
            });
            if let Some(first) = owned.next() {
                return Ok(first);
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor came with the message"))
}

pub(super) fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
