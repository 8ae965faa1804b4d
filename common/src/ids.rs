//! Names of things that cross a process boundary. Validated once, at the door.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{text}` must be 1 to {MAX_ID_LEN} of a-z, 0-9 and `-`, and start with a letter")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
}

/// Job ids become folder names, so they are short and hold nothing that a path could misread.
pub const MAX_ID_LEN: usize = 64;

/// What a user submitted: `<name>-<6 characters>`, also the name of its output folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    /// Joins a sanitised job name and a random suffix; `suffix` must itself be a-z and 0-9.
    pub fn from_name(name: &str, suffix: &str) -> Result<Self, InvalidId> {
        let mut slug = String::new();
        for c in name.chars().map(|c| c.to_ascii_lowercase()) {
            match c {
                'a'..='z' | '0'..='9' => slug.push(c),
                _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
                _ => {}
            }
        }
        // An id starts with a letter, and leaves room for the suffix and its dash.
        if !slug.starts_with(|c: char| c.is_ascii_lowercase()) {
            slug.insert_str(0, "job-");
        }
        slug.truncate((MAX_ID_LEN - 1).saturating_sub(suffix.len()));
        let slug = slug.trim_end_matches('-');
        format!("{slug}-{suffix}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if starts && text.len() <= MAX_ID_LEN && text.chars().all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId { kind: "job id", text: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for JobId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id! {
    /// The number of one try at a job, from 1.
    AttemptId(u32)
}
number_id! {
    /// A trainer's index in its attempt, 0..world.
    Rank(u32)
}
number_id! {
    /// Version of one job's rank table, in every message about that job; an older one changes
    /// nothing (A4). Grows with each attempt.
    Generation(u64)
}
number_id! {
    /// One life of a daemon: grows at every start.
    Incarnation(u64)
}

/// A worker's persistent identity and its current life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    pub uuid: Uuid,
    pub incarnation: Incarnation,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.uuid, self.incarnation)
    }
}

#[cfg(test)]
mod tests;
