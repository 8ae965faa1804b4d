//! The complete examples under `configs/` load, and say what they say.

use super::*;

fn load_example(name: &str) -> Loaded {
    let base_dir = repository().join("configs/jobs");
    let text = fs_err::read_to_string(base_dir.join(name)).unwrap();
    let loaded = load(&Input {
        name,
        text: &text,
        base_dir: &base_dir,
        caller_dir: Path::new("/home/ada"),
        overrides: &[],
        strict: false,
        read: &|path| fs_err::read_to_string(path),
        variable: &|_| None,
    });
    loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn check(name: &str, expected: &Expect) {
    let loaded = load_example(name);
    let mut shown = explain::to_toml(&loaded.spec).unwrap();
    shown = shown.replace(repository().to_str().unwrap(), "<repository>");
    for warning in loaded.warnings {
        shown.push_str(&format!("warning: {warning}\n"));
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
    check(
        "sine-lstm.toml",
        &expect![[r#"
        notes = ["precision: fp16 is asked for (../deepspeed/ds_config_basic_rnn.json:21 fp16.enabled), trained in fp32: this version has no other"]

        [job]
        name = "sine-lstm"
        seed = 42
        priority = 0
        output-dir = "/home/ada/runs"
        collective-timeout = "10m"

        [job.labels]

        [job.env]

        [resources]
        world-size = 2
        device = "auto"
        threads-per-rank = 1
        transport = "auto"

        [model]
        kind = "lstm"
        hidden-size = 64
        num-layers = 2
        dropout = 0.2
        head-dropout = 0.0
        bidirectional = false

        [data]
        window = 50
        horizon = 1
        shuffle = true
        drop-last = true

        [data.source]
        kind = "sine"
        samples = 8000
        validation-samples = 2000
        noise = 0.1

        [training]
        epochs = 50
        gradient-clipping = 1.0

        [training.validate]
        every-epochs = 1

        [training.early-stopping]
        patience = 10
        min-delta = 0.0

        [training.batch]
        mismatch = "adapt"

        [training.batch.batch-size]
        value = 128
        origin = "../deepspeed/ds_config_basic_rnn.json:2 train_batch_size"

        [training.batch.micro-batch-size]
        value = 32
        origin = "../deepspeed/ds_config_basic_rnn.json:3 train_micro_batch_size_per_gpu"

        [training.batch.gradient-accumulation]
        value = 2
        origin = "../deepspeed/ds_config_basic_rnn.json:4 gradient_accumulation_steps"

        [training.optimizer]
        kind = "adam"
        learning-rate = 0.0005
        betas = [0.9, 0.999]
        eps = 0.00000001
        weight-decay = 0.00001
        decoupled-decay = true
        bias-correction = true

        [training.schedule]
        kind = "warmup-lr"
        min-lr = 0.0
        max-lr = 0.0005
        warmup-steps = 100
        shape = "log"

        [training.precision]
        asked = "fp16"
        effective = "fp32"

        [zero]
        stage = 2
        overlap-comm = true
        reduce-bucket-size = 500000000
        allgather-bucket-size = 500000000

        [checkpoint]
        every-epochs = 1
        keep-last = 2
        keep-best = 1
        async = true
        resume = "auto"
        layout = "auto"

        [monitor]
        tensorboard = true
        csv = true
    "#]],
    );
}

#[test]
fn the_timeseries_example_converts_the_cosine_schedule() {
    check(
        "timeseries-lstm.toml",
        &expect![[r#"
        notes = ["../deepspeed/ds_config_rnn.json:15: DeepSpeed's WarmupCosineLR takes ratios; converted: warmup_min_lr 0 is ratio 0, cos_min_lr 0.00001 is ratio 0.01, warmup_max_lr 0.001 is the learning rate", "WarmupCosineLR: total_num_steps is not given; it is the job's own number of steps", "precision: bf16 is asked for (../deepspeed/ds_config_rnn.json:31 bf16.enabled), trained in fp32: this version has no other"]

        [job]
        name = "timeseries-lstm"
        seed = 42
        priority = 0
        output-dir = "/home/ada/runs"
        collective-timeout = "10m"

        [job.labels]

        [job.env]

        [resources]
        world-size = 2
        device = "auto"
        threads-per-rank = 1
        transport = "auto"

        [model]
        kind = "lstm"
        hidden-size = 128
        num-layers = 2
        dropout = 0.2
        head-dropout = 0.2
        bidirectional = false

        [data]
        window = 50
        horizon = 1
        shuffle = true
        drop-last = true

        [data.source]
        kind = "synthetic-timeseries"
        samples = 20000
        features = 3
        sampling-rate = 0.1
        noise = 0.05
        split = [0.8, 0.2, 0.0]
        normalization = "none"

        [training]
        epochs = 100
        gradient-clipping = 1.0

        [training.validate]
        every-epochs = 1

        [training.early-stopping]
        patience = 5
        min-delta = 0.0001

        [training.batch]
        mismatch = "adapt"

        [training.batch.batch-size]
        value = 128
        origin = "../deepspeed/ds_config_rnn.json:2 train_batch_size"

        [training.batch.micro-batch-size]
        value = 16
        origin = "../deepspeed/ds_config_rnn.json:3 train_micro_batch_size_per_gpu"

        [training.batch.gradient-accumulation]
        value = 8
        origin = "../deepspeed/ds_config_rnn.json:4 gradient_accumulation_steps"

        [training.optimizer]
        kind = "adamw"
        learning-rate = 0.001
        betas = [0.9, 0.999]
        eps = 0.00000001
        weight-decay = 0.01
        decoupled-decay = true
        bias-correction = true

        [training.schedule]
        kind = "warmup-cosine-lr"
        warmup-min-ratio = 0.0
        cos-min-ratio = 0.01
        warmup-steps = 100
        shape = "log"

        [training.precision]
        asked = "bf16"
        effective = "fp32"

        [zero]
        stage = 2
        overlap-comm = true
        reduce-bucket-size = 500000000
        allgather-bucket-size = 500000000

        [checkpoint]
        every-epochs = 1
        keep-last = 2
        keep-best = 1
        async = true
        resume = "auto"
        layout = "auto"

        [monitor]
        tensorboard = true
        csv = true
    "#]],
    );
}

#[test]
fn the_co2_example_needs_no_deepspeed_file() {
    check(
        "co2-lstm.toml",
        &expect![[r#"
        notes = []

        [job]
        name = "co2-lstm"
        seed = 42
        priority = 0
        output-dir = "/home/ada/runs"
        collective-timeout = "10m"

        [job.labels]

        [job.env]

        [resources]
        world-size = 2
        device = "auto"
        threads-per-rank = 1
        transport = "auto"

        [model]
        kind = "lstm"
        hidden-size = 64
        num-layers = 1
        dropout = 0.0
        head-dropout = 0.0
        bidirectional = false

        [data]
        window = 52
        horizon = 1
        shuffle = true
        drop-last = true

        [data.source]
        kind = "csv"
        path = "<repository>/data/co2.csv"
        columns = ["co2"]
        targets = ["co2"]
        header = true
        split = [0.7, 0.15, 0.15]
        normalization = "window"
        missing = "interpolate"

        [training]
        epochs = 40
        gradient-clipping = 1.0

        [training.validate]
        every-epochs = 1

        [training.early-stopping]
        patience = 10
        min-delta = 0.0

        [training.batch]
        mismatch = "adapt"

        [training.batch.batch-size]
        value = 64
        origin = "co2-lstm.toml:26"

        [training.optimizer]
        kind = "adamw"
        learning-rate = 0.002
        betas = [0.9, 0.999]
        eps = 0.00000001
        weight-decay = 0.0
        decoupled-decay = true
        bias-correction = true

        [training.schedule]
        kind = "constant"

        [training.precision]
        asked = "fp32"
        effective = "fp32"

        [zero]
        stage = 1
        overlap-comm = true
        reduce-bucket-size = 500000000
        allgather-bucket-size = 500000000

        [checkpoint]
        every-epochs = 1
        keep-last = 2
        keep-best = 1
        async = true
        resume = "auto"
        layout = "auto"

        [monitor]
        tensorboard = true
        csv = true
    "#]],
    );
}
