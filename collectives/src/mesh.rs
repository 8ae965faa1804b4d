//! The links of one rank to all others, made once per attempt.
//!
//! Promises: `connect` returns by its deadline with everybody connected and proven, or with the names
//! of those who are missing; a peer that dies later, or aborts, ends what is in flight here; a peer
//! that leaves in peace only ends what needs it. The last of [`Mesh`] and its [`Communicator`]s to be
//! dropped takes leave of the peers; a process that exits without dropping them looks to its peers
//! like one that died. Does not find peers: the rendezvous hands out the table.

mod accept;
mod dial;
mod handshake;
mod joining;
pub(crate) mod notice;
pub(crate) mod shared;
mod watch;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use self::{
    accept::Accepted,
    dial::DialError,
    handshake::Key,
    joining::{Joined, Party},
    notice::Notice,
    shared::{Control, Fault, Shared},
    watch::Watcher,
};
use crate::{
    Communicator, ConnectError, Error, Listener, PeerAddress,
    link::{End, Fabric, Link, RegionLayout, StreamLink},
    schedule,
};

/// Rings and streams are made for every channel at once; nobody needs more.
const CHANNELS_MAX: u32 = 16;

/// How long a wait polls before it sleeps, when every rank of this machine can have a core: a
/// sleeper's wake-up costs some 30 to 50 microseconds, so polling about that long loses at most half.
const SPIN: Duration = Duration::from_micros(50);

/// How two ranks may reach each other. A pair uses TCP if either end says `Tcp`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Shared memory where the peer's abstract unix socket can be reached, else TCP.
    #[default]
    Auto,
    /// Shared memory or an error.
    SharedMemory,
    /// TCP, also inside a node.
    Tcp,
}

/// All that a rank must know to join.
#[derive(Clone)]
pub struct MeshConfig {
    /// This rank.
    pub rank: u32,
    /// How many ranks there are.
    pub world: u32,
    /// The secret of this attempt; who cannot prove it is not let in.
    pub token: [u8; 16],
    /// Every rank's address; this rank's own row may be present and is ignored.
    pub peers: Vec<PeerAddress>,
    /// How to reach them.
    pub transport: Transport,
    /// The deadline of `connect`.
    pub connect_timeout: Duration,
    /// The deadline of every operation.
    pub collective_timeout: Duration,
    /// Independent communicators to prepare, at most 16.
    pub channels: u32,
    /// Whether this rank has cores that nobody else computes on: it may wait there as busily as it
    /// likes, however few the process sees.
    pub has_own_cores: bool,
}

/// How one peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerPath {
    /// The peer.
    pub rank: u32,
    /// Its worker.
    pub worker: String,
    /// `SharedMemory` or `Tcp`, never `Auto`.
    pub transport: Transport,
}

/// The connected ranks.
#[derive(Debug)]
pub struct Mesh {
    life: Arc<Life>,
    paths: Vec<PeerPath>,
    spin: Duration,
    /// The channels not taken yet; the lock is held for the taking only.
    channels: Mutex<Vec<Option<Vec<Option<Link>>>>>,
}

/// Ends the mesh from outside.
#[derive(Debug, Clone)]
pub struct AbortHandle {
    shared: Arc<Shared>,
}

/// Held by the mesh and all its communicators: the last one takes leave.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    watcher: Mutex<Option<Watcher>>,
}

impl Mesh {
    /// Connects to every peer and returns when all are there. A rank dials the ranks below it and
    /// lets those above it in, so only the highest rank may come without a listener.
    pub fn connect(listener: Option<Listener>, config: MeshConfig) -> Result<Self, ConnectError> {
        config.check(listener.is_some())?;
        let party = Party {
            config: &config,
            key: Key::new(&config.token),
            layout: RegionLayout::new(config.world, config.channels),
            deadline: Instant::now() + config.connect_timeout,
            is_hopeless: AtomicBool::new(false),
        };
        let joined = meet(&party, listener.as_ref())?;
        let own_ip = listener.map(|listener| listener.address().ip());
        let neighbours = config.peers.iter().filter(|peer| {
            let is_local = matches!(joined.get(&peer.rank), Some(Joined::Memory(..)));
            peer.rank != config.rank && (is_local || Some(peer.address.ip()) == own_ip)
        });
        let spin = default_spin(neighbours.count() + 1, config.has_own_cores);
        Self::assemble(&config, joined, spin)
    }

    /// A world of one.
    #[must_use]
    pub fn solo(channels: u32) -> Self {
        let shared = Shared::new(0, Duration::MAX, vec![None], &[]);
        let life = Life { shared: Arc::new(shared), watcher: Mutex::new(None) };
        Self {
            life: Arc::new(life),
            paths: Vec::new(),
            spin: Duration::ZERO,
            channels: Mutex::new((0..channels).map(|_| Some(vec![None])).collect()),
        }
    }

    /// The communicator of a channel; each can be taken once.
    pub fn communicator(&self, channel: u32) -> Result<Communicator, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let count = channels.len() as u32;
        let links = channels
            .get_mut(channel as usize)
            .ok_or(Error::NoSuchChannel { channel, channels: count })?
            .take()
            .ok_or(Error::ChannelTaken { channel })?;
        let fabric = Fabric::new(links, Arc::clone(&self.life.shared), self.spin);
        Ok(Communicator::new(fabric, Arc::clone(&self.life), channel))
    }

    /// A handle that ends every operation from any thread.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { shared: Arc::clone(&self.life.shared) }
    }

    /// The path to each peer, in rank order.
    #[must_use]
    pub fn describe(&self) -> Vec<PeerPath> {
        self.paths.clone()
    }

    fn assemble(
        config: &MeshConfig,
        joined: BTreeMap<u32, Joined>,
        spin: Duration,
    ) -> Result<Self, ConnectError> {
        let system = |what: &str| {
            let what = what.to_owned();
            move |source: io::Error| ConnectError::System { what, source }
        };
        let world = config.world as usize;
        let mut controls: Vec<Option<Control>> = (0..world).map(|_| None).collect();
        let mut channels: Vec<Vec<Option<Link>>> =
            (0..config.channels).map(|_| (0..world).map(|_| None).collect()).collect();
        let mut transports = BTreeMap::new();
        for (rank, joined) in joined {
            let place = rank as usize;
            match joined {
                Joined::Memory(control, region) => {
                    let end = if rank < config.rank { End::Dialer } else { End::Acceptor };
                    for (channel, links) in channels.iter_mut().enumerate() {
                        links[place] = Some(Link::Memory(region.duplex(channel, end)));
                    }
                    controls[place] = Some(Control::Local(control));
                    transports.insert(rank, Transport::SharedMemory);
                }
                Joined::Streams(control, streams) => {
                    for (links, stream) in channels.iter_mut().zip(streams) {
                        let link = StreamLink::new(stream, schedule::piece(config.world))
                            .map_err(system("prepare a peer's stream"))?;
                        links[place] = Some(Link::Stream(link));
                    }
                    controls[place] = Some(Control::Tcp(control));
                    transports.insert(rank, Transport::Tcp);
                }
            }
        }
        let shared =
            Arc::new(Shared::new(config.rank, config.collective_timeout, controls, &config.peers));
        let watcher = match transports.is_empty() {
            true => None,
            false => Some(Watcher::spawn(&shared).map_err(system("start the watcher thread"))?),
        };
        let paths = transports
            .into_iter()
            .map(|(rank, transport)| PeerPath { rank, worker: shared.worker(rank), transport })
            .collect();
        Ok(Self {
            life: Arc::new(Life { shared, watcher: Mutex::new(watcher) }),
            paths,
            spin,
            channels: Mutex::new(channels.into_iter().map(Some).collect()),
        })
    }
}

impl AbortHandle {
    /// Makes every operation in flight and every later one return `Aborted`, here and on all peers.
    /// The first fault wins: after another one this changes nothing.
    pub fn abort(&self, reason: &str) {
        self.shared.abort(reason);
    }

    /// Why the mesh has ended, if it has: for whoever waits for something beside it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let of = |fault| match fault {
            Fault::Aborted { reason, .. } => reason,
            Fault::PeerLost { rank } => format!("lost rank {rank}"),
        };
        self.shared.fault().map(of)
    }
}

impl Shared {
    /// Ends the mesh with this reason, and tells the peers.
    pub(crate) fn abort(&self, reason: &str) {
        if self.trip(Fault::Aborted { by: None, reason: reason.to_owned() }) {
            self.tell_all(&Notice::Aborted { reason: reason.to_owned() });
        }
    }

    /// Ends the mesh because of a peer's death, and tells the others, who may not have noticed: the
    /// peer left in peace while this rank still needed it.
    pub(crate) fn lose(&self, rank: u32) {
        if self.trip(Fault::PeerLost { rank }) {
            self.tell_all(&Notice::PeerLost { rank });
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // A panicking rank does not leave in peace: its peers shall see a lost peer.
        if !thread::panicking() {
            self.shared.tell_all(&Notice::Goodbye);
        }
        self.shared.hang_up();
        let watcher = self.watcher.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watcher) = watcher {
            watcher.join();
        }
    }
}

impl std::fmt::Debug for MeshConfig {
    /// All but the token, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rank, world, peers, transport, channels, .. } = self;
        f.debug_struct("MeshConfig")
            .field("rank", rank)
            .field("world", world)
            .field("peers", peers)
            .field("transport", transport)
            .field("connect_timeout", &self.connect_timeout)
            .field("collective_timeout", &self.collective_timeout)
            .field("channels", channels)
            .finish_non_exhaustive()
    }
}

impl MeshConfig {
    fn check(&self, has_listener: bool) -> Result<(), ConnectError> {
        let wrong = |key, value: &dyn ToString, expected: String| {
            Err(ConnectError::Config { key, value: value.to_string(), expected })
        };
        if self.rank >= self.world {
            return wrong("rank", &self.rank, format!("less than world = {}", self.world));
        }
        if self.channels == 0 || self.channels > CHANNELS_MAX {
            return wrong("channels", &self.channels, format!("1 to {CHANNELS_MAX}"));
        }
        let mut rows = vec![0; self.world as usize];
        for peer in &self.peers {
            match rows.get_mut(peer.rank as usize) {
                Some(count) => *count += 1,
                None => {
                    let expected = format!("ranks less than world = {}", self.world);
                    return wrong("peers", &format!("a row for rank {}", peer.rank), expected);
                }
            }
        }
        for (rank, count) in (0..self.world).zip(rows) {
            if rank != self.rank && count != 1 {
                let value = format!("{count} rows for rank {rank}");
                return wrong("peers", &value, "one row for every other rank".to_owned());
            }
        }
        if !has_listener && self.rank + 1 < self.world {
            let expected = "a listener on every rank but the highest".to_owned();
            return wrong("listener", &"none", expected);
        }
        Ok(())
    }
}

/// Dials the lower ranks and lets the higher ones in, all at once.
fn meet(
    party: &Party<'_>,
    listener: Option<&Listener>,
) -> Result<BTreeMap<u32, Joined>, ConnectError> {
    let config = party.config;
    let (accepted, dialed) = thread::scope(|scope| {
        let dials: Vec<_> = config
            .peers
            .iter()
            .filter(|peer| peer.rank < config.rank)
            .map(|peer| (peer.rank, scope.spawn(|| dial::dial(party, peer))))
            .collect();
        let accepted = listener.map(|listener| accept::accept(party, listener)).unwrap_or_default();
        let dialed: Vec<_> = dials
            .into_iter()
            .map(|(rank, dial)| (rank, dial.join().expect("dialing does not panic")))
            .collect();
        (accepted, dialed)
    });
    let Accepted { joined, mut missing, mut fatal } = accepted;
    let mut all: BTreeMap<u32, Joined> = joined.into_iter().collect();
    for (rank, dialed) in dialed {
        match dialed {
            Ok(joined) => drop(all.insert(rank, joined)),
            Err(DialError::Missing(peer)) => missing.push(peer),
            Err(DialError::Fatal(error)) => fatal = fatal.or(Some(error)),
        }
    }
    match fatal {
        Some(error) => Err(error),
        None if missing.is_empty() => Ok(all),
        None => {
            missing.sort_by_key(|peer| peer.rank);
            Err(ConnectError::Missing { missing, after: config.connect_timeout })
        }
    }
}

fn default_spin(ranks_here: usize, has_own_cores: bool) -> Duration {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if has_own_cores || ranks_here <= cores { SPIN } else { Duration::ZERO }
}
