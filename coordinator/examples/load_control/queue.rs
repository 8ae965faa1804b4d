//! A deep queue: many clients fill it with durable submits, then the coordinator is used as
//! before, and killed.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::child::Coordinator;
use crate::phases::{self, Cluster};
use crate::{Outcome, pulse, spec};

/// Clients that submit at once.
const CLIENTS: usize = 64;
/// The queue is as deep as it is after this long.
const FILL: Duration = Duration::from_secs(60);
/// Jobs that are served first, brought to run one after the other.
const URGENT: usize = 20;
/// Workers that join late.
const LATE: usize = 50;

pub(crate) async fn measure(
    cluster: &mut Cluster,
    jobs: usize,
    measured: &mut Map<String, Value>,
) -> Outcome<()> {
    // None of them starts.
    let world = cluster.too_large();
    let submits = submits(&cluster.coordinator, jobs, world).await?;
    measured.insert("submits".to_owned(), submits);
    let before = pulse::buckets(&cluster.coordinator.address).await?;
    let mut client = phases::connect(&cluster.coordinator.address).await?;
    let urgent = phases::starts(&mut client, URGENT, 5).await?;
    measured.insert("deep_start".to_owned(), urgent);
    measured.insert("deep_join".to_owned(), cluster.join(LATE).await?);
    let decisions = pulse::decisions(&cluster.coordinator.address, &before).await?;
    measured.insert("deep_decisions".to_owned(), decisions);
    measured.insert("deep_rss_mib".to_owned(), json!(cluster.coordinator.resident_mib()?));
    measured.insert("deep_restart".to_owned(), cluster.restart().await?);
    Ok(())
}

/// Many clients that submit as fast as they are answered; every answer is durable.
async fn submits(coordinator: &Coordinator, jobs: usize, world: u32) -> Outcome<Value> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(phases::connect(&coordinator.address).await?);
    }
    let began = Instant::now();
    let submitting = futures::stream::iter(clients.into_iter().enumerate().map(
        |(number, mut client)| async move {
            let mut took = Vec::new();
            for job in 0..jobs / CLIENTS {
                let sent = Instant::now();
                if sent - began > FILL {
                    break;
                }
                client.submit(spec::submit(&format!("s{number}-{job}"), world, 0)).await?;
                took.push(sent.elapsed());
            }
            Outcome::Ok(took)
        },
    ));
    let results: Vec<Outcome<Vec<Duration>>> = submitting.buffer_unordered(CLIENTS).collect().await;
    let mut took = Vec::new();
    for result in results {
        took.extend(result?);
    }
    let whole = began.elapsed();
    let mut measured = phases::times(&took, whole);
    measured["per_second"] = json!(took.len() as f64 / whole.as_secs_f64());
    Ok(measured)
}
