//! What a coordinator that we start wants to hear from who has programs run. Other users reach its port;
//! what is in this file of its data folder they cannot read. It stands on no command line, in no log and in
//! no environment of a daemon, and no worker knows it.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

const FILE: &str = "command-secret";

/// Where it is for a coordinator of this data folder.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// A new one, for a coordinator that is about to start.
pub(crate) fn renew(data_dir: &Path) -> io::Result<String> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let secret = uuid::Uuid::new_v4().to_string();
    // Such files are 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
    file.write_all(secret.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path(data_dir)).map_err(|error| error.error)?;
    Ok(secret)
}

/// The one that is there, which people have noted, or a new one.
pub(crate) fn keep(data_dir: &Path) -> io::Result<()> {
    match fs_err::read(path(data_dir)) {
        Ok(text) if !text.trim_ascii().is_empty() => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => renew(data_dir).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_its_owners_alone_and_stays_where_it_is_to_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("a/coordinator");
        let first = renew(&data_dir).unwrap();
        let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data_dir), mode(&path(&data_dir))), (0o700, 0o600));
        let said = || fs_err::read_to_string(path(&data_dir)).unwrap();
        keep(&data_dir).unwrap();
        assert_eq!(said(), first);
        assert_ne!(renew(&data_dir).unwrap(), first);
        fs_err::write(path(&data_dir), "\n").unwrap();
        keep(&data_dir).unwrap();
        assert_eq!(said().len(), first.len(), "an empty one is none");
    }
}
