//! A coordinator that says what a test tells it to say and keeps what it hears.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::v1::coordinator_message::Kind as Say;
use proto::v1::worker_link_server::{WorkerLink, WorkerLinkServer};
use proto::v1::worker_message::Kind as Heard;
use proto::v1::{
    BlobChunk, BlobHashes, BulkAck, BulkBatch, CoordinatorMessage, Empty, ProbeReport,
    PutFilesChunk, TrainerEnded, Welcome, WorkerHello, WorkerMessage,
};
use service::{tasks, transport};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// No wait of a test takes longer, unless something is broken.
const DEADLINE: Duration = Duration::from_secs(60);

/// Below those that the kernel hands out for port 0: nobody gets one of them by chance between two
/// who listen there.
const PORTS: &str = "10000-31999";

/// The test's side.
pub(super) struct Coordinator {
    pub(super) address: String,
    heard: mpsc::Receiver<Heard>,
    /// Everything waited for and passed over.
    pub(super) history: Vec<Heard>,
    /// Ends heard while the start of the other ranks was waited for: a short rank may be over first.
    pub(super) early_ends: VecDeque<TrainerEnded>,
    pub(super) shared: Arc<Shared>,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
}

/// What the handlers of the server share with the test.
#[derive(Default)]
pub(super) struct Shared {
    outgoing: Mutex<Option<mpsc::Sender<Result<CoordinatorMessage, Status>>>>,
    pub(super) bulk: Mutex<Vec<BulkBatch>>,
    pub(super) files: Mutex<Vec<PutFilesChunk>>,
    pub(super) blob: Mutex<Vec<u8>>,
    /// Said to the next hellos, one each; then welcome.
    pub(super) answers: Mutex<VecDeque<Say>>,
}

impl Coordinator {
    pub(super) async fn start() -> Self {
        let listener = listener();
        listener.set_nonblocking(true).unwrap();
        Self::serve(tokio::net::TcpListener::from_std(listener).unwrap(), [])
    }

    /// Where another one was, with these answers to the first hellos.
    pub(super) async fn start_at(address: &str, answers: impl IntoIterator<Item = Say>) -> Self {
        Self::serve(transport::bind(address).await.unwrap(), answers)
    }

    fn serve(listener: tokio::net::TcpListener, answers: impl IntoIterator<Item = Say>) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let answers = Mutex::new(answers.into_iter().collect());
        let shared = Arc::new(Shared { answers, ..Shared::default() });
        let (events, heard) = mpsc::channel(1000);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server { shared: Arc::clone(&shared), events };
        let router = transport::server().add_service(WorkerLinkServer::new(server));
        let serving = tasks::spawn(tasks::Kind::Finish, "coordinator", async move {
            let stopped = async { drop(stopped.await) };
            transport::serve(listener, router, stopped).await.unwrap();
        });
        let (history, early_ends) = (Vec::new(), VecDeque::new());
        Self { address, heard, history, early_ends, shared, stop, serving }
    }

    /// As a coordinator's death looks from outside: every connection ends, the port is free.
    pub(super) async fn die(self) -> String {
        self.shared.outgoing.lock().unwrap().take();
        drop(self.heard);
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
        self.address
    }

    pub(super) fn say(&self, kind: Say) {
        let outgoing = self.shared.outgoing.lock().unwrap();
        let message = CoordinatorMessage { kind: Some(kind) };
        outgoing.as_ref().expect("a worker is connected").try_send(Ok(message)).unwrap();
    }

    /// The first message that `pick` takes; others before it are passed over.
    pub(super) async fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Heard) -> Option<T>,
    ) -> T {
        let waiting = async {
            loop {
                let heard = self.heard.recv().await.expect("the server lives");
                self.history.push(heard.clone());
                if let Some(picked) = pick(heard) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
    }

    pub(super) async fn hello(&mut self) -> WorkerHello {
        self.wait("hello", |heard| match heard {
            Heard::Hello(hello) => Some(hello),
            _ => None,
        })
        .await
    }

    pub(super) async fn ended(&mut self) -> TrainerEnded {
        if let Some(end) = self.early_ends.pop_front() {
            return end;
        }
        self.wait("an end", |heard| match heard {
            Heard::TrainerEnded(end) => Some(end),
            _ => None,
        })
        .await
    }

    /// Everything heard and not yet waited for.
    pub(super) fn rest(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }
}

/// On a port that is free to listen on again when it is closed.
pub(super) fn listener() -> TcpListener {
    let ports = Some(PORTS.parse().unwrap());
    common::ports::listen(Ipv4Addr::LOCALHOST.into(), ports, rand::random()).unwrap()
}

pub(super) fn welcome() -> Welcome {
    Welcome { coordinator_incarnation: 1, lease_ms: 5000, heartbeat_ms: 100 }
}

struct Server {
    shared: Arc<Shared>,
    events: mpsc::Sender<Heard>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WorkerLink for Server {
    type ControlStream = ReceiverStream<Result<CoordinatorMessage, Status>>;
    type BulkStream = Answers<BulkAck>;
    type GetBlobStream = Answers<BlobChunk>;

    async fn control(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, answers) = mpsc::channel(100);
        let (events, shared) = (self.events.clone(), Arc::clone(&self.shared));
        tasks::spawn(tasks::Kind::Finish, "control", async move {
            while let Ok(Some(WorkerMessage { kind: Some(kind) })) = messages.message().await {
                if matches!(kind, Heard::Hello(_)) {
                    let answer = shared.answers.lock().unwrap().pop_front();
                    let kind = Some(answer.unwrap_or(Say::Welcome(welcome())));
                    sender.try_send(Ok(CoordinatorMessage { kind })).unwrap();
                    *shared.outgoing.lock().unwrap() = Some(sender.clone());
                }
                if events.send(kind).await.is_err() {
                    break;
                }
            }
            // The worker's side has ended, so ours does too.
            shared.outgoing.lock().unwrap().take();
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn bulk(
        &self,
        request: Request<Streaming<BulkBatch>>,
    ) -> Result<Response<Self::BulkStream>, Status> {
        let shared = Arc::clone(&self.shared);
        let acks = request.into_inner().map(move |batch| {
            let batch = batch?;
            let sequence = batch.sequence;
            shared.bulk.lock().unwrap().push(batch);
            Ok(BulkAck { sequence })
        });
        Ok(Response::new(Box::pin(acks)))
    }

    async fn get_blob(
        &self,
        request: Request<BlobHashes>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let [blake3] = &request.into_inner().blake3[..] else { panic!("one hash at a time") };
        let chunk =
            BlobChunk { blake3: blake3.clone(), data: self.shared.blob.lock().unwrap().clone() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(chunk)))))
    }

    async fn report_probe(&self, _: Request<ProbeReport>) -> Result<Response<Empty>, Status> {
        Err(Status::not_found("nobody probes"))
    }

    async fn put_files(
        &self,
        request: Request<Streaming<PutFilesChunk>>,
    ) -> Result<Response<Empty>, Status> {
        let mut chunks = request.into_inner();
        while let Some(chunk) = chunks.message().await? {
            // The first message only names the fetch.
            if chunk.chunk.is_some() || !chunk.error.is_empty() {
                self.shared.files.lock().unwrap().push(chunk);
            }
        }
        Ok(Response::new(Empty {}))
    }
}

/// Waits until `is_so`; for what is not told by a message.
pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}
