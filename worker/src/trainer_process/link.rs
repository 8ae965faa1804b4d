//! The worker's end of the socket to one trainer: a gRPC server with one session.

use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use proto::v1::trainer_link_server::{TrainerLink, TrainerLinkServer};
use proto::v1::{TrainerMessage, WorkerCommand};
use service::{tasks, transport};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

/// Messages that wait for the node; a full queue holds the trainer's sending back, and the
/// trainer drops metrics rather than wait.
const MESSAGES: usize = 64;

/// Serves the session on `socket`; returns what the trainer says, and the serving task, which ends
/// only when it is aborted.
pub(super) fn serve(
    socket: UnixStream,
    commands: mpsc::Receiver<WorkerCommand>,
) -> (mpsc::Receiver<TrainerMessage>, tokio::task::JoinHandle<()>) {
    let (sender, messages) = mpsc::channel(MESSAGES);
    let link = Link { session: Mutex::new(Some((sender, commands))) };
    let service = TrainerLinkServer::new(link)
        .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(transport::MAX_MESSAGE_BYTES);
    let router = transport::server().add_service(service);
    let serving = tasks::spawn(tasks::Kind::Finish, "trainer link", async move {
        if let Err(error) = transport::serve_stream(socket, router).await {
            warn!(error = service::exit::chain(&error), "link to a trainer failed");
        }
    });
    (messages, serving)
}

type Ends = (mpsc::Sender<TrainerMessage>, mpsc::Receiver<WorkerCommand>);

struct Link {
    /// Guards the only session's ends until it begins; held for a take.
    session: Mutex<Option<Ends>>,
}

#[tonic::async_trait]
impl TrainerLink for Link {
    type SessionStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<WorkerCommand, Status>> + Send + 'static>,
    >;

    async fn session(
        &self,
        request: Request<Streaming<TrainerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let taken = self.session.lock().expect("no code panics while it holds this lock").take();
        let Some((sender, commands)) = taken else {
            return Err(Status::already_exists("a trainer has one session"));
        };
        tasks::spawn(tasks::Kind::Finish, "trainer session", forward(request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(commands).map(Ok))))
    }
}

/// Until the trainer closes its side, its socket ends, or nobody listens.
async fn forward(mut from: Streaming<TrainerMessage>, to: mpsc::Sender<TrainerMessage>) {
    loop {
        match from.message().await {
            Ok(Some(message)) => {
                if to.send(message).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                debug!(%status, "session with a trainer broke off");
                return;
            }
        }
    }
}
