use std::time::Duration;

use common::exit::ExitCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::codegen::{Service as _, http};
use tonic::transport::Channel;

use crate::transport::{self, Error, Timeouts};

/// For what is refused; what must succeed has the usual time.
fn quick() -> Timeouts {
    Timeouts { connect: Duration::from_millis(300), ..Timeouts::default() }
}

#[tokio::test]
async fn addresses_that_are_not_host_and_port_are_refused_before_any_connection() {
    for address in ["", "host", "host:", ":1", "host:99999", "::1:29500", "a b:1", "host:0"] {
        let error = transport::connect(address, &quick()).await.unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{address}: {error:?}");
        assert_eq!(error.exit_code(), ExitCode::Usage);
    }
    transport::check_address("[::1]:29500").unwrap();
    transport::check_address("node-1.local:29500").unwrap();
}

#[tokio::test]
async fn nobody_listening_is_a_retryable_unreachable_coordinator() {
    let free = transport::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let error = transport::connect(&free, &quick()).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(error.exit_code(), ExitCode::CoordinatorUnreachable);
    assert!(error.to_string().contains(&free));
}

#[tokio::test]
async fn the_address_towards_loopback_is_loopback_and_needs_no_listener() {
    let address = transport::local_address_towards("127.0.0.1:9").await.unwrap();
    assert!(address.is_loopback(), "{address}");
    transport::local_address_towards("127.0.0.1").await.unwrap_err();
}

#[tokio::test]
async fn a_taken_port_is_named_with_a_hint() {
    let held = transport::bind("127.0.0.1:0").await.unwrap();
    let address = held.local_addr().unwrap().to_string();
    let error = transport::bind(&address).await.unwrap_err();
    assert!(error.to_string().contains(&address));
    assert!(error.hint().unwrap().contains("another process"));
}

#[tokio::test]
async fn a_crowd_gets_in_before_anybody_serves_it() {
    const CROWD: usize = 400;
    let listener = transport::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // A connection for which there is no room is tried again by the kernel after a second.
    let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(900));
    let crowd: Vec<_> = (0..CROWD).map(connect).collect::<Result<_, _>>().unwrap();
    assert_eq!(crowd.len(), CROWD);
}

#[tokio::test]
async fn a_server_survives_garbage_and_stops_when_told() {
    let listener = transport::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let router = transport::server().add_routes(tonic::service::Routes::default());
    let shutdown = async {
        // The sender is dropped only after the send.
        stopped.await.unwrap();
    };
    let serving = transport::serve(listener, router, shutdown);
    let talk = async {
        let mut garbage = tokio::net::TcpStream::connect(address).await.unwrap();
        garbage.write_all(&[0xff; 4096]).await.unwrap();
        let mut rest = Vec::new();
        // A reset and an orderly end are both refusals.
        let _ = garbage.read_to_end(&mut rest).await;
        transport::connect(&address.to_string(), &Timeouts::default()).await.unwrap();
        // A connection that stays open does not hold the server up.
        let idle = tokio::net::TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        idle
    };
    let both = async { tokio::join!(serving, talk).0 };
    tokio::time::timeout(Duration::from_secs(10), both).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_inherited_socket_carries_a_channel_and_its_end_is_seen() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let cut = theirs.try_clone().unwrap();
    let router = transport::server().add_routes(tonic::service::Routes::default());
    let server = crate::tasks::spawn(
        crate::tasks::Kind::Finish,
        "test server",
        transport::serve_stream(theirs, router),
    );
    let channel = transport::connect_stream(ours, &Timeouts::default()).await.unwrap();
    let answered = ask(channel.clone()).await.unwrap();
    assert_eq!(answered.headers()["grpc-status"], "12", "an answer, though of no such service");
    cut.shutdown(std::net::Shutdown::Both).unwrap();
    ask(channel).await.unwrap_err();
    server.abort();
}

async fn ask(
    mut channel: Channel,
) -> Result<http::Response<tonic::body::Body>, tonic::transport::Error> {
    let request = http::Request::post("http://inherited.invalid/a.B/C")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::empty())
        .unwrap();
    let asked = async {
        std::future::poll_fn(|context| channel.poll_ready(context)).await?;
        channel.call(request).await
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap()
}
