//! The worker link: control and bulk streams, blobs for workers, files from them.

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use control::coordinator::ConnectionId;
use proto::v1;
use proto::v1::worker_link_server::WorkerLink;
use proto::v1::worker_message::Kind;

use crate::core::{Handle, Input, LINK_QUEUE};
use crate::door;
use crate::fetch::Part;
use crate::rpc::files::CHUNK_TIMEOUT;
use crate::rpc::{
    BoxStream, FIRST_MESSAGE_TIMEOUT, Front, STREAM_QUEUE, boxed, malformed, say_stopping,
};

/// Longest name of a metric that is kept.
const MAX_METRIC_NAME: usize = 128;

#[tonic::async_trait]
impl WorkerLink for Front {
    type ControlStream = BoxStream<v1::CoordinatorMessage>;
    type BulkStream = BoxStream<v1::BulkAck>;
    type GetBlobStream = BoxStream<v1::BlobChunk>;

    async fn control(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(Kind::Hello(hello)) = first.and_then(|message| message.kind) else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let hello = Box::new(door::hello(hello).map_err(|error| malformed(&error))?);
        let connection = self.core.new_connection();
        let (link, outgoing) = mpsc::channel(LINK_QUEUE);
        let name = hello.name.clone();
        self.core.send(Input::Hello { connection, hello, link }).await?;
        let core = self.core.clone();
        service::tasks::spawn(service::tasks::Kind::Finish, "worker-link", async move {
            listen(&core, connection, &name, messages).await;
            // A loop that has ended needs no news.
            let _ = core.send(Input::Dropped { connection }).await;
        });
        let messages = ReceiverStream::new(outgoing).map(|order| Ok(order.into_wire()));
        let messages: Self::ControlStream = Box::pin(messages);
        Ok(Response::new(messages))
    }

    async fn bulk(
        &self,
        request: Request<Streaming<v1::BulkBatch>>,
    ) -> Result<Response<Self::BulkStream>, Status> {
        let mut batches = request.into_inner();
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let front = self.clone();
        service::tasks::spawn(service::tasks::Kind::Finish, "bulk", async move {
            // The client's end, an error of it, or a refusal of ours ends the stream; the worker
            // keeps what was not acknowledged.
            loop {
                let message = tokio::select! {
                    message = batches.message() => message,
                    () = front.stop.cancelled() => return say_stopping(&sender),
                };
                let Ok(Some(batch)) = message else { return };
                let ack = front.keep(batch).await;
                let is_over = ack.is_err();
                if sender.send(ack).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok(Response::new(boxed(receiver)))
    }

    async fn get_blob(
        &self,
        request: Request<v1::BlobHashes>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        self.send_blob(request.into_inner()).await
    }

    async fn report_probe(
        &self,
        request: Request<v1::ProbeReport>,
    ) -> Result<Response<v1::Empty>, Status> {
        match self.probes.report(request.into_inner()) {
            true => Ok(Response::new(v1::Empty {})),
            false => Err(Status::not_found("nobody waits for this report")),
        }
    }

    async fn put_files(
        &self,
        request: Request<Streaming<v1::PutFilesChunk>>,
    ) -> Result<Response<v1::Empty>, Status> {
        let mut chunks = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no file came"))??;
        let Some(first) = first else {
            return Err(Status::invalid_argument("files of no fetch"));
        };
        let to = self.fetches.take(&first.fetch_id);
        let to = to.ok_or_else(|| Status::not_found("nobody waits for these files"))?;
        let mut next = Ok(Some(first));
        loop {
            let part = match next {
                Ok(None) => Part::Done,
                // Says whose files come, before the first.
                Ok(Some(message)) if message.chunk.is_none() && message.error.is_empty() => {
                    next = next_chunk(&mut chunks, &to).await;
                    continue;
                }
                Ok(Some(message)) => part(message),
                Err(status) => Part::Failed(status),
            };
            let is_last = !matches!(part, Part::Chunk(_));
            if to.send(part).await.is_err() {
                return Err(Status::cancelled("who asked for the files has left"));
            }
            if is_last {
                break;
            }
            next = next_chunk(&mut chunks, &to).await;
        }
        Ok(Response::new(v1::Empty {}))
    }
}

/// Waits for more of a worker's files, as long as somebody wants them and not for ever: a worker that
/// hangs would hold its stream, and what belongs to it.
async fn next_chunk(
    chunks: &mut Streaming<v1::PutFilesChunk>,
    to: &mpsc::Sender<Part>,
) -> Result<Option<v1::PutFilesChunk>, Status> {
    let stalled = |_| Err(Status::deadline_exceeded("the worker stopped sending"));
    tokio::select! {
        next = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message()) => next.unwrap_or_else(stalled),
        () = to.closed() => Err(Status::cancelled("who asked for the files has left")),
    }
}

/// Passes a worker's messages on until its stream ends.
async fn listen(
    core: &Handle,
    connection: ConnectionId,
    name: &str,
    mut messages: Streaming<v1::WorkerMessage>,
) {
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return debug!(worker = name, "stream ended"),
            Err(status) => return debug!(worker = name, %status, "stream broke"),
        };
        let message = match door::worker_message(message) {
            Ok(message) => message,
            Err(error) => {
                let error = service::exit::chain(&error);
                return warn!(worker = name, error, "worker speaks nonsense: ending its stream");
            }
        };
        if core.send(Input::Worker { connection, message }).await.is_err() {
            return;
        }
    }
}

impl Front {
    /// A worker's spool overflowed: somebody's curve has a hole.
    fn tell_dropped(&self, batch: &v1::BulkBatch) {
        for job in batch.jobs.iter().filter(|job| job.dropped > 0) {
            let (worker, job_id, dropped) = (&batch.uuid, &job.job_id, job.dropped);
            warn!(worker, job_id, dropped, "metric points or log lines were dropped");
            self.info.metrics.dropped(dropped);
        }
    }

    /// Whether the job is known and has had this attempt. A number is a folder's name and an
    /// attempt's place in a history: one that a worker made up would stay the newest for ever. A job
    /// that is about to get its first attempt may have that one.
    fn is_of_an_attempt(&self, job: &v1::JobBulk) -> bool {
        let Ok(job_id) = proto::convert::job_id(&job.job_id) else { return false };
        let Some(status) = self.core.views().status(&job_id) else { return false };
        let newest = status.attempts.last().map_or(1, |attempt| attempt.generation.0);
        if job.generation > newest {
            warn!(%job_id, generation = job.generation, newest, "data of no attempt is left out");
        }
        job.generation <= newest
    }

    /// Keeps what belongs to known attempts; the rest is acknowledged too, or it would come for
    /// ever.
    async fn keep(&self, mut batch: v1::BulkBatch) -> Result<v1::BulkAck, Status> {
        let sequence = batch.sequence;
        proto::convert::worker_id(&batch.uuid, batch.incarnation)
            .map_err(|error| malformed(&error))?;
        batch.jobs.retain_mut(|job| {
            job.metrics.retain(|series| series.name.len() <= MAX_METRIC_NAME);
            self.is_of_an_attempt(job)
        });
        if self.seen.is_new(&batch) {
            self.tell_dropped(&batch);
        }
        if !batch.jobs.is_empty() {
            let kept = self.archive.keep(batch).await?;
            self.info.metrics.kept(kept.points, kept.lines);
        }
        Ok(v1::BulkAck { sequence })
    }
}

/// A path in a chunk must stay inside the folder that the caller chose.
fn part(message: v1::PutFilesChunk) -> Part {
    let v1::PutFilesChunk { chunk, error, .. } = message;
    let Some(chunk) = chunk.filter(|_| error.is_empty()) else {
        return Part::Failed(Status::not_found(error));
    };
    let path = std::path::Path::new(&chunk.path);
    let is_inside = !chunk.path.is_empty()
        && path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_inside {
        return Part::Chunk(chunk);
    }
    let text = format!("the worker sent `{}`, which is no path inside a folder", chunk.path);
    warn!(path = chunk.path, "a worker sent a path that leads out");
    Part::Failed(Status::permission_denied(text))
}
