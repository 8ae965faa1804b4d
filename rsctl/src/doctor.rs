//! What `rsctl doctor` finds and what it thinks of it. Facts are gathered in `look`; `here` and `cluster` judge
//! them and are pure.

use serde::Serialize;

pub(crate) mod cluster;
pub(crate) mod here;
pub(crate) mod look;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok,
    /// Jobs run, and somebody may be surprised.
    Warn,
    /// Something that a job needs does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Stable: scripts choose by it.
    pub(crate) id: String,
    pub(crate) status: Status,
    pub(crate) found: String,
    /// What to do; None where nothing is to be done.
    pub(crate) hint: Option<String>,
}

impl Check {
    fn ok(id: impl Into<String>, found: impl Into<String>) -> Self {
        Self { id: id.into(), status: Status::Ok, found: found.into(), hint: None }
    }

    fn warn(id: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Status::Warn, hint: Some(hint.into()), ..Self::ok(id, found) }
    }

    fn fail(id: impl Into<String>, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: Status::Fail, hint: Some(hint.into()), ..Self::ok(id, found) }
    }
}

#[cfg(test)]
mod tests;
