//! Writing files that come from another machine: nothing it names escapes the folder, and a file
//! appears whole or not at all.

use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use tempfile::NamedTempFile;

use common::exit::ExitCode;
use service::exit::Failure;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("make folder")]
    Folder(#[source] io::Error),
    #[error("refuse file name `{name}` from the other side: {why}")]
    Name { name: String, why: &'static str },
    #[error("write `{name}`")]
    Write {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("`{name}` came in pieces that do not belong together")]
    Interleaved { name: String },
    #[error("the transfer ended in the middle of `{name}`")]
    Cut { name: String },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(ExitCode::Failed, error)
    }
}

/// Takes chunks; at most one file is open at a time.
#[derive(Debug)]
pub(crate) struct Receiver {
    folder: PathBuf,
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    name: String,
    target: PathBuf,
    file: NamedTempFile,
}

impl Receiver {
    /// Makes `folder` where it is missing.
    pub(crate) fn new(folder: &Path) -> Result<Self, Error> {
        fs_err::create_dir_all(folder).map_err(Error::Folder)?;
        Ok(Self { folder: folder.to_owned(), open: None })
    }

    /// Takes one chunk; gives the file's name when it is whole.
    pub(crate) fn accept(
        &mut self,
        name: &str,
        data: &[u8],
        last: bool,
    ) -> Result<Option<String>, Error> {
        let mut open = match self.open.take() {
            Some(open) if open.name == name => open,
            Some(open) => return Err(Error::Interleaved { name: open.name }),
            None => self.create(name)?,
        };
        let failed = |source| Error::Write { name: name.to_owned(), source };
        open.file.write_all(data).map_err(failed)?;
        if !last {
            self.open = Some(open);
            return Ok(None);
        }
        open.file.as_file().sync_all().map_err(failed)?;
        open.file.persist(&open.target).map_err(|error| failed(error.error))?;
        Ok(Some(open.name))
    }

    /// The transfer has ended; a file in the middle of its way is removed and named.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.open {
            Some(open) => Err(Error::Cut { name: open.name }),
            None => Ok(()),
        }
    }

    fn create(&self, name: &str) -> Result<OpenFile, Error> {
        let parts = parts(name)?;
        let (file_name, folders) = parts.split_last().expect("a checked name has a part");
        let mut parent = self.folder.clone();
        for part in folders {
            parent.push(part);
            self.make_folder(name, &parent)?;
        }
        let failed = |source| Error::Write { name: name.to_owned(), source };
        let file =
            tempfile::Builder::new().prefix(".fetching-").tempfile_in(&parent).map_err(failed)?;
        // A temporary file is private to its maker; results are for everybody the folder is for.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(readable).map_err(failed)?;
        // `persist` replaces a link at the target itself and never follows it.
        Ok(OpenFile { name: name.to_owned(), target: parent.join(file_name), file })
    }

    /// A real folder: a link in our folder could lead anywhere.
    fn make_folder(&self, name: &str, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write { name: name.to_owned(), source };
        match fs_err::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(Error::Name {
                name: name.to_owned(),
                why: "one of its folders is a link or a file here",
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs_err::create_dir(path).map_err(failed)
            }
            Err(source) => Err(failed(source)),
        }
    }
}

/// The parts of a relative path that only goes down.
fn parts(name: &str) -> Result<Vec<String>, Error> {
    let refuse = |why| Error::Name { name: name.chars().take(200).collect(), why };
    if name.contains(['\0', '\\']) {
        return Err(refuse("it holds a NUL or a backslash"));
    }
    if name.is_empty() || name.ends_with('/') {
        return Err(refuse("it names no file"));
    }
    Path::new(name)
        .components()
        .map(|component| match component {
            Component::Normal(part) => Ok(part.to_string_lossy().into_owned()),
            _ => Err(refuse("it must be relative and only go down")),
        })
        .collect()
}

#[cfg(test)]
mod tests;
