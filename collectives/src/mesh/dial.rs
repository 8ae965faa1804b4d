//! Reaching one lower rank: over its local socket where that can be reached, else over TCP.
//!
//! Tries again until the deadline, because a peer may be slow to come; gives up at once on what
//! waiting does not cure.

use std::{
    io,
    net::TcpStream,
    os::{fd::AsFd as _, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

use super::{
    Transport,
    handshake::{self, Hello, Purpose, Verdict},
    joining::{Joined, Party, TimedStream, send_descriptor, tune},
};
use crate::{ConnectError, MissingPeer, PeerAddress, link::Region, listener::local_address};

/// Between two tries: short beside any start of a process, long beside a refused connection.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why one peer was not reached.
pub(super) enum DialError {
    Missing(MissingPeer),
    Fatal(ConnectError),
}

enum Trouble {
    /// Worth another try.
    Passing(&'static str, io::Error),
    Fatal(ConnectError),
    /// The acceptor does not share memory.
    UseTcp,
}

/// Connects to `peer` on all channels before the deadline.
pub(super) fn dial(party: &Party<'_>, peer: &PeerAddress) -> Result<Joined, DialError> {
    // What the last try met is told, unless an earlier one met a stranger: that explains more.
    let mut stranger = None;
    loop {
        let (what, error) = match try_dial(party, peer) {
            Ok(joined) => return Ok(joined),
            Err(Trouble::Fatal(error)) => {
                party.give_up();
                return Err(DialError::Fatal(error));
            }
            Err(Trouble::Passing(what, error)) => (what, error),
            Err(Trouble::UseTcp) => unreachable!("handled where the local socket is tried"),
        };
        if error.kind() == io::ErrorKind::PermissionDenied {
            stranger = Some(format!("{what}: {error}"));
        }
        if party.is_over() {
            let PeerAddress { rank, address, worker, .. } = peer.clone();
            let reason = stranger.unwrap_or_else(|| match error.kind() {
                io::ErrorKind::TimedOut => format!("{what}: no answer"),
                _ => format!("{what}: {error}"),
            });
            return Err(DialError::Missing(MissingPeer { rank, worker, address, reason }));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

fn try_dial(party: &Party<'_>, peer: &PeerAddress) -> Result<Joined, Trouble> {
    let config = party.config;
    let hello = Hello::new(config.rank, peer.rank, config.world, config.channels)
        .map_err(Trouble::Fatal)?;
    if config.transport != Transport::Tcp && !peer.unix_name.is_empty() {
        match dial_local(party, peer, hello) {
            Err(Trouble::UseTcp) => {}
            other => return other,
        }
    }
    if config.transport == Transport::SharedMemory {
        // Only a peer that is there can fail to share memory; another is late or gone.
        connect_tcp(party, peer)?;
        return Err(Trouble::Fatal(no_shared_memory(party, peer)));
    }
    let control = dial_tcp(party, peer, hello)?;
    let streams = (0..config.channels)
        .map(|channel| {
            let hello = hello.again(Purpose::Channel(channel)).map_err(Trouble::Fatal)?;
            dial_tcp(party, peer, hello)
        })
        .collect::<Result<_, _>>()?;
    Ok(Joined::Streams(control, streams))
}

/// Shared memory, or `UseTcp` if the name is not of this network namespace or the peer declines.
fn dial_local(party: &Party<'_>, peer: &PeerAddress, hello: Hello) -> Result<Joined, Trouble> {
    let connected = local_address(&peer.unix_name).and_then(|at| UnixStream::connect_addr(&at));
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(Trouble::UseTcp);
        }
        Err(error) => return Err(Trouble::Passing("connect to its local socket", error)),
    };
    introduce(party, peer, hello, &mut stream)?;
    let passing = |error| Trouble::Passing("share memory", error);
    let (region, descriptor) = Region::create(party.layout).map_err(|source| {
        let what = format!("make shared memory for rank {}", peer.rank);
        Trouble::Fatal(ConnectError::System { what, source })
    })?;
    send_descriptor(&stream, descriptor.as_fd()).map_err(passing)?;
    let [_] = party.read(&mut stream).map_err(passing)?;
    Ok(Joined::Memory(stream, region))
}

fn dial_tcp(party: &Party<'_>, peer: &PeerAddress, hello: Hello) -> Result<TcpStream, Trouble> {
    let mut stream = connect_tcp(party, peer)?;
    introduce(party, peer, hello, &mut stream)?;
    Ok(stream)
}

fn connect_tcp(party: &Party<'_>, peer: &PeerAddress) -> Result<TcpStream, Trouble> {
    let passing = |error| Trouble::Passing("connect", error);
    let left = party.deadline.saturating_duration_since(Instant::now());
    let left = left.max(Duration::from_millis(1));
    let stream = TcpStream::connect_timeout(&peer.address, left).map_err(passing)?;
    tune(&stream).map_err(passing)?;
    Ok(stream)
}

fn introduce(
    party: &Party<'_>,
    peer: &PeerAddress,
    hello: Hello,
    stream: &mut impl TimedStream,
) -> Result<(), Trouble> {
    let passing = |error| Trouble::Passing("handshake", error);
    let encoded = hello.encode();
    stream.write_all(&encoded).map_err(passing)?;
    let challenge = party.read(stream).map_err(passing)?;
    let Some(proof) = handshake::prove(&party.key, &encoded, &challenge) else {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, "it has another token");
        return Err(passing(error));
    };
    stream.write_all(&proof).map_err(passing)?;
    let verdict = Verdict::decode(party.read(stream).map_err(passing)?);
    let disagreement = |what, ours: u32, theirs: u32| {
        let (ours, theirs) = (u64::from(ours), u64::from(theirs));
        Trouble::Fatal(ConnectError::Disagreement { rank: peer.rank, what, ours, theirs })
    };
    let config = party.config;
    match verdict {
        Some(Verdict::Welcome) => Ok(()),
        Some(Verdict::UseTcp) => Err(Trouble::UseTcp),
        Some(Verdict::NeedsSharedMemory) => Err(Trouble::Fatal(no_shared_memory(party, peer))),
        Some(Verdict::OtherWorld(world)) => Err(disagreement("world size", config.world, world)),
        Some(Verdict::OtherChannels(channels)) => {
            Err(disagreement("channels", config.channels, channels))
        }
        None => Err(passing(io::ErrorKind::InvalidData.into())),
    }
}

fn no_shared_memory(party: &Party<'_>, peer: &PeerAddress) -> ConnectError {
    let PeerAddress { rank, worker, .. } = peer.clone();
    let (own, transport) = (party.config.rank, party.config.transport);
    ConnectError::NoSharedMemory { rank, worker, own, transport }
}
