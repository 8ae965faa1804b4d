//! Every effective value of a job with its origin, for `rsctl config explain`, and the file that
//! keeps the effective job beside its results.

use serde::Serialize;

use crate::spec::JobSpec;

/// One value of the job as it will run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// In the words of the job file: `training.epochs`.
    pub key: String,
    /// As TOML; `-` where there is none.
    pub value: String,
    /// `job.toml:12`, `--set training.epochs=3`, `default`, `inferred from ...`.
    pub origin: String,
}

/// Sections in the order of the job file.
const SECTIONS: &[&str] =
    &["job", "resources", "model", "data", "training", "zero", "checkpoint", "monitor"];

pub(crate) fn in_order(mut effective: Vec<Effective>) -> Vec<Effective> {
    let section = |row: &Effective| {
        let name = row.key.split('.').next().unwrap_or_default().to_owned();
        SECTIONS.iter().position(|known| **known == name)
    };
    effective.sort_by_key(section);
    effective
}

/// An effective job that is no TOML, or no job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("write the effective job as TOML")]
    Write(#[source] toml::ser::Error),
    #[error("read the effective job")]
    Read(#[source] toml::de::Error),
}

/// The content of `effective.toml`.
pub fn to_toml(spec: &JobSpec) -> Result<String, Error> {
    toml::to_string(spec).map_err(Error::Write)
}

/// Reads what `to_toml` wrote.
pub fn from_toml(text: &str) -> Result<JobSpec, Error> {
    toml::from_str(text).map_err(Error::Read)
}
