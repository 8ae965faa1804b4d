//! Letting the higher ranks in: many connections at once, so that a silent or babbling stranger
//! keeps nobody waiting.
//!
//! Promises: nobody without the token gets past the handshake, and what strangers can hold is
//! bounded in number and time.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use super::{
    Transport,
    handshake::{self, HELLO_BYTES, Hello, PROOF_BYTES, Purpose, Verdict},
    joining::{Joined, Party, SLICE, is_pause, tune},
};
use crate::{
    ConnectError, Listener, MissingPeer,
    link::{Region, sys},
};

/// Handshakes under way at once. The oldest is dropped for a new one: ours take milliseconds.
const PENDING_MAX: usize = 256;

/// A connection that has not proven itself after this long is dropped.
const PENDING_FOR: Duration = Duration::from_secs(5);

/// The peers that were let in, and who is missing.
#[derive(Default)]
pub(super) struct Accepted {
    pub(super) joined: Vec<(u32, Joined)>,
    pub(super) missing: Vec<MissingPeer>,
    pub(super) fatal: Option<ConnectError>,
}

enum Incoming {
    Local(UnixStream),
    Tcp(TcpStream),
}

struct Pending {
    stream: Incoming,
    since: Instant,
    received: Vec<u8>,
    stage: Stage,
}

enum Stage {
    Hello,
    Proof(Hello, blake3::Hash),
}

/// What of one higher rank is there already.
#[derive(Default)]
struct Arrivals {
    memory: Option<Joined>,
    /// Why shared memory could not be set up with it, last.
    failure: Option<io::Error>,
    control: Option<TcpStream>,
    streams: Vec<Option<TcpStream>>,
}

struct Door<'a> {
    party: &'a Party<'a>,
    listener: &'a Listener,
    /// Indexed by rank, empty up to this rank.
    arrivals: Vec<Arrivals>,
    pending: Vec<Pending>,
}

/// Waits for every higher rank until the deadline.
pub(super) fn accept(party: &Party<'_>, listener: &Listener) -> Accepted {
    let streams = || (0..party.config.channels).map(|_| None).collect();
    let arrivals = (0..party.config.world)
        .map(|_| Arrivals { streams: streams(), ..Arrivals::default() })
        .collect();
    let mut door = Door { party, listener, arrivals, pending: Vec::new() };
    let fatal = door.run().err();
    if fatal.is_some() {
        party.give_up();
    }
    door.close(fatal)
}

impl Door<'_> {
    fn run(&mut self) -> Result<(), ConnectError> {
        let nonblocking =
            |source| ConnectError::System { what: "open the door".to_owned(), source };
        self.listener.tcp.set_nonblocking(true).map_err(nonblocking)?;
        self.listener.local.set_nonblocking(true).map_err(nonblocking)?;
        while !self.is_complete() && !self.party.is_over() {
            let mut entries = vec![
                sys::poll_entry(self.listener.tcp.as_fd(), true, false),
                sys::poll_entry(self.listener.local.as_fd(), true, false),
            ];
            entries.extend(
                self.pending
                    .iter()
                    .map(|pending| sys::poll_entry(pending.stream.as_fd(), true, false)),
            );
            sys::poll(&mut entries, SLICE);
            self.let_in();
            self.serve()?;
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let first = self.party.config.rank as usize + 1;
        self.arrivals[first..].iter().all(Arrivals::is_complete)
    }

    /// Takes all that knock now.
    fn let_in(&mut self) {
        // An error of `accept` is that connection's, not ours; the next poll shows what is left.
        while let Ok((stream, _)) = self.listener.tcp.accept() {
            self.admit_unproven(Incoming::Tcp(stream));
        }
        while let Ok((stream, _)) = self.listener.local.accept() {
            self.admit_unproven(Incoming::Local(stream));
        }
    }

    fn admit_unproven(&mut self, stream: Incoming) {
        if stream.prepare().is_err() {
            return;
        }
        if self.pending.len() == PENDING_MAX {
            self.pending.remove(0);
        }
        let since = Instant::now();
        self.pending.push(Pending { stream, since, received: Vec::new(), stage: Stage::Hello });
    }

    /// Moves every handshake on as far as its bytes allow; drops the bad and the slow.
    fn serve(&mut self) -> Result<(), ConnectError> {
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.advance(self.party) {
                Ok(Some(hello)) => self.on_proven(hello, pending.stream)?,
                Ok(None) if pending.since.elapsed() < PENDING_FOR => self.pending.push(pending),
                // A stranger, or a peer that will dial again: either way not ours to report.
                Ok(None) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn on_proven(&mut self, hello: Hello, stream: Incoming) -> Result<(), ConnectError> {
        let config = self.party.config;
        let disagreement = |what, ours: u32, theirs: u32| {
            let (ours, theirs) = (u64::from(ours), u64::from(theirs));
            ConnectError::Disagreement { rank: hello.from, what, ours, theirs }
        };
        if hello.world != config.world {
            stream.answer(Verdict::OtherWorld(config.world));
            return Err(disagreement("world size", config.world, hello.world));
        }
        if hello.channels != config.channels {
            stream.answer(Verdict::OtherChannels(config.channels));
            return Err(disagreement("channels", config.channels, hello.channels));
        }
        if hello.to != config.rank || hello.from <= config.rank || hello.from >= config.world {
            // A rank table mixed up on the other side; it runs into its deadline and says whom it misses.
            return Ok(());
        }
        match (stream, config.transport) {
            (Incoming::Local(stream), Transport::Tcp) => {
                Incoming::Local(stream).answer(Verdict::UseTcp);
                Ok(())
            }
            (Incoming::Local(stream), _) => {
                let joined = self.share_memory(stream);
                let arrivals = &mut self.arrivals[hello.from as usize];
                match joined {
                    Ok(joined) => arrivals.memory = Some(joined),
                    // It died or dials again; its absence gets reported, with this.
                    Err(error) => arrivals.failure = Some(error),
                }
                Ok(())
            }
            (Incoming::Tcp(stream), Transport::SharedMemory) => {
                Incoming::Tcp(stream).answer(Verdict::NeedsSharedMemory);
                Err(self.no_shared_memory(hello.from))
            }
            (Incoming::Tcp(stream), _) => {
                self.on_stream(hello, stream);
                Ok(())
            }
        }
    }

    fn share_memory(&self, mut stream: UnixStream) -> io::Result<Joined> {
        stream.set_nonblocking(false)?;
        stream.write_all(&Verdict::Welcome.encode())?;
        let descriptor = self.party.read_descriptor(&stream)?;
        let region = Region::open(descriptor, self.party.layout)?;
        stream.write_all(&[1])?;
        Ok(Joined::Memory(stream, region))
    }

    fn on_stream(&mut self, hello: Hello, mut stream: TcpStream) {
        let arrivals = &mut self.arrivals[hello.from as usize];
        let place = match hello.purpose {
            Purpose::Control => &mut arrivals.control,
            Purpose::Channel(channel) => match arrivals.streams.get_mut(channel as usize) {
                Some(place) => place,
                None => return,
            },
        };
        let welcomed = stream
            .set_nonblocking(false)
            .and_then(|()| tune(&stream))
            .and_then(|()| stream.write_all(&Verdict::Welcome.encode()));
        // Else the peer is gone or dials again; its absence gets reported.
        if welcomed.is_ok() {
            *place = Some(stream);
        }
    }

    fn no_shared_memory(&self, rank: u32) -> ConnectError {
        let config = self.party.config;
        let row = config.peers.iter().find(|peer| peer.rank == rank);
        let worker = row.map_or_else(String::new, |peer| peer.worker.clone());
        ConnectError::NoSharedMemory { rank, worker, own: config.rank, transport: config.transport }
    }

    fn close(self, fatal: Option<ConnectError>) -> Accepted {
        let mut accepted = Accepted { fatal, ..Accepted::default() };
        let own = self.party.config.rank;
        for (rank, arrivals) in (0..).zip(self.arrivals).filter(|(rank, _)| *rank > own) {
            let reason = arrivals.progress();
            if let Some(joined) = arrivals.into_joined() {
                accepted.joined.push((rank, joined));
            } else if let Some(peer) = self.party.config.peers.iter().find(|peer| peer.rank == rank)
            {
                let (worker, address) = (peer.worker.clone(), peer.address);
                accepted.missing.push(MissingPeer { rank, worker, address, reason });
            }
        }
        accepted
    }
}

impl Pending {
    /// Reads what is there; gives the hello back once its sender has proven the token.
    fn advance(&mut self, party: &Party<'_>) -> io::Result<Option<Hello>> {
        loop {
            let wanted = match self.stage {
                Stage::Hello => HELLO_BYTES,
                Stage::Proof(..) => PROOF_BYTES,
            };
            let mut bytes = [0; HELLO_BYTES];
            match self.stream.read(&mut bytes[..wanted - self.received.len()]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if is_pause(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
            if self.received.len() < wanted {
                continue;
            }
            let received = std::mem::take(&mut self.received);
            match &self.stage {
                Stage::Hello => self.on_hello(party, &received)?,
                Stage::Proof(hello, expected) => {
                    let told = blake3::Hash::from_slice(&received).map_err(io::Error::other)?;
                    let is_genuine = told == *expected;
                    return match is_genuine {
                        true => Ok(Some(*hello)),
                        false => Err(io::ErrorKind::PermissionDenied.into()),
                    };
                }
            }
        }
    }

    fn on_hello(&mut self, party: &Party<'_>, received: &[u8]) -> io::Result<()> {
        let encoded = received.try_into().map_err(io::Error::other)?;
        let hello = Hello::decode(encoded).ok_or(io::ErrorKind::InvalidData)?;
        let (message, expected) =
            handshake::challenge(&party.key, encoded).map_err(io::Error::other)?;
        self.stream.write(&message)?;
        self.stage = Stage::Proof(hello, expected);
        Ok(())
    }
}

impl Arrivals {
    fn is_complete(&self) -> bool {
        let is_streamed = self.control.is_some() && self.streams.iter().all(Option::is_some);
        self.memory.is_some() || is_streamed
    }

    fn progress(&self) -> String {
        let streams = self.streams.iter().flatten().count();
        match self.control {
            Some(_) => format!("connected, but with {streams} of {} streams", self.streams.len()),
            None => match &self.failure {
                Some(error) => format!("shared memory could not be set up: {error}"),
                None => "did not connect".to_owned(),
            },
        }
    }

    fn into_joined(self) -> Option<Joined> {
        if self.memory.is_some() {
            return self.memory;
        }
        let streams = self.streams.into_iter().collect::<Option<_>>()?;
        Some(Joined::Streams(self.control?, streams))
    }
}

impl Incoming {
    /// Reads do not block, and the few bytes that go out fit any socket's buffer.
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Local(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
        }
    }

    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Local(stream) => (&*stream).read(into),
            Self::Tcp(stream) => (&*stream).read(into),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Local(stream) => (&*stream).write_all(bytes),
            Self::Tcp(stream) => (&*stream).write_all(bytes),
        }
    }

    fn answer(&self, verdict: Verdict) {
        // A peer that cannot be told is gone, and nothing depends on its knowing.
        let _ = self.write(&verdict.encode());
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Local(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}
