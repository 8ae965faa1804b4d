//! Answers fetch orders: files of a job's run folder, or of one of its checkpoints elsewhere, on
//! their way to the user. Serves nothing outside that folder, whatever the order or a link in the
//! folder says.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use proto::v1::worker_link_client::WorkerLinkClient;
use proto::v1::{FetchOrder, FileChunk, PutFilesChunk};
use service::transport::{self, Timeouts};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

const CHUNK_BYTES: usize = 256 << 10;

/// Files of one order; a run folder holds hundreds.
const MAX_FILES: usize = 100_000;

/// A whole transfer; checkpoints of the models that this serves are far below what a slow link
/// carries in this time.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{}` is neither the run folder nor a whole checkpoint of job `{job}`", .root.display())]
    Root { root: PathBuf, job: String },
    #[error("folder `{}` is not on this node", .root.display())]
    NoRoot {
        root: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` leads out of the folder")]
    Outside { path: String },
    #[error("read `{path}`")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("more than {MAX_FILES} files")]
    TooMany,
    #[error("the receiver has gone")]
    Gone,
}

/// Sends what `order` asks for; problems go to the receiver, as far as it can be reached.
pub(crate) async fn serve(order: FetchOrder, master: String) {
    let fetch_id = order.fetch_id.clone();
    match tokio::time::timeout(TRANSFER_DEADLINE, send(order, &master)).await {
        Ok(Ok(())) => info!(fetch = fetch_id, "files sent"),
        Ok(Err(error)) => {
            warn!(fetch = fetch_id, error = service::exit::chain(&*error), "files not sent")
        }
        Err(_) => warn!(fetch = fetch_id, "files not sent in time"),
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn send(order: FetchOrder, master: &str) -> Result<(), AnyError> {
    let channel = transport::connect(master, &Timeouts::default()).await?;
    let mut client = WorkerLinkClient::new(channel);
    let (chunks, outgoing) = mpsc::channel(8);
    let reading = tokio::task::spawn_blocking(move || {
        let fetch_id = order.fetch_id.clone();
        // Names the fetch, also where no file follows: an empty folder is an answer too.
        let first = PutFilesChunk { fetch_id: fetch_id.clone(), ..PutFilesChunk::default() };
        // The receiver has gone: reading ends at its first file.
        let _ = chunks.blocking_send(first);
        if let Err(error) = read_all(&order, &chunks) {
            let error = service::exit::chain(&error);
            let last = PutFilesChunk { fetch_id, chunk: None, error };
            // The receiver has gone: then nobody needs to know.
            let _ = chunks.blocking_send(last);
        }
    });
    client.put_files(ReceiverStream::new(outgoing)).await?;
    reading.await?;
    Ok(())
}

fn read_all(order: &FetchOrder, chunks: &mpsc::Sender<PutFilesChunk>) -> Result<(), Error> {
    for (relative, file) in resolve(order)? {
        let failed = |source| Error::Read { path: relative.clone(), source };
        let mut reader = fs::File::open(file).map_err(failed)?;
        loop {
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            let read = reader.by_ref().take(CHUNK_BYTES as u64);
            let count = { read }.read_to_end(&mut data).map_err(failed)?;
            let last = count < CHUNK_BYTES;
            let chunk = FileChunk { path: relative.clone(), data, last };
            let message = PutFilesChunk {
                fetch_id: order.fetch_id.clone(),
                chunk: Some(chunk),
                error: String::new(),
            };
            chunks.blocking_send(message).map_err(|_| Error::Gone)?;
            if last {
                break;
            }
        }
    }
    Ok(())
}

/// The files that an order means: relative name and where it really is. Folders mean everything
/// in them; an order without paths means the whole run folder.
fn resolve(order: &FetchOrder) -> Result<Vec<(String, PathBuf)>, Error> {
    let root = PathBuf::from(&order.root);
    let is_job = proto::convert::job_id(&order.job_id).is_ok();
    if !root.is_absolute() || !is_job || !is_of_job(&root, &order.job_id) {
        return Err(Error::Root { root, job: order.job_id.clone() });
    }
    let real = fs::canonicalize(&root)
        .map_err(|source| Error::NoRoot { root: order.root.clone().into(), source })?;
    // Who may write to the output folder may have put a link of this name there.
    if !is_of_job(&real, &order.job_id) {
        return Err(Error::Root { root, job: order.job_id.clone() });
    }
    let root = real;
    let whole = [String::new()];
    let wanted: &[String] = if order.paths.is_empty() { &whole } else { &order.paths };
    let mut files = Vec::new();
    for path in wanted {
        let relative = Path::new(path);
        if !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(Error::Outside { path: path.clone() });
        }
        collect(&root, relative, &mut files)?;
    }
    Ok(files)
}

/// Whether it is, by its name, the job's run folder, or else one of its checkpoints.
fn is_of_job(root: &Path, job_id: &str) -> bool {
    root.file_name().is_some_and(|name| name == job_id) || is_checkpoint_of(root, job_id)
}

/// A checkpoint names its job in its manifest.
fn is_checkpoint_of(folder: &Path, job_id: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Manifest {
        job_id: String,
    }
    let text = fs::read_to_string(folder.join("manifest.json"));
    let manifest = text.ok().and_then(|text| serde_json::from_str::<Manifest>(&text).ok());
    manifest.is_some_and(|manifest| manifest.job_id == job_id)
}

fn collect(root: &Path, relative: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<(), Error> {
    let shown = relative.to_string_lossy().into_owned();
    let failed = |source| Error::Read { path: shown.clone(), source };
    let real = fs::canonicalize(root.join(relative)).map_err(failed)?;
    // After links are followed; a link to elsewhere in the folder would only repeat its target.
    if !real.starts_with(root) {
        return Err(Error::Outside { path: shown });
    }
    let kind = fs::metadata(&real).map_err(failed)?;
    if kind.is_file() {
        if files.len() == MAX_FILES {
            return Err(Error::TooMany);
        }
        files.push((shown, real));
    } else if kind.is_dir() {
        let mut entries =
            fs::read_dir(&real).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // A folder may link to its parent: links inside folders are left out.
            if !entry.file_type().map_err(failed)?.is_symlink() {
                collect(root, &relative.join(entry.file_name()), files)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
