//! The gRPC front: converts at the door, asks the loop or the files, converts back. Decides
//! nothing.

mod clients;
mod explain;
mod files;
mod follow;
mod logs;
mod peers;
mod pools;
mod queue;
mod seen;
mod workers;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha as alpha;

use common::ids::{Incarnation, JobId};
use proto::convert;
use proto::v1::coordinator_server::CoordinatorServer;
use proto::v1::worker_link_server::WorkerLinkServer;

use crate::archive::Archive;
use crate::blobs::{self, Blobs};
use crate::core::{Handle, Stopping};
use crate::fetch::Fetches;
use crate::http::{self, Pages};
use crate::metrics::Metrics;
use crate::permit::Permit;
use crate::probes::Probes;
use crate::slurm::Site;
use crate::vitals::{self, Vitals};

use self::seen::Seen;

/// A client that connects has this long to say what it wants.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait for a reader; a slow one slows its own stream, nothing else.
const STREAM_QUEUE: usize = 4;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves clients and workers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    core: Handle,
    archive: Archive,
    blobs: Blobs,
    fetches: Fetches,
    probes: Probes,
    seen: Arc<Seen>,
    info: Arc<Info>,
    /// Streams end at once when the process stops: clients come back to the next life.
    stop: CancellationToken,
}

/// Who this coordinator is.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) incarnation: Incarnation,
    pub(crate) address: SocketAddr,
    pub(crate) vitals: Vitals,
    pub(crate) metrics: Metrics,
    /// Who may have programs of their own run.
    pub(crate) permit: Permit,
    /// What batch scripts say of this coordinator.
    pub(crate) site: Site,
}

impl Front {
    pub(crate) fn new(core: Handle, archive: Archive, blobs: Blobs, info: Info) -> Self {
        Self {
            core,
            archive,
            blobs,
            fetches: Fetches::default(),
            probes: Probes::default(),
            seen: Arc::default(),
            info: Arc::new(info),
            stop: CancellationToken::new(),
        }
    }

    /// Ends every stream when cancelled.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Both services with their message bounds, health and reflection for gRPC tools, and the
    /// pages for HTTP ones. Starts the watch over the control loop.
    pub(crate) fn router(self) -> Router {
        let max = service::transport::MAX_MESSAGE_BYTES;
        let Info { vitals, metrics, .. } = &*self.info;
        let (health, health_service) = tonic_health::server::health_reporter();
        let watch = vitals::watch(
            self.core.clone(),
            vitals.clone(),
            metrics.clone(),
            health,
            self.stop.clone(),
        );
        service::tasks::spawn(service::tasks::Kind::Finish, "vitals", watch);
        let pages =
            Pages { core: self.core.clone(), vitals: vitals.clone(), metrics: metrics.clone() };
        let clients = CoordinatorServer::new(self.clone())
            .max_decoding_message_size(max)
            .max_encoding_message_size(max);
        let workers = WorkerLinkServer::new(self)
            .max_decoding_message_size(max)
            .max_encoding_message_size(max);
        let mut grpc = Routes::new(clients).add_service(workers).add_service(health_service);
        match reflection() {
            Ok((v1, v1alpha)) => grpc = grpc.add_service(v1).add_service(v1alpha),
            Err(error) => tracing::error!(%error, "no reflection: the descriptors are damaged"),
        }
        let router = http::router(grpc.into_axum_router(), pages);
        service::transport::server().accept_http1(true).add_routes(router.into())
    }

    fn known_job(&self, text: &str) -> Result<JobId, Status> {
        let job_id = convert::job_id(text).map_err(|error| malformed(&error))?;
        match self.core.views().is_known(&job_id) {
            true => Ok(job_id),
            false => Err(no_such_job(&job_id)),
        }
    }
}

/// The last word of a stream that the coordinator's own end cuts off.
fn say_stopping<T>(sender: &mpsc::Sender<Result<T, Status>>) {
    // A client whose queue is full sees the connection end instead.
    let _ = sender.try_send(Err(Stopping.into()));
}

fn boxed<T: Send + 'static>(receiver: mpsc::Receiver<Result<T, Status>>) -> BoxStream<T> {
    Box::pin(ReceiverStream::new(receiver))
}

/// A message that means nothing to us.
fn malformed(error: &convert::Error) -> Status {
    Status::invalid_argument(service::exit::chain(error))
}

fn no_such_job(job_id: &JobId) -> Status {
    Status::not_found(format!("there is no job `{job_id}`"))
}

impl From<Stopping> for Status {
    fn from(stopping: Stopping) -> Self {
        Status::unavailable(stopping.to_string())
    }
}

impl From<blobs::Error> for Status {
    fn from(error: blobs::Error) -> Self {
        let text = service::exit::chain(&error);
        match error {
            blobs::Error::Hash(_) => Status::invalid_argument(text),
            blobs::Error::TooLarge => Status::resource_exhausted(text),
            blobs::Error::Mismatch { .. } => Status::data_loss(text),
            blobs::Error::Io(_) => internal("keep a blob", &error),
        }
    }
}

impl From<crate::archive::Error> for Status {
    fn from(error: crate::archive::Error) -> Self {
        match error {
            crate::archive::Error::Stopped => Status::unavailable(error.to_string()),
            crate::archive::Error::Io(_) => internal("keep metrics and logs", &error),
        }
    }
}

/// A fault of ours or of our disk: the log has the whole chain, the client what it concerns.
fn internal(what: &str, error: &(dyn std::error::Error + 'static)) -> Status {
    let chain = service::exit::chain(error);
    tracing::error!(what, error = chain, "request failed");
    Status::internal(format!("the coordinator could not {what}: {chain}"))
}

/// Runs blocking file work off the async threads.
async fn blocking<T, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|error| internal("read or write files", &error))
}

/// Both versions of gRPC reflection: tools ask for either.
fn reflection() -> Result<
    (
        ServerReflectionServer<impl ServerReflection>,
        alpha::ServerReflectionServer<impl alpha::ServerReflection>,
    ),
    tonic_reflection::server::Error,
> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}
