//! Who may have programs of their own run: whoever knows the text of `command-secret` in the data folder;
//! everybody, where there is no such file. Other users of a machine reach a port of loopback, too.

use std::io;
use std::path::Path;

/// In the data folder: whoever can read it can read the store.
const FILE: &str = "command-secret";

/// What a submit or a requeue has to know. Its hash alone is kept, and is compared in constant time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permit(Option<blake3::Hash>);

impl Permit {
    pub(crate) fn read(data_folder: &Path) -> io::Result<Self> {
        let path = data_folder.join(FILE);
        match fs_err::read(&path) {
            Ok(text) if text.trim_ascii().is_empty() => {
                Err(io::Error::other(format!("{} is empty", path.display())))
            }
            Ok(text) => Ok(Self(Some(blake3::hash(text.trim_ascii())))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn admits(&self, secret: &str) -> bool {
        self.0.is_none_or(|known| blake3::hash(secret.trim().as_bytes()) == known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_knows_the_secret_is_admitted_and_without_one_everybody() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Permit::read(folder.path()).unwrap().admits(""));
        let file = folder.path().join(FILE);
        fs_err::write(&file, "a secret\n").unwrap();
        let permit = Permit::read(folder.path()).unwrap();
        assert!(permit.admits("a secret") && !permit.admits("") && !permit.admits("a secre"));
        fs_err::write(&file, "\n").unwrap();
        let error = Permit::read(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("command-secret is empty"), "{error}");
    }
}
