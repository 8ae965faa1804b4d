//! Shipping a job's inputs to the coordinator, by content: what it has already is not sent again.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::exit::ExitCode;
use common::spec::JobSpec;
use common::units::display_bytes;
use proto::v1::BlobChunk;
use service::exit::Failure;

use crate::coordinator::Coordinator;
use crate::{job, render};

/// Larger inputs belong on a disk that the workers see.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// 64 MiB at 1 MiB/s, and the coordinator's sync.
const UPLOADED_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("upload {key}")]
    Read {
        key: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("upload {key}: `{}` is a folder", .path.display())]
    Folder { key: &'static str, path: PathBuf },
    #[error(
        "upload {key}: `{}` has {}, more than the {} that an upload may have",
        .path.display(), display_bytes(*.bytes), display_bytes(MAX_BYTES)
    )]
    TooLarge { key: &'static str, path: PathBuf, bytes: u64 },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::TooLarge { .. } => {
                Some("put it on a disk that every worker sees, and submit without --upload")
            }
            _ => None,
        };
        Self {
            code: ExitCode::BadConfiguration,
            hint: hint.map(str::to_owned),
            error: error.into(),
        }
    }
}

/// Uploads the job's inputs; gives path in the spec → hash.
pub(crate) async fn inputs(
    coordinator: &mut Coordinator,
    spec: &JobSpec,
) -> Result<HashMap<String, String>, Failure> {
    let mut uploads = HashMap::new();
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (key, path) in job::inputs(spec) {
        let bytes = read(key, path)?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        uploads.insert(path.display().to_string(), hash.clone());
        contents.insert(hash, bytes);
    }
    if contents.is_empty() {
        render::talk("nothing to upload: the job reads no files");
        return Ok(uploads);
    }
    let missing = coordinator.missing_blobs(contents.keys().cloned().collect()).await?;
    for hash in missing {
        // A hash that we did not offer is the coordinator's mistake, not an order to send files.
        let Some(bytes) = contents.remove(&hash) else { continue };
        render::talk(format_args!("uploading {}", display_bytes(bytes.len() as u64)));
        coordinator.upload(futures::stream::iter(chunks(hash, bytes)), UPLOADED_WITHIN).await?;
    }
    Ok(uploads)
}

/// Reads at most the allowed size, also where the file grows meanwhile.
fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { key, source };
    let file = fs_err::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Error::Folder { key, path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        let bytes = metadata.len().max(MAX_BYTES + 1);
        return Err(Error::TooLarge { key, path: path.to_owned(), bytes });
    }
    Ok(bytes)
}

/// Every chunk names the blob; an empty file is one empty chunk.
fn chunks(hash: String, bytes: Vec<u8>) -> Vec<BlobChunk> {
    let chunk = |data: &[u8]| BlobChunk { blake3: hash.clone(), data: data.to_vec() };
    if bytes.is_empty() {
        return vec![chunk(&[])];
    }
    bytes.chunks(CHUNK_BYTES).map(chunk).collect()
}

#[cfg(test)]
mod tests;
