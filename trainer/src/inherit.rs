//! What comes from the worker by way of the process itself: the socket, and how to leave.

#![expect(unsafe_code, reason = "an inherited descriptor is a bare number, and _exit is C")]

use std::io::{self, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use common::exit::ExitCode;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

/// Set by the worker: the number of the inherited socket.
const LINK_FD: &str = "RUSTSPEED_LINK_FD";

/// Standard input, output and error.
const FIRST_OWN_FD: RawFd = 3;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{LINK_FD} is not set")]
    Unset,
    #[error("{LINK_FD} is `{value}`, which is no descriptor of a socket to a worker")]
    NotASocket { value: String },
    #[error("use the inherited socket")]
    Io {
        #[source]
        source: io::Error,
    },
}

/// The socket to the worker. Call it once, before anything else opens files.
pub(crate) fn socket() -> Result<UnixStream, Error> {
    let value = std::env::var(LINK_FD).map_err(|_| Error::Unset)?;
    let not_a_socket = || Error::NotASocket { value: value.clone() };
    let number: RawFd = value.parse().map_err(|_| not_a_socket())?;
    if number < FIRST_OWN_FD {
        return Err(not_a_socket());
    }
    // SAFETY: the number names an open descriptor or fcntl says so below; it came to us through
    // exec, nothing else in this process knows of it, and this function is called once.
    let stream = unsafe { UnixStream::from_raw_fd(number) };
    // Checked before anything can drop (and so close) a number that is not ours.
    let is_stream = fcntl(&stream, FcntlArg::F_GETFD).is_ok()
        && getsockopt(&stream, sockopt::SockType) == Ok(SockType::Stream);
    if !is_stream {
        std::mem::forget(stream);
        return Err(not_a_socket());
    }
    // Processes that this one may start shall not hold the link open.
    fcntl(&stream, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|errno| Error::Io { source: errno.into() })?;
    Ok(stream)
}

/// Ends the process without running libtorch's destructors: they may wait for threads that still
/// compute, and everything that matters is on disk or reported by now.
pub(crate) fn leave(code: ExitCode) -> ! {
    // There is nobody left to tell that the last line was lost.
    let _ = io::stdout().flush();
    let _ = io::stderr().flush();
    // SAFETY: _exit takes any code and does not return.
    unsafe { libc::_exit(code as i32) }
}
