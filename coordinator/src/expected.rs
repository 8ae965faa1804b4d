//! The hostfile of `coordinator serve --hostfile`: the nodes that an operator expects.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use common::hostfile::{Filter, Hostfile, Mistakes, NotThere};
use common::spec::{Hosts, InvalidHosts};

/// A hostfile is smaller; whatever is larger is refused by its parser.
const MAX_BYTES: u64 = 4 << 20;

/// Why it is not known which nodes to expect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read hostfile")]
    Read(#[source] std::io::Error),
    #[error("hostfile `{}` is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("{0}")]
    Mistakes(Mistakes),
    #[error(transparent)]
    Nothing(#[from] NotThere),
    #[error("{} {problem}", .path.display())]
    Hosts { path: PathBuf, problem: InvalidHosts },
}

/// The nodes that the file lists.
pub(crate) fn read(path: &Path) -> Result<Hosts, Error> {
    // Looked at before it is opened: opening a pipe waits for its writer.
    if !fs_err::metadata(path).map_err(Error::Read)?.is_file() {
        return Err(Error::NotAFile(path.to_owned()));
    }
    let mut text = String::new();
    let file = fs_err::File::open(path).map_err(Error::Read)?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(Error::Read)?;
    let hostfile = Hostfile::parse(&path.display().to_string(), &text).map_err(Error::Mistakes)?;
    let selection = hostfile.select(&Filter::All)?;
    selection.to_hosts().map_err(|problem| Error::Hosts { path: path.to_owned(), problem })
}
