//! The DeepSpeed configurations of our first users load as they are.

use super::*;

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

fn load_config(name: &str, strict: bool) -> Result<Loaded, Mistakes> {
    let text =
        format!("deepspeed-config = \"configs/deepspeed/{name}.json\"\n[data]\nkind = \"sine\"\n");
    load(&Input {
        name: "job.toml",
        text: &text,
        base_dir: &repository(),
        caller_dir: Path::new("/home/ada"),
        overrides: &[],
        strict,
        read: &|path| fs_err::read_to_string(path),
        variable: &|_| None,
    })
}

#[test]
fn every_configuration_of_our_first_users_loads() {
    let files = fs_err::read_dir(repository().join("configs/deepspeed")).unwrap();
    assert_eq!(files.count(), CONFIGS.len(), "a configuration that no test loads");
    for name in CONFIGS {
        let loaded =
            load_config(name, false).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
        for world in 1..=4 {
            batch::plan(&loaded.spec.training.batch, world).unwrap();
        }
    }
}

#[test]
fn every_key_of_theirs_is_explained() {
    for name in CONFIGS {
        let loaded = load_config(name, false).unwrap();
        let text =
            fs_err::read_to_string(repository().join(format!("configs/deepspeed/{name}.json")))
                .unwrap();
        let (table, _) = hjson::parse(&Arc::from(name), &text).unwrap();
        for entry in &table.entries {
            let key = format!("deepspeed.{}", entry.key);
            let explained = loaded.explain.iter().filter(|row| row.key.starts_with(&key));
            assert!(explained.clone().count() > 0, "{name}: {key}");
            assert!(explained.clone().all(|row| !row.meaning.is_empty()), "{name}: {key}");
        }
    }
}
