use tonic::Code;

use proto::v1;
use proto::v1::coordinator_message::Kind as Order;

use super::cluster::{Cluster, Peer, soon};

async fn probe_order(peer: &mut Peer) -> v1::ProbeOrder {
    match peer.next().await {
        Order::Probe(order) => order,
        other => panic!("not a probe: {other:?}"),
    }
}

async fn report(
    cluster: &Cluster,
    order: &v1::ProbeOrder,
    report: v1::ProbeReport,
) -> Result<(), tonic::Status> {
    let report = v1::ProbeReport { probe_id: order.probe_id.clone(), ..report };
    cluster.worker_client().await.report_probe(report).await.map(drop)
}

fn listens(worker: &str) -> v1::ProbeReport {
    let address = format!("10.0.0.1:{}", worker.len());
    v1::ProbeReport { worker: worker.to_owned(), address, ..Default::default() }
}

/// Says that it reached the first of its targets, and not the second.
fn reached(worker: &str, order: &v1::ProbeOrder) -> v1::ProbeReport {
    let reached = order.targets.iter().zip(["", "refused"]).map(|(target, error)| {
        v1::probe_report::Reached { worker: target.worker.clone(), error: error.to_owned() }
    });
    v1::ProbeReport { worker: worker.to_owned(), reached: reached.collect(), ..Default::default() }
}

#[tokio::test]
async fn every_pair_of_workers_is_told_and_a_silent_one_is_named() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 1).await;
    let mut bb = cluster.join("bb", 1).await;
    let mut ccc = cluster.join("ccc", 1).await;
    let mut mute = cluster.join("mute", 1).await;
    let mut client = cluster.client().await;
    let asking = client.probe_peers(v1::ProbePeersRequest {});
    let answering = async {
        for (peer, name) in [(&mut a, "a"), (&mut bb, "bb"), (&mut ccc, "ccc")] {
            let order = probe_order(peer).await;
            assert!(order.targets.is_empty(), "first they listen: {order:?}");
            report(&cluster, &order, listens(name)).await.unwrap();
        }
        let order = probe_order(&mut mute).await;
        let mut other = cluster.client().await;
        let busy = other.probe_peers(v1::ProbePeersRequest {}).await.unwrap_err();
        assert_eq!(busy.code(), Code::ResourceExhausted, "{busy}");
        for (peer, name) in [(&mut a, "a"), (&mut bb, "bb"), (&mut ccc, "ccc")] {
            let order = probe_order(peer).await;
            let targets: Vec<_> = order.targets.iter().map(|t| t.worker.as_str()).collect();
            assert!(!targets.contains(&name) && targets.len() == 2, "{targets:?}");
            report(&cluster, &order, reached(name, &order)).await.unwrap();
        }
        order
    };
    let (answer, order) = soon("a probe", async { tokio::join!(asking, answering) }).await;
    let answer = answer.unwrap().into_inner();
    let link = |link: &v1::PeerLink| format!("{}->{} {}", link.from, link.to, link.error);
    let links: Vec<String> = answer.links.iter().map(link).collect();
    let expected =
        ["a->bb ", "a->ccc refused", "bb->a ", "bb->ccc refused", "ccc->a ", "ccc->bb refused"];
    assert_eq!(links, expected);
    assert_eq!(answer.links[0].address, "10.0.0.1:2");
    assert_eq!(answer.silent.len(), 1);
    assert_eq!(answer.silent[0].worker, "mute");
    assert!(answer.silent[0].reason.contains("within 3 s"), "{answer:?}");

    let late = report(&cluster, &order, listens("mute")).await.unwrap_err();
    assert_eq!(late.code(), Code::NotFound, "the probe is over: {late}");
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_is_asked_where_there_is_nobody() {
    let cluster = Cluster::start().await;
    let mut client = cluster.client().await;
    let answer = client.probe_peers(v1::ProbePeersRequest {}).await.unwrap().into_inner();
    assert_eq!(answer, v1::ProbePeersResponse::default());
    let info = client.get_info(v1::InfoRequest {}).await.unwrap().into_inner();
    let now = crate::clock::unix_millis();
    assert!(now.abs_diff(info.time_ms) < 60_000, "its clock: {info:?}");
    cluster.stop().await;
}
