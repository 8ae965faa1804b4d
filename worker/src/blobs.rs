//! Uploaded inputs, fetched once and kept by content: `<state folder>/blobs/<blake3>/<file name>`.
//! The name is the user's, because messages about the file show it.

use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use proto::v1::BlobHashes;
use proto::v1::worker_link_client::WorkerLinkClient;
use service::transport::{self, Timeouts};

const FOLDER: &str = "blobs";

/// What `rsctl submit --upload` accepts at most.
const MAX_BLOB_BYTES: u64 = 64 << 20;

/// A blob has to be here by then: 64 MiB over a slow link, well below the rendezvous' patience
/// would be better, but a slow start beats none.
const FETCH_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{hash}` is not a content hash")]
    Hash { hash: String },
    #[error("reach the coordinator")]
    Connect {
        #[source]
        source: transport::Error,
    },
    #[error("fetch upload `{hash}`")]
    Fetch {
        hash: String,
        #[source]
        source: Box<tonic::Status>,
    },
    #[error("fetch upload `{hash}`: not here within {} s", FETCH_DEADLINE.as_secs())]
    Deadline { hash: String },
    #[error("upload `{hash}` arrived damaged: its content is `{found}`")]
    Damaged { hash: String, found: String },
    #[error("keep upload `{hash}`")]
    Keep {
        hash: String,
        #[source]
        source: io::Error,
    },
}

/// The local path of the blob that the user calls `original`, fetched from the coordinator if it
/// is not here.
pub(crate) async fn local_path(
    hash: &str,
    original: &Path,
    state_dir: &Path,
    master: &str,
) -> Result<PathBuf, Error> {
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::Hash { hash: hash.chars().take(80).collect() });
    }
    let folder = state_dir.join(FOLDER).join(hash);
    let path = folder.join(original.file_name().unwrap_or("data".as_ref()));
    if path.is_file() {
        return Ok(path);
    }
    let fetching = fetch(hash, &folder, &path, master);
    match tokio::time::timeout(FETCH_DEADLINE, fetching).await {
        Ok(fetched) => fetched.map(|()| path),
        Err(_) => Err(Error::Deadline { hash: hash.to_owned() }),
    }
}

async fn fetch(hash: &str, folder: &Path, path: &Path, master: &str) -> Result<(), Error> {
    let keep = |source| Error::Keep { hash: hash.to_owned(), source };
    let failed = |source| Error::Fetch { hash: hash.to_owned(), source: Box::new(source) };
    let channel = transport::connect(master, &Timeouts::default())
        .await
        .map_err(|source| Error::Connect { source })?;
    let mut client =
        WorkerLinkClient::new(channel).max_decoding_message_size(transport::MAX_MESSAGE_BYTES);
    let asked = BlobHashes { blake3: vec![hash.to_owned()] };
    let mut chunks = client.get_blob(asked).await.map_err(failed)?.into_inner();
    fs::create_dir_all(folder).map_err(keep)?;
    let mut file = temporary_in(folder).map_err(keep)?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        bytes += chunk.data.len() as u64;
        if bytes > MAX_BLOB_BYTES {
            let found = format!("more than {MAX_BLOB_BYTES} bytes");
            return Err(Error::Damaged { hash: hash.to_owned(), found });
        }
        hasher.update(&chunk.data);
        file.file.write_all(&chunk.data).map_err(keep)?;
    }
    let found = hasher.finalize().to_hex().to_string();
    if found != hash {
        return Err(Error::Damaged { hash: hash.to_owned(), found });
    }
    file.file.sync_all().map_err(keep)?;
    fs::rename(&file.path, path).map_err(keep)?;
    Ok(())
}

/// A file beside its final name, removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: fs::File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed is the good case.
        let _ = fs::remove_file(&self.path);
    }
}

fn temporary_in(folder: &Path) -> io::Result<Temporary> {
    let path = folder.join(format!("{}.tmp", uuid::Uuid::new_v4()));
    let file = fs::File::create(&path)?;
    Ok(Temporary { path, file })
}
