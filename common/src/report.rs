//! What is wrong, doubtful or worth saying about a job's configuration, collected while it is
//! read, so that all of it is told at once. Reads nothing itself.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where: `job.toml:12`, `--set training.epochs=0`.
    pub place: String,
    /// `training.epochs`; empty where a file as a whole is wrong.
    pub key: String,
    /// As written, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, value, message } = self;
        write!(f, "{place}: ")?;
        match (key.is_empty(), value) {
            (true, _) => f.write_str(message),
            (false, Some(value)) => write!(f, "{key} = {value}: {message}"),
            (false, None) => write!(f, "{key}: {message}"),
        }
    }
}

/// Everything that is wrong with a job, and what was doubtful besides. Displayed as one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Mistakes {
    pub mistakes: Vec<Mistake>,
    pub warnings: Vec<String>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}
