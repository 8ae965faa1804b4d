//! Who this worker is: a uuid for the life of its state folder, and a counter of its lives.

use std::io;
use std::path::{Path, PathBuf};

use common::ids::{Incarnation, WorkerId};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FILE: &str = "identity.json";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read this worker's identity")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("this worker's identity `{}` is damaged", .path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("write this worker's identity")]
    Write {
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Written {
    uuid: Uuid,
    incarnation: u64,
}

/// Begins a new life: the stored counter grows by one and is durable before this returns. The
/// caller holds the folder's lock.
pub(crate) fn begin_life(state_dir: &Path) -> Result<WorkerId, Error> {
    let path = state_dir.join(FILE);
    let last = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Written { uuid: Uuid::new_v4(), incarnation: 0 }
        }
        Err(source) => return Err(Error::Read { source }),
    };
    let now = Written { incarnation: last.incarnation + 1, ..last };
    let json = serde_json::to_vec(&now).expect("a uuid and a number are always JSON");
    service::files::replace(&path, &json).map_err(|source| Error::Write { source })?;
    Ok(WorkerId { uuid: now.uuid, incarnation: Incarnation(now.incarnation) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_keeps_the_uuid_and_counts_up() {
        let folder = tempfile::tempdir().unwrap();
        let first = begin_life(folder.path()).unwrap();
        let second = begin_life(folder.path()).unwrap();
        assert_eq!(first.uuid, second.uuid);
        assert_eq!((first.incarnation, second.incarnation), (Incarnation(1), Incarnation(2)));
    }

    #[test]
    fn a_damaged_identity_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let error = begin_life(folder.path()).unwrap_err();
        assert!(error.to_string().contains("identity.json"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), "{");
    }
}
