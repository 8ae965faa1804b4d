//! The few file operations that everything here is made of: files appear whole or not at all,
//! foreign files are opened without following links, and nothing is read beyond a limit.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, PosixFadviseAdvice, RenameFlags};
use nix::libc;

use crate::error::{Defect, Error};

/// Hashed and written at once: fits the L2 cache, so that the bytes come from memory once.
pub(crate) const CHUNK: usize = 512 * 1024;

/// After so many bytes the kernel is asked to start writing back, so that the disk works while we
/// still hash, and the last sync has little left to do.
const WRITE_BACK_EVERY: u64 = 1024 * 1024;

/// The disk, a quota or a limit on file sizes leaves no room.
const FULL: [Errno; 3] = [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG];

/// Ends the name of a file that is being written. Such a file never counts.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// A map of [`io::Error`] that says what we were doing and to what.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// A file of `folder` opened for reading: a plain file, not a link that leads elsewhere, and not a
/// pipe that would hang. Returns its size too.
pub(crate) fn open_plain(folder: &Path, name: &str) -> Result<(File, u64), Error> {
    let path = folder.join(name);
    let wrong = |defect| Error::Defective { path: folder.to_owned(), defect };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&path);
    let file = opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => wrong(Defect::Missing { file: name.to_owned() }),
        // ELOOP: a link; ENXIO: a socket or a device without a driver.
        Some(Errno::ELOOP | Errno::ENXIO) => wrong(Defect::NotPlain { file: name.to_owned() }),
        _ => read_error(folder, name, source),
    })?;
    let metadata = file.metadata().map_err(failed("look at", &path))?;
    if !metadata.is_file() {
        return Err(wrong(Defect::NotPlain { file: name.to_owned() }));
    }
    Ok((file, metadata.len()))
}

/// A bad sector or a file that shrinks while it is read is damage; what an operator must mend
/// (permissions, too many open files, a server that is gone) is not.
pub(crate) fn read_error(folder: &Path, name: &str, source: io::Error) -> Error {
    let is_end = source.kind() == io::ErrorKind::UnexpectedEof;
    if is_end || source.raw_os_error() == Some(libc::EIO) {
        let defect = Defect::Unreadable { file: name.to_owned(), source };
        return Error::Defective { path: folder.to_owned(), defect };
    }
    Error::Io { action: "read", path: folder.join(name), source }
}

/// All of a file that must be small. The size on disk is not believed: what grows meanwhile is
/// refused too.
pub(crate) fn read_small(folder: &Path, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
    let (file, _) = open_plain(folder, name)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| read_error(folder, name, source))?;
    if bytes.len() as u64 > limit {
        let defect = Defect::TooLarge { file: name.to_owned(), limit };
        return Err(Error::Defective { path: folder.to_owned(), defect });
    }
    Ok(bytes)
}

/// blake3 of a whole open file, in constant memory.
pub(crate) fn hash_file(mut file: &File) -> io::Result<(u64, blake3::Hash)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((total, hasher.finalize())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(failed("sync", folder))
}

/// Creates a folder where it is missing. A link in its place is refused.
pub(crate) fn ensure_folder(folder: &Path) -> Result<(), Error> {
    match DirBuilder::new().create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("create folder", folder)(error)),
    }
    let found = folder.symlink_metadata().map_err(failed("look at", folder))?;
    if found.is_symlink() {
        return Err(Error::Defective { path: folder.to_owned(), defect: Defect::Link });
    }
    if !found.is_dir() {
        return Err(failed("create folder", folder)(Errno::ENOTDIR.into()));
    }
    Ok(())
}

/// Removes a file; true if it was there.
pub(crate) fn remove_file(path: &Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Renames; what is at the new name is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    Ok(nix::fcntl::renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::empty())?)
}

/// Renames unless the new name is taken (then [`io::ErrorKind::AlreadyExists`]), as one operation
/// of the file system.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match nix::fcntl::renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // NFS and some FUSE file systems know no flags here, but a hard link never replaces.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        result => Ok(result?),
    }
}

/// What becomes of a file that already has the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    Replace,
    Refuse,
}

/// A file being written under a temporary name beside its target. Dropped before
/// [`Staged::publish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct Staged {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    hasher: blake3::Hasher,
    written: u64,
    needed: u64,
    /// Nothing was written since: another sync would have the disk flush its cache for nothing.
    is_synced: bool,
}

impl Staged {
    /// Starts a file that will have `needed` bytes. Their room is reserved at once where the file
    /// system can, so that a full disk is known before the first byte.
    pub(crate) fn create(folder: &Path, name: &str, needed: u64) -> Result<Self, Error> {
        let staged = Self::empty(folder, name, needed)?;
        staged.reserve()?;
        Ok(staged)
    }

    /// As [`Staged::create`] without the room, which some file systems take seconds to reserve:
    /// for who holds a lock.
    pub(crate) fn empty(folder: &Path, name: &str, needed: u64) -> Result<Self, Error> {
        let target = folder.join(name);
        let (file, temporary) = create_temporary(folder, name)?;
        let hasher = blake3::Hasher::new();
        Ok(Self { file, temporary, target, hasher, written: 0, needed, is_synced: false })
    }

    pub(crate) fn reserve(&self) -> Result<(), Error> {
        let Ok(length @ 1..) = i64::try_from(self.needed) else { return Ok(()) };
        match nix::fcntl::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Err(errno) if FULL.contains(&errno) => Err(self.write_error(errno.into())),
            // Whatever else keeps it from reserving, the writes themselves will tell.
            _ => Ok(()),
        }
    }

    /// Appends, hashing on the way.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.is_synced = false;
        for chunk in bytes.chunks(CHUNK) {
            self.hasher.update(chunk);
            self.file.write_all(chunk).map_err(|error| self.write_error(error))?;
            let before = self.written;
            self.written += chunk.len() as u64;
            if before / WRITE_BACK_EVERY != self.written / WRITE_BACK_EVERY {
                self.start_write_back();
            }
        }
        Ok(())
    }

    /// Dirty pages go to the disk now; clean ones leave the page cache to the training data, as a
    /// checkpoint is read again only at the next start.
    fn start_write_back(&self) {
        // Advice only: a file system that ignores it writes everything at the sync.
        let _ =
            nix::fcntl::posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    /// Gives back what was reserved beyond the bytes written, where `needed` was an upper bound.
    pub(crate) fn cut(&mut self) -> Result<(), Error> {
        self.is_synced = false;
        self.file.set_len(self.written).map_err(|error| self.write_error(error))
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// Syncs the bytes ahead of [`Staged::publish`], for who holds a lock while he publishes.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        if !self.is_synced {
            self.file.sync_all().map_err(|error| self.write_error(error))?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Syncs the bytes and gives the file its name. The folder's own sync is the caller's, who may
    /// have more files to name.
    pub(crate) fn publish(mut self, existing: Existing) -> Result<(), Error> {
        self.sync()?;
        let renamed = match existing {
            Existing::Replace => rename(&self.temporary, &self.target),
            Existing::Refuse => rename_new(&self.temporary, &self.target),
        };
        renamed.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::AlreadyCommitted {
                path: self.target.parent().unwrap_or(&self.target).to_owned(),
            },
            _ => self.write_error(source),
        })
    }

    fn write_error(&self, source: io::Error) -> Error {
        let path = self.target.clone();
        if source.raw_os_error().is_some_and(|code| FULL.contains(&Errno::from_raw(code))) {
            let available = available_bytes(&self.file);
            return Error::DiskFull { path, needed: self.needed, available, source };
        }
        Error::Io { action: "write", path, source }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `publish` the name is gone already; after an error the error is what matters.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn available_bytes(file: &File) -> Option<u64> {
    let stat = nix::sys::statvfs::fstatvfs(file).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

fn create_temporary(folder: &Path, name: &str) -> Result<(File, PathBuf), Error> {
    const TRIES: usize = 8;
    let mut last = None;
    for _ in 0..TRIES {
        // Unique among processes and nodes; `create_new` makes sure.
        let chance = RandomState::new().hash_one(std::process::id());
        let path = folder.join(format!(".{name}.{chance:016x}{TEMPORARY_SUFFIX}"));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
            Err(error) => return Err(failed("create", &folder.join(name))(error)),
        }
    }
    let error = last.expect("a loop of at least one try ended without a file");
    Err(failed("create", &folder.join(name))(error))
}

/// The name of the file that a temporary file was to become.
pub(crate) fn temporary_of(name: &str) -> Option<&str> {
    let inner = name.strip_prefix('.')?.strip_suffix(TEMPORARY_SUFFIX)?;
    let (target, chance) = inner.rsplit_once('.')?;
    (chance.len() == 16 && chance.bytes().all(|b| b.is_ascii_hexdigit())).then_some(target)
}
