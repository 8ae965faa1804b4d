//! The DeepSpeed configurations of our first users train: five steps of a small LSTM on two ranks.

use std::path::Path;

use common::jobfile::{self, Loaded, Mistakes, Override};

use super::ranks::Attempt;

const CONFIGS: [&str; 11] = [
    "ds_config_rnn",
    "ds_config_basic_rnn",
    "ds_config_ddp",
    "ds_config_fsdp_stage2",
    "ds_config_fsdp_stage3",
    "zero-2",
    "zero-3",
    "deepspeed_config",
    "single_node_config",
    "multi_node_config",
    "large_model_stage3_config",
];

const JOB: &str = "\
[job]
collective-timeout = 20
[model]
kind = \"lstm\"
hidden-size = 8
num-layers = 1
dropout = 0.0
[data]
kind = \"sine\"
samples = 800
validation-samples = 40
window = 8
[training]
max-steps = 5
";

fn load(name: &str, caller_dir: &Path) -> Result<Loaded, Mistakes> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = format!("deepspeed-config = \"configs/deepspeed/{name}.json\"\n{JOB}");
    jobfile::load(&jobfile::Input {
        name: "job.toml",
        text: &text,
        base_dir: root,
        caller_dir,
        overrides: &[Override::flag("resources.world-size", 2, "test")],
        strict: false,
        read: &|path| fs_err::read_to_string(path),
        variable: &|_| None,
    })
}

#[test]
fn every_configuration_of_our_first_users_trains_five_steps() {
    for name in CONFIGS {
        let dir = tempfile::tempdir().unwrap();
        let loaded = load(name, dir.path()).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
        let (outcome, heard) = Attempt::new(loaded.spec, 2, dir.path()).run().unwrap();
        let summary = outcome.summary.unwrap();
        assert_eq!(summary.steps, 5, "{name}");
        let losses = heard.losses.lock().unwrap();
        assert_eq!(losses.len(), 5, "{name}");
        assert!(losses.iter().all(|loss| loss.is_finite()), "{name}: {losses:?}");
    }
}
