//! Whatever is wrong is told, all of it, with key, value, place and what would be right.

use super::*;
use crate::spec::DataSource;

#[test]
fn all_mistakes_are_told_together() {
    job(r#"
[job]
seed = -1
prioritty = 3
[resources]
world-size = "two"
[model]
kind = "lstmm"
hidden-size = 0
dropout = 1.0
[data]
kind = "sine"
windw = 50
[training]
epochs = 0
learning-rate = nan
[chekpoint]
every-steps = 5
"#)
    .check(&expect![[r#"
        job.toml:3: job.seed = -1: expected an integer of at least 0
        job.toml:4: job.prioritty: unknown key; did you mean `priority`?
        job.toml:6: resources.world-size = "two": expected an integer from 1 to 4096, found text
        job.toml:8: model.kind = "lstmm": did you mean `lstm`? expected `lstm`, `gru` or `cnn`
        job.toml:9: model.hidden-size = 0: expected an integer from 1 to 65536
        job.toml:10: model.dropout = 1: expected a number of at least 0 and below 1
        job.toml:13: data.windw: unknown key; did you mean `window`?
        job.toml:15: training.epochs = 0: expected an integer from 1 to 1000000
        job.toml:16: training.learning-rate = NaN: expected a number above 0
        job.toml:17: chekpoint: unknown key; did you mean `checkpoint`?
    "#]]);
}

#[test]
fn broken_toml_is_told_with_its_line() {
    job("[data]\nkind = \"sine\"\nwindow 50\nepochs = = 3\n").check(&expect![[r#"
        job.toml:3: not TOML: key with no value, expected `=`
        job.toml:4: not TOML: extra `=`, expected nothing
        job.toml:4: not TOML: unexpected key or value, expected newline, `#`
    "#]]);
    job("[data]\nkind = \"sine\"\nkind = \"csv\"\n").check(&expect![[r#"
        job.toml:3: not TOML: duplicate key
    "#]]);
}

#[test]
fn an_empty_job_says_what_is_missing() {
    job("").check(&expect![[r#"
        job.toml: data.kind: missing; expected `sine`, `synthetic-timeseries`, `csv` or `digits`
    "#]]);
    job("[data]\nkind = \"csv\"\n").check(&expect![[r#"
        job.toml: data.path: missing; kind = "csv" needs a file, relative to the job file
    "#]]);
    job("data = 3\n").check(&expect![[r#"
        job.toml: data.kind: missing; expected `sine`, `synthetic-timeseries`, `csv` or `digits`
        job.toml:1: data = 3: expected a table
    "#]]);
}

#[test]
fn mistakes_of_other_sections_are_told_beside_an_unknown_kind() {
    job("[data]\nkind = \"sinus\"\n[training]\nepochs = -3\n[model]\nlayers = 2\n").check(&expect![[r#"
        job.toml:2: data.kind = "sinus": did you mean `sine`? expected `sine`, `synthetic-timeseries`, `csv` or `digits`
        job.toml:4: training.epochs = -3: expected an integer from 1 to 1000000
        job.toml:6: model.layers: unknown key; did you mean `num-layers`?
    "#]]);
}

#[test]
fn keys_of_later_versions_are_refused_by_name() {
    job(r#"
[resources]
memory = "4GiB"
device = "rocm"
[model]
kind = "transformer"
channels = [4]
[data]
kind = "mnist"
[restart]
application = 3
[checkpoint]
dir = "s3://bucket/ckpt"
[monitor]
wandb = true
[training]
precision = "fp8"
optimizer = "muon"
"#)
    .check(&expect![[r#"
        job.toml:3: resources.memory = "4GiB": not supported yet: placement by it
        job.toml:4: resources.device = "rocm": not supported yet; this version has `auto`, `cpu` or `cuda`
        job.toml:6: model.kind = "transformer": not supported yet; this version has `lstm`, `gru` or `cnn`
        job.toml:9: data.kind = "mnist": not supported yet; this version has `sine`, `synthetic-timeseries`, `csv` or `digits`
        job.toml:13: checkpoint.dir = "s3://bucket/ckpt": not supported yet: s3:// ; this version has folders and file://
        job.toml:15: monitor.wandb = true: not supported yet: this monitor
        job.toml:17: training.precision = "fp8": not supported yet; this version has `fp32`, `bf16` or `fp16`
        job.toml:18: training.optimizer = "muon": not supported yet; this version has `adam`, `adamw`, `sgd`, `adagrad`, `rmsprop`, `lion`, `lamb` or `nadam`
    "#]]);
}

#[test]
fn a_key_of_another_kind_of_data_is_told_where_it_belongs() {
    job("[data]\nkind = \"csv\"\npath = \"x.csv\"\nnoise = 0.1\nsamples = 4\n").check(&expect![[r#"
        job.toml:4: data.noise: kind = "csv" has no such key; it belongs to sine and synthetic-timeseries
        job.toml:5: data.samples: kind = "csv" has no such key; it belongs to sine and synthetic-timeseries
    "#]]);
    job("[data]\nkind = \"sine\"\npath = \"x.csv\"\nsplit = [1, 0, 0]\n").check(&expect![[r#"
        job.toml:3: data.path: kind = "sine" has no such key; it belongs to csv and digits
        job.toml:4: data.split: kind = "sine" has no such key; it belongs to synthetic-timeseries, csv and digits
    "#]]);
    job("[data]\nkind = \"digits\"\nwindow = 4\n").check(&expect![[r#"
        job.toml:3: data.window: kind = "digits" has no such key; it belongs to sine, synthetic-timeseries and csv
    "#]]);
}

#[test]
fn a_model_has_the_keys_of_its_kind_and_reads_its_kind_of_data() {
    job("data.kind = \"sine\"\n[model]\nkind = \"lstm\"\nchannels = [8]\nkernel-size = 3\n").check(
        &expect![[r#"
            job.toml:4: model.channels: kind = "lstm" has no such key; it belongs to cnn
            job.toml:5: model.kernel-size: kind = "lstm" has no such key; it belongs to cnn
        "#]],
    );
    job("data.kind = \"digits\"\n[model]\nnum-layers = 2\nhidden-size = 0\nnum-classes = 10\n")
        .check(&expect![[r#"
            job.toml:3: model.num-layers: kind = "cnn" has no such key; it belongs to lstm and gru
            job.toml:4: model.hidden-size = 0: expected an integer from 1 to 65536
            job.toml:5: model.num-classes: the data tells how many classes there are
        "#]]);
    job("data.kind = \"sine\"\n[model]\nkind = \"cnn\"\n").check(&expect![[r#"
        job.toml:3: model.kind = "cnn": reads images, and `sine` has none; expected `lstm` or `gru`
    "#]]);
    job("data.kind = \"digits\"\n[model]\nkind = \"gru\"\n").check(&expect![[r#"
        job.toml:3: model.kind = "gru": reads series, and `digits` holds images; expected `cnn`
    "#]]);
    for channels in ["[]", "[0]", "8", "[8, 5000]"] {
        let wrong = job("data.kind = \"digits\"\n").set(&format!("model.channels={channels}"));
        let mistakes = wrong.load().unwrap_err().mistakes;
        assert_eq!((mistakes.len(), mistakes[0].key.as_str()), (1, "model.channels"), "{channels}");
    }
    job("data.kind = \"digits\"\nmodel.kernel-size = 4\n").check(&expect![[r#"
        job.toml:2: model.kernel-size = 4: expected an odd number: then images keep their size
    "#]]);
}

#[test]
fn names_of_other_tools_are_translated() {
    job(r#"
[data]
kind = "sine"
sequence_length = 50
[training]
lr = 0.1
gradient_accumulation_steps = 2
hidden_size = 3
num_epochs = 3
[resources]
gpus = 2
"#)
    .check(&expect![[r#"
        job.toml:4: data.sequence_length: unknown key; use `window`
        job.toml:6: training.lr: unknown key; use `learning-rate`
        job.toml:7: training.gradient_accumulation_steps: unknown key; use `gradient-accumulation`
        job.toml:8: training.hidden_size: unknown key
        job.toml:9: training.num_epochs: unknown key; use `epochs`
        job.toml:11: resources.gpus: unknown key; use `world-size`
    "#]]);
}

#[test]
fn values_that_cannot_be_are_told_with_what_can() {
    job(r#"
[job]
collective-timeout = "soon"
env = { "A=B" = "x", GOOD = 1, BAD = [] }
output-dir = ""
[data]
kind = "csv"
path = "x.csv"
columns = ["a", "a"]
targets = []
split = [0.9, 0.3, 0.1]
missing = "interpolat"
normalization = "minmax"
[checkpoint]
keep-last = 0
resume = "lastest"
dir = "file://relative"
[training]
early-stopping = { patience = 3, min-delta = -1.0, mode = "min" }
validate-every-epochs = 1
validate-every-steps = 10
batch-mismatch = "errors"
"#)
    .check(&expect![[r#"
        job.toml:3: job.collective-timeout = "soon": expected a time above 0 and up to ten years, such as `30s`, `5m`, `250ms`, or a number of seconds
        job.toml:4: job.env.BAD = []: expected text
        job.toml:4: job.env.A=B: expected the name and text of an environment variable
        job.toml:5: job.output-dir = "": expected text, found nothing in the quotes
        job.toml:9: data.columns = ["a", "a"]: `a` is listed twice
        job.toml:10: data.targets = []: the list is empty; leave the key out for every numeric column
        job.toml:11: data.split = [0.9, 0.3, 0.1]: expected [train, validation, test]: parts of at least 0 that sum to 1, the first above 0
        job.toml:12: data.missing = "interpolat": did you mean `interpolate`? expected `error`, `drop` or `interpolate`
        job.toml:13: data.normalization = "minmax": did you mean `min-max`? expected `none`, `standard`, `min-max` or `window`
        job.toml:15: checkpoint.keep-last = 0: expected an integer from 1 to 1000000
        job.toml:16: checkpoint.resume = "lastest": did you mean `latest`? expected auto, never, best, latest, epoch-N, step-N or a path with a `/`
        job.toml:17: checkpoint.dir = "file://relative": expected `file://` and an absolute path, or a path
        job.toml:19: training.early-stopping.min-delta = -1: expected a number of at least 0
        job.toml:19: training.early-stopping.mode: unknown key
        job.toml:21: training.validate-every-steps = 10: validate-every-epochs is given too, at job.toml:20; give one of them
        job.toml:22: training.batch-mismatch = "errors": did you mean `error`? expected `adapt` or `error`
    "#]]);
}

#[test]
fn csv_columns_are_indexes_without_a_header_and_names_with_one() {
    let base = "[data]\nkind = \"csv\"\npath = \"x.csv\"\n";
    job(&format!("{base}columns = [0, 1]\n")).check(&expect![[r#"
        job.toml:4: data.columns = [0, 1]: expected a list of column names (indexes need `header = false`)
    "#]]);
    job(&format!("{base}header = false\ncolumns = [\"co2\"]\n")).check(&expect![[r#"
        job.toml:5: data.columns = ["co2"]: expected a list of column indexes from 0, as the file has no header
    "#]]);
    let spec = job(&format!("{base}header = false\ncolumns = [0, \"2\"]\n")).spec();
    let DataSource::Csv { columns, targets, .. } = spec.data.source else { panic!() };
    assert_eq!((columns, targets), (vec!["0".into(), "2".into()], vec!["0".into(), "2".into()]));
}

#[test]
fn early_stopping_needs_a_validation() {
    job("[data]\nkind = \"sine\"\nvalidation-samples = 0\n[training]\nearly-stopping = 3\n").check(
        &expect![[r#"
            job.toml:5: training.early-stopping = 3: needs a validation, and there is none
        "#]],
    );
    job("[data]\nkind = \"sine\"\nvalidation-samples = 0\n[training]\nvalidate-every-epochs = 1\n")
        .check(&expect![[r#"
            job.toml:5: training.validate-every-epochs = 1: the data has no validation part
        "#]]);
}

#[test]
fn an_impossible_batch_is_a_mistake() {
    job("data.kind = \"sine\"\n[resources]\nworld-size = 4\n[training]\nbatch-size = 3\n")
        .check(&expect![[r#"
            job.toml: training: batch-size 3 (job.toml:5) is smaller than the world of 4 ranks: use at most 3 ranks or a batch-size of at least 4
        "#]]);
    job("data.kind = \"sine\"\n[training]\ngradient-accumulation = 3\n").check(&expect![[r#"
        job.toml: training: gradient-accumulation 3 (job.toml:3) alone does not say how many samples a step has; give batch-size or micro-batch-size too
    "#]]);
    job("data.kind = \"sine\"\n[resources]\nworld-size = 3\n[training]\nbatch-size = 128\nmicro-batch-size = 16\nbatch-mismatch = \"error\"\n")
        .check(&expect![[r#"
            job.toml: training: batch-size 128 (job.toml:5) is not a multiple of micro-batch-size 16 (job.toml:6) times world 3, and batch-mismatch = "error"; valid are: batch-size = 96 with gradient-accumulation = 2; or batch-size = 144 with gradient-accumulation = 3; or world-size = 8
        "#]]);
}

#[test]
fn more_workers_than_ranks_is_a_mistake() {
    job("data.kind = \"sine\"\n[resources]\nworld-size = 2\nworkers = 3\n").check(&expect![[r#"
        job.toml:4: resources.workers = 3: more workers than the 2 ranks of resources.world-size
    "#]]);
}

#[test]
fn unusual_values_warn() {
    job(r#"
[model]
hidden-size = 8
num-layers = 12
[data]
kind = "synthetic-timeseries"
samples = 500
window = 5
[training]
epochs = 2000
"#)
    .check(&expect![[r#"
        ok
        warning: job.toml:7: data.samples = 500 is outside the usual 1000 to 100000
        warning: job.toml:8: data.window = 5 is outside the usual 10 to 500
        warning: job.toml:3: model.hidden-size = 8 is outside the usual 32 to 1024
        warning: job.toml:4: model.num-layers = 12 is outside the usual 1 to 8
        warning: job.toml:10: training.epochs = 2000 is outside the usual 1 to 1000
    "#]]);
}

#[test]
fn doubtful_settings_warn() {
    job("data.kind = \"sine\"\nmodel.num-layers = 1\nmodel.dropout = 0.3\n").check(&expect![[r#"
        ok
        warning: job.toml:3: model.dropout acts between layers, and there is one; model.head-dropout acts before the last linear layer
    "#]]);
    job("data.kind = \"sine\"\ndata.samples = 1000\ntraining.batch-size = 1500\n").check(&expect![[r#"
        ok
        warning: 1000 samples are fewer than one batch of 1500: with data.drop-last nothing is trained
    "#]]);
}

#[test]
fn the_json_form_keeps_the_parts_apart() {
    let mistakes = job("data.kind = \"sine\"\ntraining.epochs = \"many\"\n").load().unwrap_err();
    expect![[r#"
        {
          "mistakes": [
            {
              "place": "job.toml:2",
              "key": "training.epochs",
              "value": "\"many\"",
              "message": "expected an integer from 1 to 1000000, found text"
            }
          ],
          "warnings": []
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&mistakes).unwrap());
}

proptest::proptest! {
    /// Whatever the files hold, the answer is a job or mistakes: nothing else happens.
    #[test]
    fn any_text_is_a_job_or_has_mistakes(
        text in "[\\[\\]{}=.,:#\"'\\\\a-e0-9\n -]{0,60}", json in "[\\[\\]{},:#/*\"'\\\\ua-e0-9\n -]{0,60}",
    ) {
        let text = format!("{text}\ndeepspeed-config = \"ds.json\"\n");
        if let Err(mistakes) = job(&text).file("ds.json", &json).load() {
            proptest::prop_assert!(!mistakes.mistakes.is_empty());
        }
        if let Err(mistakes) = with_deepspeed(&json).load() {
            proptest::prop_assert!(!mistakes.mistakes.is_empty());
        }
    }
}

#[test]
fn a_wrong_value_is_told_under_its_key_and_nowhere_else() {
    for (key, value) in WRONG_VALUES {
        let wrong = job("[data]\nkind = \"csv\"\npath = \"x\"\n").set(&format!("{key}={value}"));
        let mistakes = wrong.load().unwrap_err().mistakes;
        assert_eq!(mistakes.len(), 1, "{key}={value}: {mistakes:?}");
        assert_eq!(mistakes[0].key, *key);
    }
}

const WRONG_VALUES: &[(&str, &str)] = &[
    ("job.name", "3"),
    ("job.seed", "1.5"),
    ("job.priority", "9999"),
    ("job.time-limit", "0"),
    ("job.output-dir", "true"),
    ("job.labels", "[]"),
    ("job.env.A", "[1]"),
    ("resources.world-size", "0"),
    ("resources.workers", "-1"),
    ("resources.threads-per-rank", "many"),
    ("resources.transport", "pigeon"),
    ("model.kind", "3"),
    ("model.num-layers", "65"),
    ("model.bidirectional", "1"),
    ("model.kernel", "'mkl'"),
    ("model.head-dropout", "-0.1"),
    ("model.init-from", "''"),
    ("data.window", "0"),
    ("data.horizon", "0"),
    ("data.shuffle", "'yes'"),
    ("data.header", "0"),
    ("data.split", "[0.5, 0.5, 0.1]"),
    ("training.max-steps", "0"),
    ("training.max-eval-steps", "0"),
    ("training.early-stopping", "true"),
    ("training.batch-size", "2.0"),
    ("training.learning-rate", "inf"),
    ("training.weight-decay", "-1"),
    ("checkpoint.every-steps", "0"),
    ("checkpoint.async", "'no'"),
    ("checkpoint.keep-best", "-1"),
    ("checkpoint.layout", "striped"),
    ("monitor.csv", "'x'"),
];

#[test]
fn a_kernel_runs_what_it_was_written_for() {
    job("[model]\nkind = \"gru\"\nkernel = \"native\"\n[data]\nkind = \"sine\"\n")
        .check(&expect![[r#"
            job.toml:3: model.kernel = "native": only lstm has a kernel of our own; expected `libtorch`
        "#]]);
    job(
        "[model]\nkernel = \"native\"\n[data]\nkind = \"sine\"\n[training]\nprecision = \"bf16\"\n",
    )
    .check(&expect![[r#"
        job.toml: model.kernel: "native" computes in fp32 only; set it to "auto", or training.precision to "fp32"
    "#]]);
    job(
        "[resources]\ndevice = \"cuda\"\n[model]\nkernel = \"native\"\n[data]\nkind = \"sine\"\n\
         [training]\ngradient-compression = \"int8\"\n",
    )
    .check(&expect![[r#"
        job.toml: model.kernel: "native" computes on CPUs only; set it to "auto", or resources.device to "cpu"
        job.toml: training.gradient-compression: "int8" packs gradients on the host, and on a GPU they stay there; set it to "none" or "bf16", or offload_optimizer in the DeepSpeed configuration
    "#]]);
    job("[data]\nkind = \"sine\"\n[training]\nprecision = \"fp16\"\ncpu-fp16 = \"native\"\n\
         gradient-compression = \"int8\"\n")
    .check(&expect![[r#"
        job.toml: training.gradient-compression: "int8" remembers what rounding took, and the loss scale of fp16 changes under it; set it to "none", or training.precision to "bf16" or "fp32"
    "#]]);
    job("[model]\nhidden-size = 8\nkernel = \"native\"\n[data]\nkind = \"digits\"\npath = \"x\"\n")
        .check(&expect![[r#"
            job.toml:3: model.kernel: kind = "cnn" has no such key; it belongs to lstm and gru
            warning: job.toml:2: model.hidden-size = 8 is outside the usual 32 to 1024
        "#]]);
}
