//! One process per state or data folder, held by the kernel: a lock of a killed process is free at
//! once, and no stale file ever needs cleaning.

use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::fcntl::OFlag;

const LOCK_FILE: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} `{}` is in use by process {}", .folder.display(), .holder.as_deref().unwrap_or("unknown"))]
    Held { what: &'static str, flag: &'static str, folder: PathBuf, holder: Option<String> },
    #[error("lock {what} `{}`", .folder.display())]
    Io {
        what: &'static str,
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Held { flag, .. } => {
                Some(format!("stop that process, or give this one its own folder with {flag}"))
            }
            Self::Io { .. } => None,
        }
    }
}

/// A locked folder; dropping it, or the end of the process, frees the folder.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    _file: std::fs::File,
}

impl FolderLock {
    /// Creates `folder` if needed and locks it. `what` names it in errors (`state folder`), `flag`
    /// is the option that chooses another one.
    pub fn acquire(folder: &Path, what: &'static str, flag: &'static str) -> Result<Self, Error> {
        let io = |source| Error::Io { what, folder: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Whoever can write to the folder must not have another file of ours overwritten.
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(folder.join(LOCK_FILE))
            .map_err(io)?;
        let mut file = file.into_parts().0;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder's number only helps a person; without it the refusal stands.
                let _ = (&file).take(32).read_to_string(&mut text);
                let holder = Some(text.trim().to_owned()).filter(|pid| !pid.is_empty());
                return Err(Error::Held { what, flag, folder: folder.to_owned(), holder });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(io)?;
        Ok(Self { folder: folder.to_owned(), _file: file })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
