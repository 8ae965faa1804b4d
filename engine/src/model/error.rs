//! What can be wrong with a model or its initial weights.

use std::fmt;

use tch::{Kind, TchError};

use crate::native;

/// A model could not be made or applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{key} = {value}: expected {expected}")]
    Setting { key: &'static str, value: String, expected: &'static str },
    #[error("the model has {elements} parameters; the limit is {limit}")]
    TooLarge { elements: usize, limit: usize },
    #[error("read initial weights `{path}`")]
    ReadWeights { path: String, source: std::io::Error },
    #[error("parse initial weights `{path}` (model.init-from takes a safetensors file)")]
    ParseWeights { path: String, source: safetensors::SafeTensorError },
    #[error("initial weights `{path}` do not fit the model: {mismatch}")]
    MismatchedWeights { path: String, mismatch: Mismatch },
    #[error("input of shape {found:?}: expected {expected}, all positive")]
    InputShape { found: Vec<i64>, expected: String },
    #[error("a model of kind `{kind}` cannot read {input}")]
    InputOfOtherKind { kind: &'static str, input: String },
    #[error("make buffer `{name}`")]
    Buffer { name: String, source: TchError },
    #[error("input of kind {found:?}: expected Float")]
    InputKind { found: Kind },
    #[error("make parameter `{name}`")]
    Parameter { name: String, source: TchError },
    #[error(transparent)]
    Native(#[from] native::Error),
    #[error("{operation}")]
    Torch { operation: &'static str, source: TchError },
}

impl Error {
    pub(super) fn setting<T>(
        key: &'static str,
        value: impl ToString,
        expected: &'static str,
    ) -> Result<T, Self> {
        Err(Self::Setting { key, value: value.to_string(), expected })
    }

    pub(super) fn torch(operation: &'static str, source: TchError) -> Self {
        Self::Torch { operation, source }
    }

    /// Whether the job asks for what cannot be, rather than libtorch having failed.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. }
                | Self::TooLarge { .. }
                | Self::InputOfOtherKind { .. }
                | Self::ReadWeights { .. }
                | Self::ParseWeights { .. }
                | Self::MismatchedWeights { .. }
        )
    }
}

/// Everything that is wrong with a weights file, told at once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The model has them, the file does not.
    pub missing: Vec<String>,
    /// The file has them, the model does not.
    pub unexpected: Vec<String>,
    /// What is wrong with a tensor that both have.
    pub wrong: Vec<String>,
}

impl Mismatch {
    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            [("missing", &self.missing), ("unexpected", &self.unexpected), ("wrong", &self.wrong)];
        let mut separator = "";
        for (word, names) in parts {
            if !names.is_empty() {
                write!(f, "{separator}{word}: {}", names.join(", "))?;
                separator = "; ";
            }
        }
        Ok(())
    }
}
