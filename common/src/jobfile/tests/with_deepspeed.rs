//! A DeepSpeed configuration fills the job, agrees with it or is told where it does not.

use super::*;
use crate::spec::{PrecisionKind, Schedule, UpdateRule, WarmupShape};

const CRLF_AND_COMMENTS: &str = "{\r\n  # ours\r\n  \"train_batch_size\": 64, // T\r\n}\r\n";

#[test]
fn a_file_fills_the_job() {
    with_deepspeed(
        r#"{
  "train_batch_size": 64,
  "train_micro_batch_size_per_gpu": "auto",
  "optimizer": {"type": "Adam", "params": {"lr": 3e-4, "betas": [0.8, 0.99], "adam_w_mode": false}},
  "zero_optimization": {"stage": 2, "overlap_comm": false, "reduce_bucket_size": 2e8},
  "bf16": {"enabled": "auto"},
  "steps_per_print": 10,
  "dataloader_drop_last": false
}"#,
    )
    .explain(
        "training",
        &expect![[r#"
            training.epochs = 50  # default of sine
            training.max-steps = -  # default: training.epochs decides
            training.max-eval-steps = -  # default: all of them
            training.validate-every-epochs = 1  # default
            training.early-stopping.patience = 10  # default of sine
            training.early-stopping.min-delta = 0  # as early-stopping
            training.batch-size = 64  # ds.json:2 train_batch_size
            training.micro-batch-size = -  # inferred from the others and the world
            training.gradient-accumulation = -  # inferred from the others and the world
            training.batch-mismatch = "adapt"  # default
            training.optimizer = "adam"  # ds.json:4 optimizer.type
            training.learning-rate = 0.0003  # ds.json:4 optimizer.params.lr
            training.schedule.kind = "constant"  # default
            training.weight-decay = 0  # default
            training.optimizer.betas = [0.8, 0.99]  # ds.json:4 optimizer.params.betas
            training.optimizer.eps = 1e-8  # DeepSpeed default
            training.optimizer.bias-correction = true  # DeepSpeed default
            training.optimizer.decoupled-decay = false  # ds.json:4 optimizer.params.adam_w_mode
            training.gradient-clipping = 1  # DeepSpeed default since 0.19.3 (before: 0)
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
            training.steps-per-print = 10  # ds.json:7 steps_per_print
        "#]],
    );
}

#[test]
fn auto_is_filled_from_training() {
    let spec = job(r#"
deepspeed-config = "ds.json"
[data]
kind = "sine"
[training]
batch-size = 96
learning-rate = 0.02
optimizer = "adamw"
precision = "bf16"
"#)
    .file(
        "ds.json",
        r#"{"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
            "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
            "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"},
            "zero_optimization": {"stage": 1, "reduce_bucket_size": "auto", "offload_optimizer": {"device": "none", "pin_memory": "auto"}}}"#,
    )
    .spec();
    assert_eq!(spec.training.batch.batch_size.unwrap().value, 96);
    assert_eq!(spec.training.optimizer.learning_rate, 0.02);
    assert_eq!(spec.training.precision.asked, PrecisionKind::Bf16);
    let warmup = Schedule::WarmupLr {
        min_lr: 0.0,
        max_lr: 0.02,
        warmup_steps: 1000,
        shape: WarmupShape::Log,
    };
    assert_eq!(spec.training.schedule, warmup);
}

#[test]
fn a_disagreement_names_both_places() {
    job(r#"
deepspeed-config = "ds.json"
[data]
kind = "sine"
[training]
batch-size = 96
micro-batch-size = 32
gradient-accumulation = 2
learning-rate = 0.02
optimizer = "adamw"
precision = "fp32"
weight-decay = 0.1
gradient-clipping = 5.0
"#)
    .file(
        "ds.json",
        "{ train_batch_size: 128,\n train_micro_batch_size_per_gpu: 32,\n gradient_accumulation_steps: 3,\n\
         optimizer: {type: \"Adam\",\n params: {lr: 0.01, weight_decay: 0.2}},\n\
         fp16: {enabled: true},\n gradient_clipping: 1.0 }",
    )
    .check(&expect![[r#"
        job.toml:6: training.batch-size = 96: disagrees with 128 at ds.json:1 train_batch_size; give one of them, or "auto" in the DeepSpeed configuration
        job.toml:8: training.gradient-accumulation = 2: disagrees with 3 at ds.json:3 gradient_accumulation_steps; give one of them, or "auto" in the DeepSpeed configuration
        job.toml:9: training.learning-rate = 0.02: disagrees with 0.01 at ds.json:5 optimizer.params.lr; give one of them, or "auto" in the DeepSpeed configuration
        job.toml:10: training.optimizer = "adamw": disagrees with "adam" at ds.json:4 optimizer.type; give one of them, or "auto" in the DeepSpeed configuration
        job.toml:11: training.precision = "fp32": disagrees with "fp16" at ds.json:6 fp16.enabled; give one of them, or "auto" in the DeepSpeed configuration
        job.toml:12: training.weight-decay = 0.1: disagrees with 0.2 at ds.json:5 optimizer.params.weight_decay; give one of them, or "auto" in the DeepSpeed configuration
        job.toml:13: training.gradient-clipping = 5: disagrees with 1 at ds.json:7 gradient_clipping; give one of them, or "auto" in the DeepSpeed configuration
    "#]]);
}

#[test]
fn the_command_line_wins_over_a_deepspeed_file() {
    let json = r#"{"train_batch_size": 128, "gradient_clipping": 1.0,
        "optimizer": {"type": "Adam", "params": {"lr": 5e-4}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 5e-4}},
        "zero_optimization": {"stage": 2}}"#;
    let job = with_deepspeed(json)
        .set("training.batch-size=64")
        .set("training.learning-rate=0.1")
        .set("deepspeed.zero_optimization.stage=1")
        .set("deepspeed.gradient_clipping=0.5");
    job.check(&expect![[r#"
        ok
        note: learning rate: the warm-up ends at 0.1 (--set training.learning-rate=0.1), not at 0.0005 (ds.json:3 scheduler.params.warmup_max_lr)
    "#]]);
    job.explain("training", &expect![[r#"
        training.epochs = 50  # default of sine
        training.max-steps = -  # default: training.epochs decides
        training.max-eval-steps = -  # default: all of them
        training.validate-every-epochs = 1  # default
        training.early-stopping.patience = 10  # default of sine
        training.early-stopping.min-delta = 0  # as early-stopping
        training.batch-size = 64  # --set training.batch-size=64
        training.micro-batch-size = -  # inferred from the others and the world
        training.gradient-accumulation = -  # inferred from the others and the world
        training.batch-mismatch = "adapt"  # default
        training.optimizer = "adam"  # ds.json:2 optimizer.type
        training.learning-rate = 0.1  # --set training.learning-rate=0.1
        training.schedule.kind = "warmup-lr"  # ds.json:3 scheduler.type
        training.schedule.warmup-steps = 1000  # DeepSpeed default
        training.schedule.shape = "log"  # DeepSpeed default
        training.schedule.min-lr = 0  # DeepSpeed default
        training.schedule.max-lr = 0.1  # the learning rate
        training.weight-decay = 0  # default
        training.optimizer.betas = [0.9, 0.999]  # DeepSpeed default
        training.optimizer.eps = 1e-8  # DeepSpeed default
        training.optimizer.bias-correction = true  # DeepSpeed default
        training.optimizer.decoupled-decay = true  # DeepSpeed default: adam decays decoupled unless adam_w_mode is false
        training.gradient-clipping = 0.5  # --set deepspeed.gradient_clipping=0.5
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
    "#]]);
    job.explain(
        "zero.stage",
        &expect![[r#"
            zero.stage = 1  # --set deepspeed.zero_optimization.stage=1
            zero.stage3.prefetch-bucket-size = 50000000  # DeepSpeed default
            zero.stage3.max-live-parameters = 1000000000  # DeepSpeed default
            zero.stage3.max-reuse-distance = 0  # default: a unit goes after each use (DeepSpeed: 1000000000, which keeps small models)
            zero.stage3.param-persistence-threshold = 100000  # DeepSpeed default
        "#]],
    );
}

#[test]
fn inline_keys_win_over_the_file() {
    let job = job(r#"
deepspeed-config = "ds.json"
data.kind = "sine"
[deepspeed]
train_batch_size = 32
[deepspeed.optimizer.params]
lr = 0.5
"#)
    .file(
        "ds.json",
        r#"{"train_batch_size": 128, "optimizer": {"type": "AdamW", "params": {"lr": 1, "eps": 1e-6}}}"#,
    );
    job.explain(
        "training.batch-size",
        &expect![[r#"
        training.batch-size = 32  # job.toml:5 train_batch_size
    "#]],
    );
    job.explain(
        "training.learning-rate",
        &expect![[r#"
        training.learning-rate = 0.5  # job.toml:7 optimizer.params.lr
    "#]],
    );
    job.explain(
        "training.optimizer.eps",
        &expect![[r#"
        training.optimizer.eps = 1e-6  # ds.json:1 optimizer.params.eps
    "#]],
    );
}

#[test]
fn the_cosine_schedule_with_rates_becomes_ratios() {
    let json = r#"{"optimizer": {"type": "AdamW", "params": {"lr": 0.001}},
"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_min_lr": 0.0001,
"warmup_max_lr": 0.002, "warmup_num_steps": 100, "cos_min_lr": 1e-5}}}"#;
    let job = with_deepspeed(json);
    job.check(&expect![[r#"
        ok
        note: learning rate: the warm-up ends at 0.002 (ds.json:3 scheduler.params.warmup_max_lr), not at 0.001 (ds.json:1 optimizer.params.lr)
        note: ds.json:2: DeepSpeed's WarmupCosineLR takes ratios; converted: warmup_min_lr 0.0001 is ratio 0.05, cos_min_lr 1e-5 is ratio 0.005, warmup_max_lr 0.002 is the learning rate
        note: WarmupCosineLR: total_num_steps is not given; it is the job's own number of steps
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
    "#]]);
    job.explain("training.schedule", &expect![[r#"
        training.schedule.kind = "warmup-cosine-lr"  # ds.json:2 scheduler.type
        training.schedule.warmup-steps = 100  # ds.json:3 scheduler.params.warmup_num_steps
        training.schedule.shape = "log"  # DeepSpeed default
        training.schedule.total-steps = -  # inferred at start: the job's own number of steps
        training.schedule.warmup-min-ratio = 0.05  # ds.json:2 scheduler.params.warmup_min_lr / learning rate
        training.schedule.cos-min-ratio = 0.005  # ds.json:3 scheduler.params.cos_min_lr / learning rate
    "#]]);
    job.explain(
        "training.learning-rate",
        &expect![[r#"
        training.learning-rate = 0.002  # ds.json:3 scheduler.params.warmup_max_lr
    "#]],
    );
}

#[test]
fn a_cosine_rate_above_its_peak_or_said_twice_is_a_mistake() {
    with_deepspeed(
        "{scheduler: {type: \"WarmupCosineLR\", params: {cos_min_lr: 0.1,\n warmup_min_lr: 0,\n warmup_min_ratio: 0.5}}}",
    )
    .check(&expect![[r#"
        ds.json:1: scheduler.params.cos_min_lr: 0.1 is above the peak of 0.001
        ds.json:2: scheduler.params.warmup_min_lr = 0: says what `warmup_min_ratio` at ds.json:3 says; give one of them
    "#]]);
}

#[test]
fn a_warm_up_longer_than_the_run_warns() {
    let json = "{train_batch_size: 800, scheduler: {type: \"WarmupLR\", params: {}}}";
    with_deepspeed(json).set("training.epochs=3").check(&expect![[r#"
        ok
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
        warning: the warm-up of 1000 steps is longer than the run of 30: the learning rate never reaches its peak; lower warmup_num_steps
    "#]]);
    with_deepspeed(json).set("training.max-steps=999").set("training.epochs=300").check(&expect![[r#"
        ok
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
        warning: the warm-up of 1000 steps is longer than the run of 999: the learning rate never reaches its peak; lower warmup_num_steps
    "#]]);
}

#[test]
fn other_optimizers_and_schedulers_are_refused_by_name() {
    with_deepspeed("{optimizer: {type: \"OneBitAdam\"},\n scheduler: {type: \"MultiStepLR\"}}")
        .check(&expect![[r#"
            ds.json:1: optimizer.type = "OneBitAdam": not supported; this version has `Adam`, `AdamW`, `SGD`, `Adagrad`, `RMSprop`, `Lion`, `Lamb`, `NAdam`
            ds.json:2: scheduler.type = "MultiStepLR": not supported yet; this version has `WarmupLR`, `WarmupDecayLR`, `WarmupCosineLR`, `OneCycle`, `LRRangeTest`, `StepLR` or `CosineAnnealingWarmRestarts`
        "#]]);
    with_deepspeed("{optimizer: {type: \"Adma\"},\n scheduler: {type: \"warmuplr\"}}").check(&expect![[r#"
        ds.json:1: optimizer.type = "Adma": unknown optimizer; did you mean `Adam`?
        ds.json:2: scheduler.type = "warmuplr": did you mean `WarmupLR`? expected `WarmupLR`, `WarmupDecayLR`, `WarmupCosineLR`, `OneCycle`, `LRRangeTest`, `StepLR` or `CosineAnnealingWarmRestarts`
    "#]]);
    with_deepspeed("{optimizer: {params: {lr: 1}},\n scheduler: {}}").check(&expect![[r#"
        ds.json:1: optimizer = { params = { lr = 1 } }: a type is missing; this version has `Adam`, `AdamW`, `SGD`, `Adagrad`, `RMSprop`, `Lion`, `Lamb`, `NAdam`
        ds.json:2: scheduler = { }: a type is missing; this version has `WarmupLR`, `WarmupDecayLR`, `WarmupCosineLR`, `OneCycle`, `LRRangeTest`, `StepLR`, `CosineAnnealingWarmRestarts`
    "#]]);
}

#[test]
fn unknown_keys_warn_at_the_top_and_are_mistakes_where_deepspeed_validates() {
    let json = r#"{
"train_batchsize": 3,
"gradient_cliping": 1.0,
"optimizer": {"type": "Adam", "name": "x", "params": {"lr": 0.1, "weight_decy": 0.1, "max_grad_norm": 1}},
"scheduler": {"type": "WarmupLR", "params": {"warmup_steps": 3, "total_num_steps": 9}},
"zero_optimization": {"stages": 2, "grad_hooks": true},
"fp16": {"enabled": false, "loss_scael": 1},
"flops_profiler": {"enabled": false, "profle_step": 3}
}"#;
    with_deepspeed(json).check(&expect![[r#"
        ds.json:4: optimizer.params.weight_decy: unknown key; did you mean `weight_decay`?
        ds.json:4: optimizer.params.max_grad_norm: DeepSpeed rejects this; use the top-level `gradient_clipping`
        ds.json:5: scheduler.params.warmup_steps: unknown parameter of WarmupLR; did you mean `warmup_num_steps`?
        ds.json:5: scheduler.params.total_num_steps: unknown parameter of WarmupLR; it has warmup_min_lr, warmup_max_lr, warmup_num_steps, warmup_type, last_batch_iteration
        ds.json:6: zero_optimization.stages: unknown key; did you mean `stage`?
        ds.json:6: zero_optimization.grad_hooks: unknown key
        ds.json:7: fp16.loss_scael: unknown key; did you mean `loss_scale`?
        warning: ds.json:2: train_batchsize: unknown key; did you mean `train_batch_size`? (ignored)
        warning: ds.json:3: gradient_cliping: unknown key; did you mean `gradient_clipping`? (ignored)
        warning: ds.json:4: optimizer.name: unknown key (ignored)
        warning: ds.json:8: flops_profiler.profle_step: unknown key; did you mean `profile_step`? (ignored)
    "#]]);
}

#[test]
fn strict_makes_every_doubt_a_mistake() {
    let json = "{ wall_clock_breakdown: true,\n prescale_gradients: true,\n gradient_cliping: 1.0,\n zero_optimization: {stage: 1, reduce_scatter: false} }";
    with_deepspeed(json).check(&expect![[r#"
        ok
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
        warning: ds.json:3: gradient_cliping: unknown key; did you mean `gradient_clipping`? (ignored)
        warning: ds.json:4: zero_optimization.reduce_scatter: ignored because always so: gradients lie in flat buffers, which a real reduce-scatter and all-gather move
    "#]]);
    let fp16 = "{fp16: {enabled: true, loss_scale: 0,\n loss_scale_window: 1000}}";
    with_deepspeed(fp16).strict().check(&expect![[r#"
        ok
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
        note: precision: fp16 is asked for (ds.json:1 fp16.enabled), trained in fp32, without a loss scale: a CPU has no fp16 arithmetic of its own; training.cpu-fp16 = "native" trains in fp16 all the same; on GPUs resources.device = "cuda" does
    "#]]);
    with_deepspeed(json).strict().check(&expect![[r#"
        ds.json:3: gradient_cliping: unknown key; did you mean `gradient_clipping`? (ignored)
        ds.json:4: zero_optimization.reduce_scatter: ignored because always so: gradients lie in flat buffers, which a real reduce-scatter and all-gather move
    "#]]);
}

#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    with_deepspeed(
        r#"{
"zero_optimization": {"stage": 3,
 "offload_optimizer": {"device": "cpu"},
 "offload_param": {"device": "none"},
 "cpu_offload": true,
 "zero_quantized_weights": true},
"gradient_allreduce_op": "sum",
"optimizer": {"type": "Adam", "params": {"amsgrad": true}},
"elasticity": {"enabled": true},
"compression_training": {},
"amp": {"enabled": false},
"autotuning": {"enabled": true},
"fp16": {"enabled": true}, "bf16": {"enabled": true}
}"#,
    )
    .check(&expect![[r#"
        ds.json:5: zero_optimization.cpu_offload = true: says what `offload_optimizer` at ds.json:3 says; give one of them
        ds.json:7: gradient_allreduce_op = "sum": not supported: gradients are averaged over the global batch
        ds.json:8: optimizer.params.amsgrad = true: not supported: AMSGrad
        ds.json:9: elasticity = { enabled = true }: not supported, and newer DeepSpeed rejects it: a job's world may change between attempts without it: the global batch is kept; give train_batch_size
        ds.json:13: bf16.enabled: fp16 and bf16 are both enabled, the other one at ds.json:13 fp16.enabled
        warning: ds.json:6: zero_optimization.zero_quantized_weights: ignored because ZeRO++ only moves fewer bytes; they travel whole here, with the same or a better result
        warning: ds.json:10: compression_training: newer DeepSpeed rejects this key (weights are trained whole)
        warning: ds.json:11: amp: newer DeepSpeed rejects this key (use the `bf16` or the `fp16` block)
        warning: ds.json:12: autotuning: ignored because the tuner runs only by DeepSpeed's launcher flag `--autotuning`
    "#]]);
}

#[test]
fn a_bare_true_is_stage_1_and_text_is_coerced_as_deepspeed_does() {
    assert_eq!(with_deepspeed("{zero_optimization: true}").spec().zero.stage, 1);
    assert_eq!(with_deepspeed("{zero_optimization: false}").spec().zero.stage, 0);
    let spec = with_deepspeed(
        r#"{"zero_optimization": {"stage": "2", "overlap_comm": "False", "reduce_bucket_size": 5e5}}"#,
    )
    .spec();
    assert_eq!((spec.zero.stage, spec.zero.overlap_comm), (2, false));
    assert_eq!(spec.zero.reduce_bucket_size, 500_000);
    with_deepspeed(r#"{"zero_optimization": {"stage": 4, "reduce_bucket_size": 2.5}}"#).check(&expect![[r#"
        ds.json:1: zero_optimization.stage = 4: expected an integer from 0 to 3
        ds.json:1: zero_optimization.reduce_bucket_size = 2.5: expected an integer from 1 to 1099511627776, found a number
    "#]]);
}

#[test]
fn adam_decays_decoupled_unless_told_otherwise() {
    let of = |json: &str| match with_deepspeed(json).spec().training.optimizer.rule {
        UpdateRule::Adam { decoupled_decay, .. } => ("adam", decoupled_decay),
        UpdateRule::AdamW { .. } => ("adamw", true),
        other => panic!("{other:?} is no Adam"),
    };
    assert_eq!(of("{optimizer: {type: \"Adam\"}}"), ("adam", true));
    assert_eq!(of("{optimizer: {type: \"adam\", params: {adam_w_mode: false}}}"), ("adam", false));
    assert_eq!(of("{optimizer: {type: \"AdamW\", params: {adam_w_mode: false}}}"), ("adamw", true));
}

#[test]
fn monitors_write_where_deepspeed_would() {
    let spec = with_deepspeed(
        r#"{"tensorboard": {"enabled": true, "output_path": "logs/", "job_name": "a"},
            "csv_monitor": {"enabled": true}, "wandb": {"enabled": true, "project": "p"}}"#,
    )
    .spec();
    assert_eq!(
        spec.monitor.deepspeed_tensorboard_dir.as_deref(),
        Some(Path::new("/home/ada/here/logs/a"))
    );
    assert_eq!(
        spec.monitor.deepspeed_csv_dir.as_deref(),
        Some(Path::new("/home/ada/here/DeepSpeedJobName"))
    );
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    job("deepspeed-config = \"ds.json\"\ndata.kind = \"sine\"\n").check(&expect![[r#"
        job.toml:1: deepspeed-config = "ds.json": read `/home/ada/jobs/ds.json`: No such file or directory
    "#]]);
    with_deepspeed("{ \"a\": }").check(&expect![[r#"
        ds.json:1: not Hjson: expected a value, found `}`
    "#]]);
    with_deepspeed("{ \"fp16\": {\"enabled\": true, \"enabled\": true}, \"fp16\": {} }").check(
        &expect![[r#"
        ds.json:1: fp16.enabled: written twice, first at ds.json:1
        ds.json:1: fp16: written twice, first at ds.json:1
    "#]],
    );
    job("deepspeed-config = 3\ndata.kind = \"sine\"\ndeepspeed = 4\n").check(&expect![[r#"
        job.toml:1: deepspeed-config = 3: expected text, found an integer
        job.toml:3: deepspeed = 4: expected a table
    "#]]);
}

#[test]
fn windows_line_ends_and_comments_are_read() {
    let spec = with_deepspeed(CRLF_AND_COMMENTS).spec();
    assert_eq!(spec.training.batch.batch_size.unwrap().value, 64);
}
