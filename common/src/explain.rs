//! Every effective value of a job with its origin and its meaning, for `rsctl config explain`, and
//! the file that keeps the effective job beside its results.

use serde::Serialize;

use crate::spec::JobSpec;

mod meaning;

/// One value of the job as it will run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// In the words of the job file: `training.epochs`; `deepspeed.bf16.enabled` for what the
    /// DeepSpeed configuration says.
    pub key: String,
    /// As TOML; `-` where there is none.
    pub value: String,
    /// `job.toml:12`, `--set training.epochs=3`, `default`, `inferred from ...`.
    pub origin: String,
    /// What the key means, or why it is ignored.
    pub meaning: String,
}

impl Effective {
    /// A value whose key is in the job file's words, which have their meanings here.
    pub fn new(key: &str, value: String, origin: String) -> Self {
        let meaning = meaning::of(key).unwrap_or_default().to_owned();
        Self { key: key.to_owned(), value, origin, meaning }
    }
}

/// A key of the DeepSpeed configuration as it was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) is_auto: bool,
    pub(crate) place: String,
    pub(crate) meaning: String,
    /// The key of the effective job that it decides.
    pub(crate) decides: Option<&'static str>,
}

/// Sections in the order of the job file.
const SECTIONS: &[&str] = &[
    "job",
    "resources",
    "model",
    "data",
    "training",
    "zero",
    "checkpoint",
    "monitor",
    "restart",
    "slurm",
];

pub(crate) fn in_order(mut effective: Vec<Effective>) -> Vec<Effective> {
    let section = |row: &Effective| {
        let name = row.key.split('.').next().unwrap_or_default().to_owned();
        SECTIONS.iter().position(|known| **known == name)
    };
    effective.sort_by_key(section);
    effective
}

/// The lines of the DeepSpeed configuration; an `"auto"` shows the value that holds.
pub(crate) fn deepspeed_rows(written: Vec<Written>, effective: &[Effective]) -> Vec<Effective> {
    let row = |written: Written| {
        let Written { key, value, is_auto, place, meaning, decides } = written;
        let resolved =
            decides.filter(|_| is_auto).and_then(|key| effective.iter().find(|row| row.key == key));
        let (value, origin) = match resolved {
            Some(row) => (row.value.clone(), format!("{place} \"auto\": {}", row.origin)),
            None => (value, place),
        };
        Effective { key: format!("deepspeed.{key}"), value, origin, meaning }
    };
    written.into_iter().map(row).collect()
}

/// Said at start where the DeepSpeed configuration leaves values open: what became of them.
pub(crate) fn auto_note(written: &[Written], effective: &[Effective]) -> Option<String> {
    let resolved: Vec<String> = written
        .iter()
        .filter(|written| written.is_auto)
        .filter_map(|written| {
            let row = effective.iter().find(|row| Some(row.key.as_str()) == written.decides)?;
            let value = if row.value == "-" { "left open" } else { &row.value };
            Some(format!("{} = {value} ({})", written.key, row.origin))
        })
        .collect();
    (!resolved.is_empty()).then(|| format!("\"auto\" is {}", resolved.join(", ")))
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
