use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use proto::v1;
use proto::v1::worker_message::Kind;

use super::cluster::{Cluster, hello, soon};

#[tokio::test]
async fn garbage_on_the_port_ends_its_own_connection_only() {
    let cluster = Cluster::start().await;
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 65_536][..],
        // A good preface, then a frame of 16 MB that never comes.
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04\x00\x00\x00\x00\x00"[..],
    ] {
        let mut socket = TcpStream::connect(&cluster.address).await.unwrap();
        // The coordinator may hang up before it has taken everything.
        let _ = socket.write_all(garbage).await;
        let mut answer = Vec::new();
        let ended = soon("the connection ends", socket.read_to_end(&mut answer)).await;
        assert!(ended.is_err() || answer.len() < 1024);
    }
    cluster.client().await.get_info(v1::InfoRequest {}).await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn an_oversized_message_is_refused_by_its_size() {
    let cluster = Cluster::start().await;
    let request = v1::SubmitRequest { job_toml: "x".repeat(17 << 20), ..Default::default() };
    let mut client = cluster.client().await.max_encoding_message_size(64 << 20);
    let status = client.submit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    client.get_info(v1::InfoRequest {}).await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn a_worker_stream_that_does_not_begin_with_a_good_hello_is_refused() {
    let cluster = Cluster::start().await;
    let mut client = cluster.worker_client().await;
    let heartbeat = Kind::Heartbeat(v1::Heartbeat { time_ms: 1, ..Default::default() });
    let mut nameless = hello("a", 1);
    nameless.name = "a b\n".to_owned();
    let mut strange = hello("a", 1);
    strange.device = "tpu".to_owned();
    let mut vast = hello("a", 1);
    vast.slots = 1_000_000;
    let mut unknown = hello("a", 1);
    unknown.uuid = "me".to_owned();
    let hellos = [nameless, strange, vast, unknown].map(Kind::Hello);
    for first in [heartbeat].into_iter().chain(hellos) {
        let message = v1::WorkerMessage { kind: Some(first) };
        let status = client.control(tokio_stream::iter([message])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert!(client.control(tokio_stream::iter([])).await.is_err());
    let workers = cluster.client().await.list_workers(v1::ListWorkersRequest {}).await;
    assert!(workers.unwrap().into_inner().workers.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn a_worker_that_speaks_nonsense_loses_its_stream_and_may_come_back() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    a.say(Kind::TrainerReady(v1::TrainerReady {
        job_id: "../../x".to_owned(),
        ..Default::default()
    }))
    .await;
    assert!(a.is_ended().await);
    cluster.join("a", 1).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_second_worker_under_a_live_name_is_refused() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let mut thief = hello("a", 1);
    thief.uuid = super::cluster::uuid("thief");
    let mut first = cluster.say_hello(thief.clone()).await;
    let v1::coordinator_message::Kind::Refused(refused) = first.next().await else {
        panic!("not refused")
    };
    assert!(refused.is_retryable);
    assert!(first.is_ended().await);
    assert!(matches!(a.next().await, v1::coordinator_message::Kind::Ping(_)));
    a.say(Kind::Heartbeat(v1::Heartbeat { time_ms: 1, ..Default::default() })).await;
    let refused = soon("the refusal is for good", async {
        loop {
            let mut again = cluster.say_hello(thief.clone()).await;
            let v1::coordinator_message::Kind::Refused(refused) = again.next().await else {
                panic!("not refused")
            };
            if !refused.is_retryable {
                return refused;
            }
        }
    })
    .await;
    assert!(refused.reason.contains("--name"), "{}", refused.reason);
    cluster.stop().await;
}
