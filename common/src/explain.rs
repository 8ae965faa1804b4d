//! Every effective value of a job with its origin, for `rsctl config explain`.

use serde::Serialize;

/// One value of the job as it will run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// In the words of the job file: `training.epochs`.
    pub key: String,
    /// As TOML.
    pub value: String,
    /// `job.toml:12`, `--set training.epochs=3`, `default`, `inferred from ...`.
    pub origin: String,
}
