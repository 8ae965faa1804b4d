//! What is not written gets the default of its kind of data; paths become absolute; flags win.

use super::*;
use crate::spec::{DataSource, Resume, Schedule, Validate};

#[test]
#[expect(clippy::too_many_lines, reason = "one listing of every value")]
fn sine_has_the_defaults_of_the_basic_lstm_example() {
    job("data.kind = \"sine\"\n").explain(
        "",
        &expect![[r#"
            job.name = "job"  # default: the job file's name
            job.seed = 42  # default
            job.priority = 0  # default
            job.time-limit = -  # default: no bound
            job.output-dir = "/home/ada/here/runs"  # default: runs
            job.collective-timeout = "10m"  # default
            job.hang-timeout = "30s"  # default
            resources.world-size = -  # default: all idle slots at placement
            resources.min-ranks = -  # default: 1
            resources.max-ranks = -  # default: no bound
            resources.workers = -  # default: no bound
            resources.hosts = -  # default: any worker
            resources.device = "auto"  # default
            resources.threads-per-rank = 1  # default
            resources.transport = "auto"  # default
            model.kind = "lstm"  # default
            model.kernel = "auto"  # default: native in fp32 with one thread per rank on CPUs with AVX2 or AVX-512, else libtorch
            model.hidden-size = 64  # default of sine
            model.num-layers = 2  # default of sine
            model.dropout = 0.2  # default of sine
            model.head-dropout = 0  # default of sine
            model.bidirectional = false  # default
            model.init-from = -  # default: fresh weights from job.seed
            data.kind = "sine"  # job.toml:1
            data.samples = 8000  # default of sine
            data.validation-samples = 2000  # default of sine
            data.noise = 0.1  # default of sine
            data.window = 50  # default of sine
            data.horizon = 1  # default
            data.shuffle = true  # default
            data.drop-last = true  # default
            training.epochs = 50  # default of sine
            training.max-steps = -  # default: training.epochs decides
            training.max-eval-steps = -  # default: all of them
            training.validate-every-epochs = 1  # default
            training.early-stopping.patience = 10  # default of sine
            training.early-stopping.min-delta = 0  # as early-stopping
            training.batch-size = 128  # default of sine
            training.micro-batch-size = -  # inferred from the others and the world
            training.gradient-accumulation = -  # inferred from the others and the world
            training.batch-mismatch = "adapt"  # default
            training.optimizer = "adamw"  # default
            training.learning-rate = 0.001  # default
            training.schedule.kind = "constant"  # default
            training.weight-decay = 0  # default
            training.optimizer.betas = [0.9, 0.999]  # DeepSpeed default
            training.optimizer.eps = 1e-8  # DeepSpeed default
            training.optimizer.bias-correction = true  # DeepSpeed default
            training.gradient-clipping = 1  # default
            training.precision = "fp32"  # default
            training.cpu-fp16 = "fp32"  # default
            training.precision.grad-accumulation = "fp32"  # DeepSpeed default: the model's
            training.precision.communication = "fp32"  # DeepSpeed default: the model's
            training.precision.prescale-gradients = false  # DeepSpeed default
            training.precision.gradient-predivide-factor = 1  # DeepSpeed default
            training.precision.on-overflow = "fail"  # follows training.precision
            training.gradient-compression = "none"  # default
            training.freeze = []  # default: every parameter is trained
            training.activation-checkpointing = false  # default: every activation is kept for backward
            training.steps-per-print = -  # default: none
            zero.stage = 0  # default
            zero.overlap-comm = true  # default (DeepSpeed: false below stage 3; the result is the same)
            zero.reduce-bucket-size = 500000000  # DeepSpeed default, capped to the model
            zero.offload-optimizer = -  # default: stays with the model
            zero.stage3.prefetch-bucket-size = 50000000  # DeepSpeed default
            zero.stage3.max-live-parameters = 1000000000  # DeepSpeed default
            zero.stage3.max-reuse-distance = 0  # default: a unit goes after each use (DeepSpeed: 1000000000, which keeps small models)
            zero.stage3.param-persistence-threshold = 100000  # DeepSpeed default
            checkpoint.every-steps = -  # default: not by steps
            checkpoint.every-epochs = 1  # default
            checkpoint.resume = "auto"  # default
            checkpoint.dir = -  # default: <output-dir>/<job id>/checkpoints
            checkpoint.keep-last = 2  # default
            checkpoint.keep-best = 1  # default
            checkpoint.async = true  # default
            checkpoint.layout = "auto"  # default
            monitor.diagnostics.comms-log = false  # default
            monitor.diagnostics.flops-profile-step = -  # default: no profile
            monitor.diagnostics.wall-clock-breakdown = false  # default
            monitor.tensorboard = true  # default
            monitor.csv = true  # default
            monitor.deepspeed-tensorboard-dir = -  # no tensorboard block
            monitor.deepspeed-csv-dir = -  # no csv_monitor block
            restart.application = 3  # default
            restart.infrastructure = 20  # default
            restart.preemption = -  # default: no bound
            restart.refill-steps = 500  # default
            restart.same-step = 2  # default
            restart.without-progress = 3  # default
            restart.backoff = "1s"  # default
            restart.max-backoff = "1m"  # default
            restart.grow-after = "1m"  # default
        "#]],
    );
}

#[test]
fn synthetic_timeseries_has_the_defaults_of_the_forecasting_example() {
    job("data.kind = \"synthetic-timeseries\"\n[model]\ndropout = 0.3\n").explain(
        "data",
        &expect![[r#"
        data.kind = "synthetic-timeseries"  # job.toml:1
        data.samples = 20000  # default of synthetic-timeseries
        data.features = 3  # default of synthetic-timeseries
        data.sampling-rate = 0.1  # default of synthetic-timeseries
        data.noise = 0.05  # default of synthetic-timeseries
        data.split = [0.8, 0.2, 0]  # default of synthetic-timeseries
        data.normalization = "none"  # default of synthetic-timeseries
        data.window = 50  # default of synthetic-timeseries
        data.horizon = 1  # default
        data.shuffle = true  # default
        data.drop-last = true  # default
    "#]],
    );
    job("data.kind = \"synthetic-timeseries\"\n[model]\ndropout = 0.3\n").explain(
        "model",
        &expect![[r#"
            model.kind = "lstm"  # default
            model.kernel = "auto"  # default: native in fp32 with one thread per rank on CPUs with AVX2 or AVX-512, else libtorch
            model.hidden-size = 128  # default of synthetic-timeseries
            model.num-layers = 2  # default of synthetic-timeseries
            model.dropout = 0.3  # job.toml:3
            model.head-dropout = 0.3  # default of synthetic-timeseries: as model.dropout
            model.bidirectional = false  # default
            model.init-from = -  # default: fresh weights from job.seed
        "#]],
    );
}

#[test]
fn csv_needs_only_a_path() {
    job("[data]\nkind = \"csv\"\npath = \"x.csv\"\n").explain(
        "data",
        &expect![[r#"
        data.kind = "csv"  # job.toml:2
        data.header = true  # default of csv
        data.columns = []  # default: every column that holds numbers
        data.targets = []  # default: the same as data.columns
        data.path = "/home/ada/jobs/x.csv"  # job.toml:3
        data.split = [0.7, 0.15, 0.15]  # default of csv
        data.normalization = "standard"  # default of csv
        data.missing = "error"  # default of csv
        data.window = 50  # default of csv
        data.horizon = 1  # default
        data.shuffle = true  # default
        data.drop-last = true  # default
    "#]],
    );
}

#[test]
fn digits_train_a_cnn() {
    let digits = job("data.kind = \"digits\"\n");
    digits.explain(
        "data",
        &expect![[r#"
        data.kind = "digits"  # job.toml:1
        data.path = "/home/ada/jobs/digits.csv.gz"  # default of digits: beside the job file
        data.split = [0.7, 0.15, 0.15]  # default of digits
        data.shuffle = true  # default
        data.drop-last = true  # default
    "#]],
    );
    digits.explain(
        "model",
        &expect![[r#"
        model.kind = "cnn"  # default of digits
        model.channels = [32, 64]  # default of cnn
        model.kernel-size = 3  # default of cnn
        model.hidden-size = 128  # default of cnn
        model.dropout = 0.25  # default of cnn
        model.init-from = -  # default: fresh weights from job.seed
    "#]],
    );
    digits.explain(
        "training.b",
        &expect![[r#"
            training.batch-size = 64  # default of digits
            training.batch-mismatch = "adapt"  # default
        "#]],
    );
}

#[test]
fn inputs_start_at_the_job_file_and_outputs_at_the_caller() {
    let spec = job(r#"
[job]
output-dir = "out"
[model]
init-from = "../w.safetensors"
[data]
kind = "csv"
path = "data/x.csv"
[checkpoint]
dir = "./ckpt"
resume = "old/step-00000003"
"#)
    .spec();
    assert_eq!(spec.job.output_dir, Path::new("/home/ada/here/out"));
    assert_eq!(spec.model.init_from().unwrap(), Path::new("/home/ada/w.safetensors"));
    assert_eq!(spec.checkpoint.dir.as_deref(), Some("/home/ada/here/ckpt"));
    let old = PathBuf::from("/home/ada/jobs/old/step-00000003");
    assert_eq!(spec.checkpoint.resume, Resume::Path(old));
    let DataSource::Csv { path, .. } = spec.data.source else { panic!() };
    assert_eq!(path, Path::new("/home/ada/jobs/data/x.csv"));
}

#[test]
fn the_command_line_wins_and_says_so() {
    let mut job = job("[data]\nkind = \"sine\"\n[training]\nepochs = 3\n[job.env]\nA = \"1\"\n")
        .set("training.epochs=7")
        .set("training.epochs = 8")
        .set("job.name=two words")
        .set("model.num-layers=3")
        .set("training.early-stopping={ patience = 2 }");
    job.flags.push(Override::flag("resources.world-size", 4, "--gpus 4"));
    job.flags.push(Override::env("NCCL_DEBUG=INFO=x").unwrap());
    let spec = job.spec();
    assert_eq!(spec.training.epochs, 8);
    assert_eq!(spec.job.env["NCCL_DEBUG"], "INFO=x");
    assert_eq!(spec.job.env["A"], "1");
    job.explain(
        "resources.world",
        &expect![[r#"
        resources.world-size = 4  # --gpus 4
    "#]],
    );
    job.explain(
        "training.e",
        &expect![[r#"
            training.epochs = 8  # --set training.epochs = 8
            training.early-stopping.patience = 2  # --set training.early-stopping={ patience = 2 }
            training.early-stopping.min-delta = 0  # as early-stopping
        "#]],
    );
    job.explain(
        "job",
        &expect![[r#"
            job.name = "two words"  # --set job.name=two words
            job.seed = 42  # default
            job.priority = 0  # default
            job.time-limit = -  # default: no bound
            job.output-dir = "/home/ada/here/runs"  # default: runs
            job.collective-timeout = "10m"  # default
            job.hang-timeout = "30s"  # default
            job.env.A = "1"  # job.toml:6
            job.env.NCCL_DEBUG = "INFO=x"  # --env NCCL_DEBUG=INFO=x
        "#]],
    );
}

#[test]
fn a_wrong_flag_is_named_as_it_was_typed() {
    job("data.kind = \"sine\"\n")
        .set("training.epoch=3")
        .set("training.batch-size=x")
        .set("data=3")
        .check(&expect![[r#"
            job.toml: data.kind: missing; expected `sine`, `synthetic-timeseries`, `csv` or `digits`
            --set data=3: data = 3: expected a table
            --set training.batch-size=x: training.batch-size = "x": expected an integer from 1 to 1099511627776, found text
            --set training.epoch=3: training.epoch: unknown key; did you mean `epochs`?
        "#]]);
    for wrong in ["training.epochs", "=3", "a..b=3"] {
        assert!(Override::set(wrong).is_err(), "{wrong}");
    }
    assert!(Override::env("NAME").is_err());
}

#[test]
fn resume_takes_every_documented_form() {
    for (text, meaning) in [
        ("auto", Resume::Auto),
        ("never", Resume::Never),
        ("best", Resume::Best),
        ("latest", Resume::Latest),
        ("epoch-50", Resume::Epoch(50)),
        ("step-120", Resume::Step(120)),
        ("step-00000120", Resume::Step(120)),
        ("/x/step-00000120", Resume::Path("/x/step-00000120".into())),
        ("file:///x/y", Resume::Path("/x/y".into())),
    ] {
        let text = format!("data.kind = \"sine\"\ncheckpoint.resume = \"{text}\"\n");
        assert_eq!(job(&text).spec().checkpoint.resume, meaning);
    }
}

#[test]
fn the_collective_timeout_honours_deepspeeds_variable() {
    let plain = "data.kind = \"sine\"\n";
    job(plain).explain(
        "job.coll",
        &expect![[r#"
        job.collective-timeout = "10m"  # default
    "#]],
    );
    job(plain).variable("DEEPSPEED_TIMEOUT", "30").explain(
        "job.coll",
        &expect![[r#"
        job.collective-timeout = "30m"  # DEEPSPEED_TIMEOUT = 30 minutes (environment)
    "#]],
    );
    let in_job = "data.kind = \"sine\"\njob.env.DEEPSPEED_TIMEOUT = 20\n";
    job(in_job).variable("DEEPSPEED_TIMEOUT", "30").explain(
        "job.coll",
        &expect![[r#"
        job.collective-timeout = "20m"  # DEEPSPEED_TIMEOUT = 20 minutes (job.toml:2)
    "#]],
    );
    let own = "data.kind = \"sine\"\njob.collective-timeout = \"90s\"\n";
    job(own).variable("DEEPSPEED_TIMEOUT", "30").explain(
        "job.coll",
        &expect![[r#"
        job.collective-timeout = "1m 30s"  # job.toml:2
    "#]],
    );
    job(plain).variable("DEEPSPEED_TIMEOUT", "soon").check(&expect![[r#"
        environment: DEEPSPEED_TIMEOUT: expected minutes, an integer of at least 1, found `soon`
    "#]]);
}

#[test]
fn validation_is_by_epochs_by_steps_or_never() {
    let of = |line: &str| {
        job(&format!("data.kind = \"sine\"\n[training]\n{line}\n")).spec().training.validate
    };
    assert_eq!(of(""), Validate::EveryEpochs(1));
    assert_eq!(of("validate-every-epochs = 5"), Validate::EveryEpochs(5));
    assert_eq!(of("validate-every-steps = 100"), Validate::EverySteps(100));
    assert_eq!(of("validate-every-epochs = 0\nearly-stopping = 0"), Validate::Never);
}

#[test]
fn checkpoints_by_steps_are_not_also_by_epochs_unless_asked() {
    let of = |line: &str| {
        let checkpoint =
            job(&format!("data.kind = \"sine\"\n[checkpoint]\n{line}\n")).spec().checkpoint;
        (checkpoint.every_steps, checkpoint.every_epochs)
    };
    assert_eq!(of(""), (None, Some(1)));
    assert_eq!(of("every-steps = 5"), (Some(5), None));
    assert_eq!(of("every-steps = 5\nevery-epochs = 2"), (Some(5), Some(2)));
}

#[test]
fn training_needs_no_deepspeed_file() {
    let spec = job(r#"
[data]
kind = "sine"
[training]
micro-batch-size = 16
gradient-accumulation = 2
learning-rate = 0.01
optimizer = "adam"
precision = "bf16"
weight-decay = 0.1
gradient-clipping = 0
"#)
    .spec();
    let plan = batch::plan(&spec.training.batch, 3).unwrap();
    assert_eq!(plan.batch_size.value, 96);
    assert_eq!(spec.training.schedule, Schedule::Constant);
    assert_eq!(spec.training.gradient_clipping, 0.0);
    assert_eq!(spec.zero.stage, 0);
    expect![[r#"
        []
        Optimizer {
            learning_rate: 0.01,
            weight_decay: 0.1,
            rule: Adam {
                betas: [
                    0.9,
                    0.999,
                ],
                eps: 1e-8,
                bias_correction: true,
                decoupled_decay: true,
            },
        }"#]]
    .assert_eq(&format!("{:?}\n{:#?}", spec.notes, spec.training.optimizer));
}
