//! The generation fence: `<root>/generation` says which attempt at which job may commit (A6).
//!
//! Raising it and committing hold one lock each for the moment of the check, so a commit of an old
//! generation is either whole before the new one looks, or refused. Where the file system has no
//! locks, the check and the publication are two steps, some microseconds apart.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use common::ids::{Generation, JobId};

use crate::disk::{self, Existing, Staged, failed};
use crate::error::{Defect, Error};

const FENCE_FILE: &str = "generation";
const LOCK_FILE: &str = ".lock";

/// The lock is held for one rename and two syncs; a disk that needs longer is not well.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at a lock that is taken: at first it is a neighbour's, who makes a file or renames
/// one, then whoever waits for the disk.
const LOCK_POLL: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(5)];

/// A fence is one short line; more is not ours.
const MAX_FENCE: u64 = 4096;

/// Who may commit under a root. A new attempt raises the generation of its job; another job that
/// is given the same root takes it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub job_id: JobId,
    pub generation: Generation,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} of job {}", self.generation, self.job_id)
    }
}

/// The root's lock, given back when dropped.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    root: &'a Path,
    excludes_others: bool,
    /// Its closing unlocks.
    _file: File,
}

impl<'a> Locked<'a> {
    pub(crate) fn take(root: &'a Path) -> Result<Self, Error> {
        let path = root.join(LOCK_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // A link here would lock, and create, something else.
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .map_err(failed("open lock", &path))?;
        let start = Instant::now();
        let [mut pause, longest] = LOCK_POLL;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { root, excludes_others: true, _file: file }),
                Err(TryLockError::Error(error)) if has_no_locks(&error) => {
                    return Ok(Self { root, excludes_others: false, _file: file });
                }
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_TIMEOUT => {
                    return Err(Error::Busy { path, waited: LOCK_TIMEOUT });
                }
                Err(TryLockError::WouldBlock) => {
                    thread::sleep(pause);
                    pause = longest.min(2 * pause);
                }
            }
        }
    }

    /// False where the file system has no locks.
    pub(crate) fn excludes_others(&self) -> bool {
        self.excludes_others
    }

    /// None before the first attempt.
    pub(crate) fn current(&self) -> Result<Option<Fence>, Error> {
        read(self.root)
    }

    /// Raises the fence, or refuses where a newer generation of the same job already did.
    pub(crate) fn raise(&self, to: &Fence) -> Result<(), Error> {
        match self.current()? {
            Some(current) if current == *to => return Ok(()),
            Some(current) if current.job_id == to.job_id && current.generation > to.generation => {
                let path = self.root.to_owned();
                return Err(Error::Superseded { path, mine: to.clone(), current });
            }
            _ => {}
        }
        let mut bytes = serde_json::to_vec(to).expect("ids are JSON");
        bytes.push(b'\n');
        let mut staged = Staged::create(self.root, FENCE_FILE, bytes.len() as u64)?;
        staged.write(&bytes)?;
        staged.publish(Existing::Replace)?;
        disk::sync_folder(self.root)
    }

    /// Refuses unless the fence stands exactly where this attempt put it.
    pub(crate) fn check(&self, mine: &Fence) -> Result<(), Error> {
        let path = self.root.to_owned();
        let mine = mine.clone();
        match self.current()? {
            Some(current) if current == mine => Ok(()),
            None => Err(Error::NotRaised { path, mine }),
            Some(current)
                if current.job_id == mine.job_id && current.generation < mine.generation =>
            {
                Err(Error::NotRaised { path, mine })
            }
            Some(current) => Err(Error::Superseded { path, mine, current }),
        }
    }
}

pub(crate) fn read(root: &Path) -> Result<Option<Fence>, Error> {
    let bytes = match disk::read_small(root, FENCE_FILE, MAX_FENCE) {
        Err(Error::Defective { defect: Defect::Missing { .. }, .. }) => return Ok(None),
        other => other?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Defective {
        path: root.to_owned(),
        defect: Defect::Syntax { file: FENCE_FILE.to_owned(), source },
    })
}

fn has_no_locks(error: &std::io::Error) -> bool {
    let none = [Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::ENOLCK];
    error.raw_os_error().is_some_and(|code| none.contains(&Errno::from_raw(code)))
}
