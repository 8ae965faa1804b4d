//! Answers probe orders: opens a port where trainers of this node would listen, or connects to those of
//! others. Each end proves that it belongs to the probe, so a port of somebody else is no success.

use std::net::SocketAddr;
use std::time::Duration;

use proto::v1::probe_order::Target;
use proto::v1::probe_report::Reached;
use proto::v1::worker_link_client::WorkerLinkClient;
use proto::v1::{ProbeOrder, ProbeReport};
use service::tasks;
use service::transport::{self, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use crate::network::Door;

/// The port is open for so long: the coordinator waits for all others before anybody connects.
const OPEN_FOR: Duration = Duration::from_secs(12);

/// Connecting and hearing the answer, on a network that works.
const REACHED_WITHIN: Duration = Duration::from_secs(3);

/// The coordinator names fewer.
const MAX_TARGETS: usize = 256;

/// What a probe's id is at most; both ends send it.
const MAX_ID: usize = 64;

/// Who answers.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) door: Door,
    pub(crate) master: String,
}

/// Does what `order` asks for and reports it, as far as the coordinator can be reached.
pub(crate) async fn serve(order: ProbeOrder, node: Node) {
    if order.probe_id.len() > MAX_ID || order.targets.len() > MAX_TARGETS {
        return warn!("a probe that is too large is ignored");
    }
    let mut report = ProbeReport {
        probe_id: order.probe_id.clone(),
        worker: node.name.clone(),
        ..ProbeReport::default()
    };
    if order.targets.is_empty() {
        match open(node.door, &order.probe_id) {
            Ok(address) => report.address = address,
            Err(error) => report.error = format!("listen on {}: {error}", node.door.place()),
        }
    } else {
        report.reached = reach_all(order.targets, &order.probe_id).await;
    }
    if let Err(error) = tell(report, &node.master).await {
        warn!(error = service::exit::chain(&*error), "a probe was not reported");
    }
}

async fn tell(
    report: ProbeReport,
    master: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = transport::connect(master, &Timeouts::default()).await?;
    let mut client = WorkerLinkClient::new(channel);
    timeout(REACHED_WITHIN, client.report_probe(report)).await??;
    Ok(())
}

/// Listens for a while, as a rank would; gives the address that peers are told.
fn open(door: Door, id: &str) -> std::io::Result<String> {
    let listener = door.open()?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let address = SocketAddr::new(door.advertise, listener.local_addr()?.port()).to_string();
    let id = id.to_owned();
    tasks::spawn(tasks::Kind::Finish, "probe", async move {
        let until = Instant::now() + OPEN_FOR;
        // One after the other: an answer is a few bytes, which no peer can hold up.
        while let Ok(accepted) = timeout_at(until, listener.accept()).await {
            let Ok((mut stream, _)) = accepted else { continue };
            // Who has hung up does not want it.
            let _ = timeout(REACHED_WITHIN, stream.write_all(id.as_bytes())).await;
        }
    });
    Ok(address)
}

async fn reach_all(targets: Vec<Target>, id: &str) -> Vec<Reached> {
    let mut reaching = tokio::task::JoinSet::new();
    for Target { worker, address } in targets {
        let id = id.to_owned();
        reaching.spawn(async move {
            let error = reach(&address, &id).await.err().unwrap_or_default();
            Reached { worker, error }
        });
    }
    reaching.join_all().await
}

/// An error is a few words.
async fn reach(address: &str, id: &str) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut said = vec![0; id.len()];
        stream.read_exact(&mut said).await?;
        Ok::<_, std::io::Error>(said)
    };
    match timeout(REACHED_WITHIN, exchange).await {
        Ok(Ok(said)) if said == id.as_bytes() => Ok(()),
        Ok(Ok(_)) => Err("another program answers there".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", REACHED_WITHIN.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    fn target(worker: &str, address: String) -> Target {
        Target { worker: worker.to_owned(), address }
    }

    #[tokio::test]
    async fn who_listens_is_reached_and_who_only_looks_alike_is_not() {
        let door = Network::default().door([127, 0, 0, 1].into());
        let open_here = open(door, "probe-1").unwrap();
        let another = open(door, "probe-2").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let targets =
            vec![target("a", open_here), target("b", another), target("c", closed.to_string())];
        let mut reached = reach_all(targets, "probe-1").await;
        reached.sort_by(|a, b| a.worker.cmp(&b.worker));
        assert_eq!(reached[0].error, "");
        assert_eq!(reached[1].error, "another program answers there");
        assert!(reached[2].error.contains("refused"), "{reached:?}");
    }
}
