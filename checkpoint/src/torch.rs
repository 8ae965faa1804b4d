//! Files of `torch.save`, read and written without Python: a zip archive of a pickle and of one
//! file per storage.
//!
//! Promise: nothing in a file is executed. A pickle can name a program to run; here it can name
//! only what [`pickle`]'s list allows, and gets inert data for it. Sizes, counts and depths are
//! bounded before memory is taken. Refusal: no format but the zip one (torch 1.6 and later), no
//! compressed entries, no byte order but little-endian.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) mod pickle;
mod save;
mod tensor;
mod zip;

pub(crate) use pickle::{Pickle, walk};
#[cfg(test)]
pub(crate) use save::Writer;
pub(crate) use save::{Element, save, size};
pub(crate) use tensor::{Storages, TensorRef, to_f32};

/// A file that is not what `torch.save` writes, or more than this reader allows.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("is not a zip archive as torch 1.6 and later write it: {problem}")]
    NotZip { problem: String },
    #[error("entry `{entry}`: {problem}")]
    Entry { entry: String, problem: String },
    #[error("has no entry `{entry}`")]
    NoEntry { entry: String },
    #[error(
        "its pickle asks for `{module}.{name}`, which is not on the list of harmless names; nothing \
         was executed"
    )]
    ForbiddenGlobal { module: String, name: String },
    #[error("its pickle is broken or not torch's at byte {at}: {problem}")]
    Pickle { at: usize, problem: String },
    #[error("its pickle has more than {limit} {what}")]
    TooLarge { what: &'static str, limit: usize },
    #[error("its pickle contains itself (a list or a dictionary inside itself)")]
    Cycle,
    #[error("{path}: expected {expected}, found {found}")]
    Shape { path: String, expected: &'static str, found: String },
    #[error("tensor `{path}`: {problem}")]
    Tensor { path: String, problem: String },
}

/// An open `torch.save` file: its pickle as inert data, and its storages to read from.
#[derive(Debug)]
pub(crate) struct TorchFile {
    pub(crate) path: PathBuf,
    pub(crate) pickle: Pickle,
    pub(crate) storages: Storages,
}

impl TorchFile {
    pub(crate) fn open(path: &Path) -> Result<Self, TorchError> {
        let archive = zip::Archive::open(path)?;
        let storages = Storages::new(archive)?;
        let bytes = storages.pickle()?;
        let pickle = Pickle::parse(&bytes)?;
        Ok(Self { path: path.to_owned(), pickle, storages })
    }
}
