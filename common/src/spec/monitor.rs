//! `[monitor]`: what a run writes down for people, besides its log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Diagnostics;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Monitor {
    pub tensorboard: bool,
    pub csv: bool,
    /// A DeepSpeed `tensorboard` block: another folder that gets the event files too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deepspeed_tensorboard_dir: Option<PathBuf>,
    /// A DeepSpeed `csv_monitor` block: folder of its per-tag files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deepspeed_csv_dir: Option<PathBuf>,
    #[serde(default)]
    pub diagnostics: Diagnostics,
}
