//! `config explain` shows every value, and `effective.toml` reads back.

use super::*;

/// Leaves of the JSON form of a job, in the words of the job file.
fn leaves(prefix: &str, value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                leaves(&format!("{prefix}.{key}"), value, out);
            }
        }
        _ => out.push(prefix.trim_start_matches('.').to_owned()),
    }
}

/// Where the effective job says it with other words than the job file.
fn in_job_file_words(leaf: &str) -> String {
    let leaf = leaf.replace("data.source.", "data.");
    for (effective, written) in [
        ("training.batch.mismatch", "training.batch-mismatch"),
        ("training.batch.batch-size.", "training.batch-size"),
        ("training.batch.micro-batch-size.", "training.micro-batch-size"),
        ("training.batch.gradient-accumulation.", "training.gradient-accumulation"),
        ("training.optimizer.rule.kind", "training.optimizer"),
        ("training.optimizer.rule.", "training.optimizer."),
        ("training.optimizer.", "training."),
        ("training.precision.asked", "training.precision"),
        ("training.precision.effective", "training.effective-precision"),
        ("training.validate.every-epochs", "training.validate-every-epochs"),
        ("training.validate.every-steps", "training.validate-every-steps"),
    ] {
        if let Some(rest) = leaf.strip_prefix(effective) {
            return match effective.ends_with('.') && effective.contains("optimizer") {
                true => format!("{written}{rest}"),
                false => written.to_owned(),
            };
        }
    }
    leaf
}

#[test]
fn every_value_of_the_effective_job_is_explained() {
    let texts = [
        "data.kind = \"sine\"\n",
        "data.kind = \"synthetic-timeseries\"\n[training]\nvalidate-every-steps = 3\nmax-steps = 9\n",
        "data.kind = \"csv\"\ndata.path = \"x\"\n[checkpoint]\nresume = \"best\"\ndir = \"d\"\n\
         [training]\nprecision = \"fp16\"\nearly-stopping = 3\n[job.labels]\na = \"b\"\n\
         [deepspeed.scheduler]\ntype = \"WarmupCosineLR\"\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"adam\"\nschedule = { kind = \"one-cycle\", \
         min-lr = 0.1, max-lr = 1, decay-steps = 2 }\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"sgd\"\n\
         schedule = { kind = \"step\", step-size = 3 }\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"lamb\"\nschedule = \"lr-range-test\"\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"rmsprop\"\n\
         schedule = { kind = \"cosine-restarts\", first-period = 3 }\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"adagrad\"\nschedule = \"warmup-decay-lr\"\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"nadam\"\n",
        "data.kind = \"sine\"\n[training]\noptimizer = \"lion\"\n",
        "data.kind = \"sine\"\n[resources]\nhosts = [\"a\", { name = \"b\", slots = 2 }]\n",
        "data.kind = \"sine\"\n[deepspeed.scheduler]\ntype = \"WarmupLR\"\n\
         [deepspeed.tensorboard]\nenabled = true\n",
    ];
    for text in texts {
        let loaded = job(text).load().unwrap();
        let mut spec = loaded.spec.clone();
        spec.notes.clear();
        let mut all = Vec::new();
        leaves("", &serde_json::to_value(&spec).unwrap(), &mut all);
        for leaf in all {
            let key = in_job_file_words(&leaf);
            // Said only where it differs from what is asked for.
            let is_default = ["notes", "training.effective-precision", "job.labels", "job.env"];
            if is_default.contains(&key.as_str()) {
                continue;
            }
            assert!(loaded.explain.iter().any(|row| row.key == key), "{key} of:\n{text}");
        }
        for row in &loaded.explain {
            assert!(!row.meaning.is_empty(), "explain/meaning.rs does not know {}", row.key);
        }
        let keys: Vec<_> = loaded.explain.iter().map(|row| &row.key).collect();
        let mut unique = keys.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), keys.len(), "a key is explained twice: {keys:?}");
    }
}

#[test]
fn an_effective_job_survives_toml_and_json() {
    let text = r#"
[job]
labels = { team = "ocean" }
env = { A = "1" }
seed = 9223372036854775807
collective-timeout = 1.5
[resources]
hosts = ["a", { name = "b", slots = 2 }, { name = "c", slots = [1, 3] }]
[data]
kind = "csv"
path = "x.csv"
split = [0.6, 0.2, 0.2]
[checkpoint]
resume = "/x/step-00000001"
[training]
max-steps = 7
validate-every-steps = 3
early-stopping = { patience = 3, min-delta = 1e-9 }
[deepspeed]
steps_per_print = 5
train_micro_batch_size_per_gpu = 3
[deepspeed.scheduler]
type = "WarmupCosineLR"
[deepspeed.csv_monitor]
enabled = true
"#;
    let spec = job(text).spec();
    let toml = explain::to_toml(&spec).unwrap();
    assert_eq!(explain::from_toml(&toml).unwrap(), spec);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&json).unwrap(), spec);
}

#[test]
fn an_effective_job_is_no_job_file() {
    let spec = job("data.kind = \"sine\"\n").spec();
    let toml = explain::to_toml(&spec).unwrap();
    job(&toml).check(&expect![[r#"
        job.toml: this is an effective job, written to be read; run the job.toml beside it
    "#]]);
}

/// A key that can be set and is not documented would be found by nobody.
#[test]
fn every_key_is_documented() {
    let text = fs_err::read_to_string(repository().join("docs/configuration.md")).unwrap();
    let section = |name: &str| {
        let rest = text.split_once(&format!("### `[{name}]`")).unwrap().1;
        rest.split("\n#").next().unwrap().to_owned()
    };
    let texts = [
        "data.kind = \"sine\"\n[training]\nvalidate-every-steps = 3\n[job.labels]\na = \"b\"\n",
        "data.kind = \"synthetic-timeseries\"\n[job.env]\nA = \"b\"\n",
        "data.kind = \"csv\"\ndata.path = \"x\"\n",
    ];
    // Set in the DeepSpeed configuration alone, whose keys have their own table.
    let is_deepspeeds = |key: &str| {
        let own = ["betas", "eps", "decoupled-decay", "bias-correction", "steps-per-print"];
        own.contains(&key) || key.starts_with("schedule") || key.starts_with("deepspeed-")
    };
    for row in texts.iter().flat_map(|text| job(text).load().unwrap().explain) {
        let (name, key) = row.key.split_once('.').unwrap();
        let key = key.split('.').next().unwrap();
        if name == "zero" || is_deepspeeds(key) {
            continue;
        }
        assert!(section(name).contains(&format!("`{key}`")), "{name}.{key}");
    }
}
