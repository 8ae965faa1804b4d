//! The control connection: hello, heartbeats and events up, orders down.

use std::time::Duration;

use proto::v1::coordinator_message::Kind;
use proto::v1::worker_link_client::WorkerLinkClient;
use proto::v1::{CoordinatorMessage, WorkerMessage};
use service::exit::chain;
use service::transport::{self, Timeouts};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{LinkEvent, Narrator, OUTBOX, backoff};

/// A coordinator that takes a connection and then says nothing is as good as absent.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);

/// Connects again and again until the node listens no more.
pub(crate) async fn run(master: String, node: mpsc::Sender<LinkEvent>) {
    let mut backoff = backoff();
    let mut narrator = Narrator::new("control", &master);
    for link in 1.. {
        match open(&master, link, &node).await {
            Ok((first, messages)) => {
                if is_welcome(&first) {
                    narrator.up();
                    backoff.reset();
                }
                let why = relay(first, messages, link, &node).await;
                narrator.down(&why);
            }
            Err(why) => narrator.down(&why),
        }
        if node.send(LinkEvent::Down { link }).await.is_err() {
            return;
        }
        tokio::time::sleep(backoff.next_wait_jittered()).await;
    }
}

/// Opens the stream and waits for the answer to the hello; an error is a sentence for the log.
async fn open(
    master: &str,
    link: u64,
    node: &mpsc::Sender<LinkEvent>,
) -> Result<(CoordinatorMessage, Streaming<CoordinatorMessage>), String> {
    let channel =
        transport::connect(master, &Timeouts::default()).await.map_err(|error| chain(&error))?;
    let mut client = WorkerLinkClient::new(channel)
        .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(transport::MAX_MESSAGE_BYTES);
    let local = transport::local_address_towards(master).await.map_err(|error| chain(&error))?;
    let (outbox, outgoing) = mpsc::channel::<WorkerMessage>(OUTBOX);
    node.send(LinkEvent::Up { link, outbox, local }).await.map_err(|_| "the worker is ending")?;
    let opening = async {
        let mut messages = client.control(ReceiverStream::new(outgoing)).await?.into_inner();
        let first = messages.message().await?;
        Ok::<_, tonic::Status>(first.map(|first| (first, messages)))
    };
    match timeout(WELCOME_DEADLINE, opening).await {
        Ok(Ok(Some(opened))) => Ok(opened),
        Ok(Ok(None)) => Err("the coordinator hung up".to_owned()),
        Ok(Err(status)) => Err(status_text(&status)),
        Err(_) => Err(format!("no answer within {} s", WELCOME_DEADLINE.as_secs())),
    }
}

/// Passes messages on until the stream ends; says why it ended.
async fn relay(
    first: CoordinatorMessage,
    mut messages: Streaming<CoordinatorMessage>,
    link: u64,
    node: &mpsc::Sender<LinkEvent>,
) -> String {
    let mut next = Some(first);
    loop {
        if let Some(message) = next.take() {
            let refused = match &message.kind {
                Some(Kind::Refused(refused)) => Some(refused.reason.clone()),
                _ => None,
            };
            if node.send(LinkEvent::Said { link, message }).await.is_err() {
                return "the worker is ending".to_owned();
            }
            if let Some(reason) = refused {
                return reason;
            }
        }
        match messages.message().await {
            Ok(Some(message)) => next = Some(message),
            Ok(None) => return "the coordinator hung up".to_owned(),
            Err(status) => return status_text(&status),
        }
    }
}

fn is_welcome(message: &CoordinatorMessage) -> bool {
    matches!(message.kind, Some(Kind::Welcome(_)))
}

pub(super) fn status_text(status: &tonic::Status) -> String {
    format!("{}: {}", status.code().description(), status.message())
}
