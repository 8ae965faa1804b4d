//! `[checkpoint]`: when states are saved, where, and which one a run continues from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Checkpoint {
    /// Absolute path or URL of the root; None: `<output-dir>/<job id>/checkpoints`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_epochs: Option<u32>,
    pub keep_last: u32,
    pub keep_best: u32,
    #[serde(rename = "async")]
    pub asynchronous: bool,
    pub resume: Resume,
    pub layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resume {
    /// The newest whole checkpoint under the root, older ones where it is corrupt; none: start anew.
    Auto,
    Never,
    Best,
    Latest,
    Epoch(u64),
    Step(u64),
    /// A checkpoint directory (`.../step-00000120`), absolute.
    Path(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    Auto,
    Shared,
}
