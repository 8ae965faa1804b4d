//! The bulk connection: batches up, acknowledgements down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use common::ids::WorkerId;
use proto::v1::BulkBatch;
use proto::v1::worker_link_client::WorkerLinkClient;
use service::exit::chain;
use service::transport::{self, Timeouts};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::control::status_text;
use super::{Narrator, backoff};
use crate::spool::Spool;

/// Batches on the way; more would only fill buffers.
const IN_FLIGHT: usize = 8;

/// Values are gathered for so long before they leave together.
const GATHER: Duration = Duration::from_millis(100);

/// Sent batches that are not acknowledged within this time mean a dead connection.
const ACK_DEADLINE: Duration = Duration::from_secs(10);

/// Sends what the spool holds, forever.
pub(crate) async fn run(master: String, worker: WorkerId, spool: Arc<Spool>) {
    let mut backoff = backoff();
    let mut narrator = Narrator::new("bulk", &master);
    loop {
        // No connection before there is something to say.
        while spool.is_empty() {
            spool.wake.notified().await;
        }
        match open(&master).await {
            Ok((outgoing, acks)) => {
                narrator.up();
                let (why, is_acknowledged) = pump(outgoing, acks, worker, &spool).await;
                narrator.down(&why);
                if is_acknowledged {
                    backoff.reset();
                }
            }
            Err(why) => narrator.down(&why),
        }
        tokio::time::sleep(backoff.next_wait_jittered()).await;
    }
}

type Acks = Streaming<proto::v1::BulkAck>;

async fn open(master: &str) -> Result<(mpsc::Sender<BulkBatch>, Acks), String> {
    let channel =
        transport::connect(master, &Timeouts::default()).await.map_err(|error| chain(&error))?;
    let mut client =
        WorkerLinkClient::new(channel).max_encoding_message_size(transport::MAX_MESSAGE_BYTES);
    let (sender, outgoing) = mpsc::channel(2);
    let deadline = Instant::now() + ACK_DEADLINE;
    match timeout_at(deadline, client.bulk(ReceiverStream::new(outgoing))).await {
        Ok(Ok(answer)) => Ok((sender, answer.into_inner())),
        Ok(Err(status)) => Err(status_text(&status)),
        Err(_) => Err(format!("no answer within {} s", ACK_DEADLINE.as_secs())),
    }
}

/// Sends and takes acknowledgements until the connection fails; says why, and whether anything
/// was acknowledged. Cancel-safe: unacknowledged batches stay in the spool.
async fn pump(
    outgoing: mpsc::Sender<BulkBatch>,
    mut acks: Acks,
    worker: WorkerId,
    spool: &Spool,
) -> (String, bool) {
    let mut sent = 0;
    let mut in_flight = VecDeque::new();
    let mut is_acknowledged = false;
    let mut ack_deadline = None;
    loop {
        while in_flight.len() < IN_FLIGHT
            && let Some(batch) = spool.next_after(sent)
        {
            sent = batch.sequence;
            in_flight.push_back(sent);
            ack_deadline.get_or_insert(Instant::now() + ACK_DEADLINE);
            let uuid = worker.uuid.to_string();
            let batch = BulkBatch { uuid, incarnation: worker.incarnation.0, ..batch };
            if outgoing.send(batch).await.is_err() {
                return ("the coordinator hung up".to_owned(), is_acknowledged);
            }
        }
        let late = ack_deadline.unwrap_or_else(|| Instant::now() + ACK_DEADLINE);
        tokio::select! {
            ack = acks.message() => match ack {
                Ok(Some(ack)) => {
                    spool.acknowledge(ack.sequence);
                    in_flight.retain(|sequence| *sequence > ack.sequence);
                    is_acknowledged = true;
                    ack_deadline =
                        (!in_flight.is_empty()).then(|| Instant::now() + ACK_DEADLINE);
                }
                Ok(None) => return ("the coordinator hung up".to_owned(), is_acknowledged),
                Err(status) => return (status_text(&status), is_acknowledged),
            },
            () = spool.wake.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep_until(late), if ack_deadline.is_some() => {
                let why = format!("no acknowledgement within {} s", ACK_DEADLINE.as_secs());
                return (why, is_acknowledged);
            }
        }
    }
}
