//! Worlds of threads: every rank a mesh of its own over loopback, as processes would have.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use crate::{ConnectError, Listener, Mesh, MeshConfig, PeerAddress, Transport};

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// No healthy operation here takes a hundredth of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What need not wait for [`PATIENCE`] to end is over by then, on a machine with other work, too.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// A world to be.
#[derive(Clone)]
pub(super) struct World {
    size: u32,
    /// Indexed by rank.
    transports: Vec<Transport>,
    channels: u32,
    connect_timeout: Duration,
    collective_timeout: Duration,
}

impl World {
    pub(super) fn new(size: u32, transport: Transport) -> Self {
        Self {
            size,
            transports: vec![transport; size as usize],
            channels: 1,
            connect_timeout: PATIENCE,
            collective_timeout: PATIENCE,
        }
    }

    /// Every second rank insists on TCP, so both kinds of link are in use from three ranks on.
    pub(super) fn mixed(size: u32) -> Self {
        let mut world = Self::new(size, Transport::Auto);
        world.transports.iter_mut().skip(1).step_by(2).for_each(|own| *own = Transport::Tcp);
        world
    }

    /// Shared memory, TCP and both.
    pub(super) fn all_kinds(size: u32) -> [Self; 3] {
        let memory = Self::new(size, Transport::SharedMemory);
        [memory, Self::new(size, Transport::Tcp), Self::mixed(size)]
    }

    pub(super) fn channels(self, channels: u32) -> Self {
        Self { channels, ..self }
    }

    pub(super) fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    pub(super) fn collective_timeout(self, collective_timeout: Duration) -> Self {
        Self { collective_timeout, ..self }
    }

    /// Bound listeners and the configurations that name them.
    pub(super) fn plan(&self) -> Vec<(Listener, MeshConfig)> {
        let listeners: Vec<Listener> =
            (0..self.size).map(|_| Listener::bind(LOOPBACK).unwrap()).collect();
        let peers: Vec<PeerAddress> = (0..)
            .zip(&listeners)
            .map(|(rank, listener)| PeerAddress {
                rank,
                address: listener.address(),
                unix_name: listener.unix_name().to_owned(),
                worker: format!("worker-{rank}"),
            })
            .collect();
        (0..)
            .zip(listeners)
            .map(|(rank, listener)| {
                let config = MeshConfig {
                    rank,
                    world: self.size,
                    token: *b"sixteen byte key",
                    peers: peers.clone(),
                    transport: self.transports[rank as usize],
                    connect_timeout: self.connect_timeout,
                    collective_timeout: self.collective_timeout,
                    channels: self.channels,
                    has_own_cores: false,
                };
                (listener, config)
            })
            .collect()
    }

    /// Connects every rank on a thread of its own.
    pub(super) fn try_connect(&self) -> Vec<Result<Mesh, ConnectError>> {
        connect_all(self.plan())
    }

    pub(super) fn connect(&self) -> Vec<Mesh> {
        self.try_connect().into_iter().map(Result::unwrap).collect()
    }

    /// Runs `rank_main` on every rank and collects what they return, in rank order. A rank's mesh
    /// and communicators go when it returns.
    pub(super) fn run<T: Send>(&self, rank_main: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
        run_all(self.connect(), rank_main)
    }
}

pub(super) fn connect_all(plan: Vec<(Listener, MeshConfig)>) -> Vec<Result<Mesh, ConnectError>> {
    thread::scope(|scope| {
        let ranks: Vec<_> = plan
            .into_iter()
            .map(|(listener, config)| scope.spawn(|| Mesh::connect(Some(listener), config)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

pub(super) fn run_all<T: Send>(meshes: Vec<Mesh>, rank_main: impl Fn(Mesh) -> T + Sync) -> Vec<T> {
    let rank_main = &rank_main;
    thread::scope(|scope| {
        let ranks: Vec<_> =
            meshes.into_iter().map(|mesh| scope.spawn(move || rank_main(mesh))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What `act` returns, and how long it took.
pub(super) fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = act();
    (value, start.elapsed())
}
