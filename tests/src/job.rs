//! Small job files for tests.

/// A job that trains a tiny LSTM on `sine` with 2 ranks; `more` is appended TOML of further keys.
#[derive(Debug, Clone)]
pub struct TinyJob {
    pub world: u32,
    pub stage: u32,
    /// They alone end it: its epochs are 20 steps each, and more than any test waits for.
    pub max_steps: u64,
    /// Lines for `[training]`.
    pub training: String,
    /// Lines for `[checkpoint]`.
    pub checkpoint: String,
    /// Whole further tables.
    pub more: String,
}

impl Default for TinyJob {
    fn default() -> Self {
        Self {
            world: 2,
            stage: 2,
            max_steps: 20,
            training: String::new(),
            checkpoint: String::new(),
            more: String::new(),
        }
    }
}

impl TinyJob {
    pub fn toml(&self) -> String {
        let Self { world, stage, max_steps, training, checkpoint, more } = self;
        format!(
            r#"[job]
name = "tiny"
seed = 7
[resources]
world-size = {world}
[model]
kind = "lstm"
hidden-size = 16
num-layers = 2
dropout = 0.1
[data]
kind = "sine"
samples = 640
validation-samples = 64
window = 20
[training]
epochs = 1000000
early-stopping = 0
batch-size = 32
max-steps = {max_steps}
{training}
[deepspeed.zero_optimization]
stage = {stage}
[checkpoint]
{checkpoint}
{more}
"#
        )
    }
}
