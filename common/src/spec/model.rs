//! `[model]`: which network.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which network; in TOML and JSON an object with `kind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Model {
    Lstm(Recurrent),
    Gru(Recurrent),
    Cnn(Cnn),
}

/// LSTM or GRU layers, then a linear head on the last time step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recurrent {
    pub hidden_size: u32,
    pub num_layers: u32,
    /// Between recurrent layers.
    pub dropout: f64,
    /// Before `fc`.
    pub head_dropout: f64,
    pub bidirectional: bool,
    #[serde(default)]
    pub kernel: RecurrentKernel,
    /// Absolute path of a safetensors file with torch's parameter names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

/// Whose code runs recurrent layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecurrentKernel {
    /// The faster one, as far as it was measured.
    #[default]
    Auto,
    Libtorch,
    /// Our own: LSTM in fp32.
    Native,
}

/// Blocks of convolution, batch norm, ReLU and pooling by 2, then two linear layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cnn {
    /// Of each block's convolution.
    pub channels: Vec<u32>,
    /// Odd: convolutions keep height and width.
    pub kernel_size: u32,
    /// Width of `fc1`.
    pub hidden_size: u32,
    /// Before `fc2`.
    pub dropout: f64,
    /// Absolute path of a safetensors file with torch's names of parameters and buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

impl Model {
    /// The job file's word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lstm(_) => "lstm",
            Self::Gru(_) => "gru",
            Self::Cnn(_) => "cnn",
        }
    }

    pub fn init_from(&self) -> Option<&PathBuf> {
        match self {
            Self::Lstm(model) | Self::Gru(model) => model.init_from.as_ref(),
            Self::Cnn(model) => model.init_from.as_ref(),
        }
    }

    pub fn init_from_mut(&mut self) -> &mut Option<PathBuf> {
        match self {
            Self::Lstm(model) | Self::Gru(model) => &mut model.init_from,
            Self::Cnn(model) => &mut model.init_from,
        }
    }
}
