//! Uploaded inputs, by the blake3 hash of their content: `blobs/<hex>`. A blob is visible only when
//! whole and verified.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use tracing::warn;

/// One upload.
pub(crate) const MAX_BLOB_BYTES: u64 = 64 << 20;

/// An upload comes before its submit; a day covers every retry.
const KEEP_UNNAMED: Duration = Duration::from_secs(24 * 3600);

const HEX_LEN: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{0}` is not a blake3 hash of 64 hexadecimal digits")]
    Hash(String),
    #[error("a blob is larger than 64 MiB")]
    TooLarge,
    #[error("the content hashes to {actual}, not to {expected}")]
    Mismatch { expected: String, actual: String },
    #[error("keep a blob")]
    Io(#[from] io::Error),
}

/// A checked hash; the only thing that a blob's path is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hash(String);

impl Hash {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == HEX_LEN && text.bytes().all(is_hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Hash(text.chars().take(HEX_LEN).collect()))
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The folder of blobs; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: Arc<Path>,
    uploads: Arc<AtomicU64>,
    /// Held while one blob's age is looked at and, by it, the blob removed or made young: a look at a
    /// file or two, never over an await.
    ages: Arc<Mutex<()>>,
}

impl Blobs {
    /// Opens the folder; uploads that never ended are removed.
    pub(crate) fn open(data_folder: &Path) -> io::Result<Self> {
        let folder = data_folder.join("blobs");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "partial") {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self { folder: Arc::from(folder), uploads: Arc::default(), ages: Arc::default() })
    }

    pub(crate) fn path(&self, hash: &Hash) -> PathBuf {
        self.folder.join(hash.as_str())
    }

    pub(crate) fn contains(&self, hash: &Hash) -> bool {
        self.path(hash).is_file()
    }

    /// Whether it is there, and stays until a submit that is about to name it has been decided: it is
    /// as young again as one that has just been uploaded.
    pub(crate) fn hold(&self, hash: &Hash) -> bool {
        let _ages = self.lock_ages();
        let made_young = fs::File::open(self.path(hash))
            .and_then(|file| file.file().set_modified(SystemTime::now()));
        match made_young {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                warn!(blob = hash.as_str(), %error, "cannot be held and is to be uploaded again");
                false
            }
        }
    }

    fn lock_ages(&self) -> MutexGuard<'_, ()> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes blobs that no job names and that are older than any submit under way. Blocking.
    pub(crate) fn collect(&self, named: &BTreeSet<String>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&*self.folder)? {
            let name = entry?.file_name();
            let is_named = name.to_str().is_some_and(|name| named.contains(name));
            if is_named {
                continue;
            }
            match self.remove_if_old(&self.folder.join(name)) {
                Ok(is_removed) => removed += usize::from(is_removed),
                // An upload that has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn remove_if_old(&self, path: &Path) -> io::Result<bool> {
        let _ages = self.lock_ages();
        // A clock that was set back makes everything young, which is safe.
        let age = fs::symlink_metadata(path)?.modified()?.elapsed().unwrap_or_default();
        if age > KEEP_UNNAMED {
            fs::remove_file(path)?;
        }
        Ok(age > KEEP_UNNAMED)
    }

    pub(crate) fn begin(&self, hash: Hash) -> Result<Upload, Error> {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let partial = self.folder.join(format!("{}.{number}.partial", hash.as_str()));
        let file = fs::File::create(&partial)?;
        let target = self.path(&hash);
        Ok(Upload { hash, target, partial, file, hasher: blake3::Hasher::new(), len: 0 })
    }
}

/// One upload under way; dropping it leaves nothing. Its methods block on the disk.
#[derive(Debug)]
pub(crate) struct Upload {
    hash: Hash,
    target: PathBuf,
    partial: PathBuf,
    file: fs::File,
    hasher: blake3::Hasher,
    len: u64,
}

impl Upload {
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.len += data.len() as u64;
        if self.len > MAX_BLOB_BYTES {
            return Err(Error::TooLarge);
        }
        self.hasher.update(data);
        Ok(self.file.write_all(data)?)
    }

    /// Checks the hash and makes the blob visible, durably.
    pub(crate) fn finish(self) -> Result<Hash, Error> {
        let actual = self.hasher.finalize().to_hex().to_string();
        if actual != self.hash.as_str() {
            return Err(Error::Mismatch { expected: self.hash.as_str().to_owned(), actual });
        }
        self.file.sync_all()?;
        fs::rename(&self.partial, &self.target)?;
        service::files::sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        Ok(self.hash.clone())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After a finish it is gone already.
        let _ = fs::remove_file(&self.partial);
    }
}
