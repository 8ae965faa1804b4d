//! Every gRPC connection is made and accepted here: deadlines, HTTP/2 keep-alive, no Nagle delay.
//! Knows nothing of what is said over it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::exit::ExitCode;
use common::help::{IN_USE, UNREACHABLE};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, UdpSocket, UnixStream};
use tokio_stream::StreamExt as _;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Channel, Endpoint, Server};

/// One message may be this large: a job file with its DeepSpeed configuration, a batch of logs.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// After the stop was asked for, open streams get this long to end before they are dropped.
const SERVE_GRACE: Duration = Duration::from_secs(1);

/// Flow-control windows: large enough that files move at the network's speed.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("address `{address}` is not HOST:PORT")]
    Address { address: String },
    #[error("connect to `{address}`")]
    Connect {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("connect to `{address}`: no answer within {} s", .after.as_secs_f64())]
    ConnectTimeout { address: String, after: Duration },
    #[error("listen on `{address}`")]
    Bind {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("find the way to `{address}`")]
    Route {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("use the inherited socket")]
    Inherited {
        #[source]
        source: io::Error,
    },
    #[error("open a connection on the inherited socket")]
    InheritedConnect {
        #[source]
        source: tonic::transport::Error,
    },
    #[error("serve on `{address}`")]
    Serve {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
}

impl Error {
    /// Whether trying again later can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Route { .. })
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Address { .. } => ExitCode::Usage,
            Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Route { .. } => {
                ExitCode::CoordinatorUnreachable
            }
            _ => ExitCode::Failed,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Address { .. } => Some("write it as 192.168.1.100:29500".to_owned()),
            Self::Connect { address, .. } | Self::ConnectTimeout { address, .. } => Some(format!(
                "is the coordinator running, and is {address} its address? see {UNREACHABLE}"
            )),
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(format!("another process listens there; choose another port; see {IN_USE}"))
            }
            _ => None,
        }
    }
}

/// How long a connection may be silent at its several stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connect and HTTP/2 handshake.
    pub connect: Duration,
    /// One request, where it is not a stream; None: the caller sets it per request.
    pub request: Option<Duration>,
    /// A ping after this much silence.
    pub keep_alive: Duration,
    /// The connection is dead when a ping is not answered within this time.
    pub keep_alive_timeout: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            request: None,
            keep_alive: Duration::from_secs(5),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// Connects to `HOST:PORT` and waits until the connection stands.
pub async fn connect(address: &str, timeouts: &Timeouts) -> Result<Channel, Error> {
    let endpoint = endpoint(address, timeouts)?;
    #[expect(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    let connecting = endpoint.connect();
    match tokio::time::timeout(timeouts.connect, connecting).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(source)) => Err(Error::Connect { address: address.to_owned(), source }),
        Err(_) => {
            Err(Error::ConnectTimeout { address: address.to_owned(), after: timeouts.connect })
        }
    }
}

/// A channel that connects at its first request, and again after a loss.
pub fn connect_lazy(address: &str, timeouts: &Timeouts) -> Result<Channel, Error> {
    Ok(endpoint(address, timeouts)?.connect_lazy())
}

/// Checks that `address` reads as `HOST:PORT`.
pub fn check_address(address: &str) -> Result<(), Error> {
    endpoint(address, &Timeouts::default()).map(drop)
}

fn endpoint(address: &str, timeouts: &Timeouts) -> Result<Endpoint, Error> {
    let malformed = || Error::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    let port: u16 = port.parse().map_err(|_| malformed())?;
    let bare_ipv6 = host.contains(':') && !host.starts_with('[');
    if host.is_empty() || bare_ipv6 || port == 0 || host.contains(['/', '@', ' ']) {
        return Err(malformed());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| malformed())?;
    Ok(tuned(endpoint, timeouts))
}

fn tuned(endpoint: Endpoint, timeouts: &Timeouts) -> Endpoint {
    let endpoint = endpoint
        .connect_timeout(timeouts.connect)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(timeouts.keep_alive)
        .keep_alive_timeout(timeouts.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    match timeouts.request {
        Some(request) => endpoint.timeout(request),
        None => endpoint,
    }
}

/// The address that this machine uses towards `address`: what `--advertise` is by default. Sends
/// nothing: connecting a datagram socket only asks the routing table.
pub async fn local_address_towards(address: &str) -> Result<IpAddr, Error> {
    check_address(address)?;
    let failed = |source| Error::Route { address: address.to_owned(), source };
    let targets: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(failed)?.collect();
    let target = *targets.first().ok_or_else(|| {
        failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
    })?;
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    socket.connect(target).await.map_err(failed)?;
    Ok(socket.local_addr().map_err(failed)?.ip())
}

/// Speaks gRPC as the client over an already connected socket, such as an inherited one. The
/// channel never reconnects: when the socket ends, so does every stream on it.
pub async fn connect_stream(
    stream: std::os::unix::net::UnixStream,
    timeouts: &Timeouts,
) -> Result<Channel, Error> {
    let stream = into_tokio(stream)?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotConnected, "the inherited socket has ended")
        });
        async move { stream }
    });
    // The name is never resolved; HTTP/2 wants an authority.
    let endpoint = tuned(Endpoint::from_static("http://inherited.invalid"), timeouts);
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|source| Error::InheritedConnect { source })
}

/// Listens on `HOST:PORT`; port 0 takes a free one.
pub async fn bind(address: &str) -> Result<TcpListener, Error> {
    let failed = |source| Error::Bind { address: address.to_owned(), source };
    let nowhere = || io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    let mut last = None;
    for found in tokio::net::lookup_host(address).await.map_err(failed)? {
        match listen(found) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(failed(last.unwrap_or_else(nowhere)))
}

/// Connections that may wait until somebody serves them: all workers' of a coordinator that replays
/// its store. One that finds no room is tried again after 1, 3 and 7 s by its kernel. Ours bounds
/// this by `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As tokio's own: the port of a life that was killed may linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A server with our keep-alive and windows; add services to it and pass it to [`serve`].
pub fn server() -> Server {
    let timeouts = Timeouts::default();
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(timeouts.keep_alive))
        .http2_keepalive_timeout(Some(timeouts.keep_alive_timeout))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// Serves until `shutdown` resolves; streams still open then are dropped after a short grace.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let address = listener.local_addr().map(|a| a.to_string()).unwrap_or_default();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async {
        shutdown.await;
        // The receiver lives until the serving future below is done.
        let _ = stopping.send(());
    };
    let serving = router.serve_with_incoming_shutdown(incoming, signal);
    tokio::select! {
        result = serving => result.map_err(|source| Error::Serve { address, source }),
        () = async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SERVE_GRACE).await;
        } => Ok(()),
    }
}

/// Speaks gRPC as the server over one connected socket. Resolves only on failure: drop it when the
/// process at the other end is gone; the connection itself lives until either end closes.
pub async fn serve_stream(
    stream: std::os::unix::net::UnixStream,
    router: Router,
) -> Result<(), Error> {
    let stream = into_tokio(stream)?;
    // One connection and then no end: tonic would stop serving it when the incoming stream ends.
    let incoming = tokio_stream::once(Ok::<_, io::Error>(stream)).chain(tokio_stream::pending());
    let address = || "inherited socket".to_owned();
    router
        .serve_with_incoming(incoming)
        .await
        .map_err(|source| Error::Serve { address: address(), source })
}

fn into_tokio(stream: std::os::unix::net::UnixStream) -> Result<UnixStream, Error> {
    let inherited = |source| Error::Inherited { source };
    stream.set_nonblocking(true).map_err(inherited)?;
    UnixStream::from_std(stream).map_err(inherited)
}
