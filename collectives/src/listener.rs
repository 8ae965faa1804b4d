//! Where a rank waits for its peers: a TCP port and a local socket, both bound before their
//! addresses are told to anybody, so that a dialer never comes too early.
//!
//! Accepts nobody by itself; `mesh` does, with the token.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as LocalAddress, UnixListener},
    },
};

use crate::ConnectError;

/// The bound sockets of one rank, handed to [`Mesh::connect`](crate::Mesh::connect).
#[derive(Debug)]
pub struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) local: UnixListener,
    address: SocketAddr,
    unix_name: String,
}

/// One row of the rank table, as the rendezvous hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// The rank that listens there.
    pub rank: u32,
    /// Its [`Listener::address`].
    pub address: SocketAddr,
    /// Its [`Listener::unix_name`].
    pub unix_name: String,
    /// The worker it runs on, for error messages.
    pub worker: String,
}

impl Listener {
    /// Binds a free TCP port on `ip` and an abstract unix socket with an unguessable name. The
    /// latter is scoped to the network namespace and leaves no file behind.
    pub fn bind(ip: IpAddr) -> Result<Self, ConnectError> {
        let wanted = SocketAddr::new(ip, 0);
        let bind_error = |source| ConnectError::Bind { address: wanted, source };
        let tcp = TcpListener::bind(wanted).map_err(bind_error)?;
        Self::over(tcp, ip)
    }

    /// Over a port that is bound already. Peers are told its number at `advertise`: another address than
    /// the bound one where the network between translates it.
    pub fn over(tcp: TcpListener, advertise: IpAddr) -> Result<Self, ConnectError> {
        let bind_error =
            |source| ConnectError::Bind { address: SocketAddr::new(advertise, 0), source };
        let port = tcp.local_addr().map_err(bind_error)?.port();
        let address = SocketAddr::new(advertise, port);
        let unix_name = unguessable_name()?;
        let local = local_address(&unix_name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(|source| ConnectError::BindLocal { name: unix_name.clone(), source })?;
        Ok(Self { tcp, local, address, unix_name })
    }

    /// What peers are told, never port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The local socket's name in the abstract namespace, without the leading zero byte.
    #[must_use]
    pub fn unix_name(&self) -> &str {
        &self.unix_name
    }
}

pub(crate) fn local_address(name: &str) -> io::Result<LocalAddress> {
    LocalAddress::from_abstract_name(name.as_bytes())
}

fn unguessable_name() -> Result<String, ConnectError> {
    let mut name = String::from("rustspeed-");
    for byte in crate::random::bytes::<16>()? {
        write!(name, "{byte:02x}").expect("writing to a String cannot fail");
    }
    Ok(name)
}
