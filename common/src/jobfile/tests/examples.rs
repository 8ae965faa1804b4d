//! The complete examples under `configs/` load, and say what they say.

use expect_test::{ExpectFile, expect_file};

use super::*;

fn load_example(name: &str) -> Loaded {
    load_from("configs/jobs", name, &[])
}

fn load_from(folder: &str, name: &str, overrides: &[Override]) -> Loaded {
    let base_dir = repository().join(folder);
    let text = fs_err::read_to_string(base_dir.join(name)).unwrap();
    let loaded = load(&Input {
        name,
        text: &text,
        base_dir: &base_dir,
        caller_dir: Path::new("/home/ada"),
        overrides,
        strict: false,
        read: &|path| fs_err::read_to_string(path),
        variable: &|_| None,
    });
    loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The effective job of an example, and its warnings.
fn check(name: &str, expected: &ExpectFile) {
    let loaded = load_example(name);
    let mut shown = explain::to_toml(&loaded.spec).unwrap();
    shown = shown.replace(repository().to_str().unwrap(), "<repository>");
    for warning in loaded.warnings {
        shown.push_str(&format!("# warning: {warning}\n"));
    }
    expected.assert_eq(&shown);
}

#[test]
fn every_example_loads_and_names_files_that_exist() {
    let mut count = 0;
    for entry in fs_err::read_dir(repository().join("configs/jobs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let loaded = load_example(&name);
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{name}");
        let again = explain::from_toml(&explain::to_toml(&loaded.spec).unwrap()).unwrap();
        assert_eq!(again, loaded.spec, "{name}");
        for world in 1..=4 {
            batch::plan(&loaded.spec.training.batch, world).unwrap();
        }
        count += 1;
    }
    assert!(count >= 4, "{count} examples");
}

#[test]
fn the_sine_example_is_the_basic_lstm_of_deepspeed_users() {
    check("sine-lstm.toml", &expect_file!["./examples/sine-lstm.toml"]);
}

#[test]
fn the_timeseries_example_converts_the_cosine_schedule() {
    check("timeseries-lstm.toml", &expect_file!["./examples/timeseries-lstm.toml"]);
}

#[test]
fn the_csv_examples_need_no_deepspeed_file() {
    check("co2-lstm.toml", &expect_file!["./examples/co2-lstm.toml"]);
    check("electricity-gru.toml", &expect_file!["./examples/electricity-gru.toml"]);
}

#[test]
fn every_model_of_the_launch_scripts_takes_every_strategy_and_batch() {
    let files = fs_err::read_dir(repository().join("configs/launch")).unwrap();
    assert_eq!(files.count(), 3, "a model that no test loads");
    for (strategy, stage, accumulation) in
        [("ddp", 1, 1), ("fsdp_stage2", 2, 2), ("fsdp_stage3", 3, 1)]
    {
        let config = format!("deepspeed-config=../deepspeed/ds_config_{strategy}.json");
        let set = [config.as_str(), "deepspeed.train_micro_batch_size_per_gpu=8"];
        let set: Vec<_> = set.into_iter().map(|text| Override::set(text).unwrap()).collect();
        for model in ["lstm", "gru", "cnn"] {
            let spec = load_from("configs/launch", &format!("{model}.toml"), &set).spec;
            assert_eq!(spec.zero.stage, stage, "{model} {strategy}");
            let plan = batch::plan(&spec.training.batch, 4).unwrap();
            assert_eq!(plan.batch_size.value, 8 * accumulation * 4, "{model} {strategy}");
        }
    }
}
