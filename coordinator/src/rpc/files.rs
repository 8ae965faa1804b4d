//! Files: uploads to the coordinator, and fetches from the worker that has them.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tonic::{Response, Status, Streaming};
use tracing::warn;

use common::status::{CheckpointRow, JobStatus};
use proto::convert::{self, FetchWhat};
use proto::v1;

use crate::blobs::Hash;
use crate::core::Input;
use crate::door;
use crate::fetch::Part;
use crate::rpc::{
    BoxStream, FIRST_MESSAGE_TIMEOUT, Front, STREAM_QUEUE, blocking, boxed, internal, malformed,
};

/// Between two chunks of an upload or a fetch; a peer that is silent for longer is gone.
pub(super) const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

const BLOB_CHUNK: usize = 256 << 10;

/// What one worker is asked for.
struct Wanted {
    worker: String,
    root: String,
    paths: Vec<String>,
    /// Where the caller gets them, in front of their paths.
    under: String,
}

impl Front {
    pub(super) async fn receive_blob(
        &self,
        mut chunks: Streaming<v1::BlobChunk>,
    ) -> Result<v1::BlobHashes, Status> {
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no chunk came"))??
            .ok_or_else(|| Status::invalid_argument("an upload without a chunk"))?;
        let hash = Hash::parse(&first.blake3)?;
        let blobs = self.blobs.clone();
        let mut upload = blocking(move || {
            let mut upload = blobs.begin(hash)?;
            upload.write(&first.data)?;
            Ok::<_, crate::blobs::Error>(upload)
        })
        .await??;
        loop {
            let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message())
                .await
                .map_err(|_| Status::deadline_exceeded("the upload stalled"))??;
            let Some(chunk) = chunk else { break };
            upload = blocking(move || upload.write(&chunk.data).map(|()| upload)).await??;
        }
        let hash = blocking(move || upload.finish()).await??;
        Ok(v1::BlobHashes { blake3: vec![hash.as_str().to_owned()] })
    }

    pub(super) async fn send_blob(
        &self,
        hashes: v1::BlobHashes,
    ) -> Result<Response<BoxStream<v1::BlobChunk>>, Status> {
        let [hash] = hashes.blake3.as_slice() else {
            return Err(Status::invalid_argument("ask for one blob at a time"));
        };
        let hash = Hash::parse(hash)?;
        let path = self.blobs.path(&hash);
        if !self.blobs.contains(&hash) {
            return Err(Status::not_found(format!("there is no blob {}", hash.as_str())));
        }
        let opened = blocking(move || fs_err::File::open(path)).await?;
        let mut file = opened.map_err(|error| internal("read a blob", &error))?;
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        service::tasks::spawn(service::tasks::Kind::Finish, "send-blob", async move {
            loop {
                let read = blocking(move || {
                    let mut data = Vec::with_capacity(BLOB_CHUNK);
                    let read = file.by_ref().take(BLOB_CHUNK as u64).read_to_end(&mut data);
                    (read.map(|_| data), file)
                });
                let chunk = match read.await {
                    Ok((Ok(data), back)) => {
                        file = back;
                        if data.is_empty() {
                            return;
                        }
                        Ok(v1::BlobChunk { blake3: hash.as_str().to_owned(), data })
                    }
                    Ok((Err(error), _)) => {
                        // The client may have left; then nobody needs the status.
                        let _ = sender.send(Err(internal("read a blob", &error))).await;
                        return;
                    }
                    Err(status) => {
                        let _ = sender.send(Err(status)).await;
                        return;
                    }
                };
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(boxed(receiver)))
    }

    pub(super) fn fetch_files(
        &self,
        request: v1::FetchRequest,
    ) -> Result<Response<BoxStream<v1::FileChunk>>, Status> {
        let job_id = self.known_job(&request.job_id)?;
        let what = convert::fetch_what(&request.what).map_err(|error| malformed(&error))?;
        let status =
            self.core.views().status(&job_id).ok_or_else(|| super::no_such_job(&job_id))?;
        let wanted = self.wanted(&status, what, &request.tag)?;
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let front = self.clone();
        let job_id = job_id.to_string();
        service::tasks::spawn(service::tasks::Kind::Finish, "fetch", async move {
            for (index, wanted) in wanted.into_iter().enumerate() {
                let worker = wanted.worker.clone();
                match front.fetch_from(&job_id, wanted, &sender).await {
                    Ok(()) if sender.is_closed() => return,
                    Ok(()) => {}
                    Err(status) if index > 0 => {
                        // The first worker has what was asked for; others only add their logs.
                        warn!(job_id, worker, %status, "files of this worker are left out");
                    }
                    Err(status) => {
                        // The client may have left; then nobody needs the status.
                        let _ = sender.send(Err(status)).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(boxed(receiver)))
    }

    /// Which workers have what, the important one first.
    fn wanted(
        &self,
        status: &JobStatus,
        what: FetchWhat,
        tag: &str,
    ) -> Result<Vec<Wanted>, Status> {
        let job_id = &status.row.job_id;
        let mut workers: Vec<&str> = Vec::new();
        for rank in &status.ranks {
            if !workers.contains(&rank.worker.as_str()) {
                workers.push(&rank.worker);
            }
        }
        let Some(first) = workers.first() else {
            return Err(Status::failed_precondition(format!(
                "job `{job_id}` has not run yet, so it has no files"
            )));
        };
        let root = status.output_dir.clone().unwrap_or_default();
        let of = |worker: &str, paths: &[&str]| Wanted {
            worker: worker.to_owned(),
            root: root.clone(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            under: String::new(),
        };
        let with_logs = |first: Wanted| {
            let others = workers.iter().skip(1).map(|worker| of(worker, &["logs"]));
            std::iter::once(first).chain(others).collect()
        };
        Ok(match what {
            FetchWhat::Checkpoint => vec![self.wanted_checkpoint(status, tag, first)?],
            FetchWhat::Tensorboard => vec![of(first, &["tensorboard"])],
            FetchWhat::Metrics => vec![of(first, &["metrics"])],
            FetchWhat::Logs => with_logs(of(first, &["logs"])),
            FetchWhat::All => {
                // No paths: the whole run folder.
                let mut all: Vec<Wanted> = with_logs(of(first, &[]));
                let rows = self.core.views().checkpoints(job_id).unwrap_or_default();
                let whole = rows.iter().filter(|row| row.durable);
                let outside = whole.filter(|row| !Path::new(&row.path).starts_with(&root));
                all.extend(outside.map(|row| of_checkpoint(row, &root, first)));
                all
            }
        })
    }

    fn wanted_checkpoint(
        &self,
        status: &JobStatus,
        tag: &str,
        rank_0: &str,
    ) -> Result<Wanted, Status> {
        let job_id = &status.row.job_id;
        let rows = self.core.views().checkpoints(job_id).unwrap_or_default();
        let durable = || rows.iter().filter(|row| row.durable);
        let row = match tag {
            "" | "latest" => durable().next_back(),
            "best" => durable().min_by(|a, b| a.by_quality(b)),
            tag => rows.iter().find(|row| row.tag == tag),
        };
        let Some(row) = row else {
            let known: Vec<&str> = rows.iter().map(|row| row.tag.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Status::not_found(format!(
                "job `{job_id}` has no such checkpoint; it has: {known}"
            )));
        };
        let root = status.output_dir.clone().unwrap_or_default();
        Ok(of_checkpoint(row, &root, rank_0))
    }

    async fn fetch_from(
        &self,
        job_id: &str,
        wanted: Wanted,
        sender: &mpsc::Sender<Result<v1::FileChunk, Status>>,
    ) -> Result<(), Status> {
        let mut fetch = self.fetches.begin();
        let order = door::fetch_order(v1::FetchOrder {
            fetch_id: fetch.id.clone(),
            job_id: job_id.to_owned(),
            root: wanted.root,
            paths: wanted.paths,
        });
        let (worker, under) = (wanted.worker, wanted.under);
        let ordered =
            |reply: oneshot::Sender<bool>| Input::Order { worker: worker.clone(), order, reply };
        if !self.core.ask(ordered).await? {
            return Err(Status::unavailable(format!(
                "worker `{worker}`, which has the files, is not connected"
            )));
        }
        loop {
            let part = tokio::select! {
                part = tokio::time::timeout(CHUNK_TIMEOUT, fetch.parts.recv()) => part,
                // The client left: dropping the fetch stops the worker.
                () = sender.closed() => return Ok(()),
            };
            match part {
                Err(_) => {
                    let text = format!("worker `{worker}` sent nothing for 30 s");
                    return Err(Status::deadline_exceeded(text));
                }
                Ok(None) => {
                    let text = format!("worker `{worker}` broke off in the middle");
                    return Err(Status::unavailable(text));
                }
                Ok(Some(Part::Failed(status))) => return Err(status),
                Ok(Some(Part::Done)) => return Ok(()),
                Ok(Some(Part::Chunk(mut chunk))) => {
                    chunk.path.insert_str(0, &under);
                    if sender.send(Ok(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// A checkpoint, wherever it is. One outside of the run folder arrives as if it were inside.
fn of_checkpoint(row: &CheckpointRow, run_folder: &str, rank_0: &str) -> Wanted {
    let worker = row.worker.clone().unwrap_or_else(|| rank_0.to_owned());
    match Path::new(&row.path).strip_prefix(run_folder) {
        Ok(inside) => Wanted {
            worker,
            root: run_folder.to_owned(),
            paths: vec![inside.display().to_string()],
            under: String::new(),
        },
        Err(_) => Wanted {
            worker,
            root: row.path.clone(),
            paths: Vec::new(),
            under: format!("checkpoints/{}/", row.tag),
        },
    }
}
