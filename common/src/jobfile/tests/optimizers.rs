//! Every optimizer and schedule, in both languages.

use super::*;
use crate::spec::{Schedule, UpdateRule};

fn training(lines: &str) -> String {
    format!("data.kind = \"sine\"\n[training]\n{lines}\n")
}

#[test]
fn an_optimizer_is_a_word_or_a_table() {
    let rule = |lines: &str| job(&training(lines)).spec().training.optimizer.rule;
    assert_eq!(
        rule("optimizer = \"sgd\""),
        UpdateRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false }
    );
    assert_eq!(
        rule("optimizer = { kind = \"sgd\", momentum = 0.9, nesterov = true }"),
        UpdateRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true }
    );
    let job_of = |lines: &str| job(Box::leak(training(lines).into_boxed_str()));
    job_of("optimizer = { kind = \"rmsprop\", alpha = 0.9 }").explain(
        "training.optimizer",
        &expect![[r#"
            training.optimizer = "rmsprop"  # job.toml:3
            training.optimizer.alpha = 0.9  # job.toml:3
            training.optimizer.eps = 1e-8  # torch default
            training.optimizer.momentum = 0  # torch default
            training.optimizer.centered = false  # torch default
        "#]],
    );
}

#[test]
fn each_optimizer_has_its_own_learning_rate() {
    let rate = |word: &str| {
        let text = training(&format!("optimizer = \"{word}\""));
        job(&text).spec().training.optimizer.learning_rate
    };
    let words = ["adam", "adamw", "sgd", "adagrad", "rmsprop", "lion", "lamb", "nadam"];
    assert_eq!(words.map(rate), [1e-3, 1e-3, 1e-3, 1e-2, 1e-2, 1e-3, 1e-3, 2e-3]);
}

#[test]
fn settings_of_another_optimizer_are_mistakes_that_say_whose_they_are() {
    job(&training("optimizer = { kind = \"adamw\", momentum = 0.9, beta = 1, lr = 1 }"))
        .check(&expect![[r#"
            job.toml:3: training.optimizer.momentum: kind = "adamw" has no such key; it belongs to sgd and rmsprop
            job.toml:3: training.optimizer.lr: use training.learning-rate
            job.toml:3: training.optimizer.beta: unknown key; did you mean `betas`?
        "#]]);
    job(&training("optimizer = { kind = \"sgd\", nesterov = true }\nmomentum = 0.9"))
        .check(&expect![[r#"
            job.toml:3: training.optimizer.nesterov: Nesterov's momentum needs a momentum above 0 and no dampening
            job.toml:4: training.momentum: a setting of the optimizer: optimizer = { kind = "adamw", betas = [0.9, 0.99] }
        "#]]);
    job(&training(
        "optimizer = { kind = \"lamb\", betas = [0.9, 1.0], min-coeff = 20 }\nbetas = [0, 0]",
    ))
    .check(&expect![[r#"
        job.toml:3: training.optimizer.betas = [0.9, 1]: expected two numbers of at least 0 and below 1
        job.toml:3: training.optimizer.min-coeff: min-coeff 20 is above max-coeff 10
        job.toml:4: training.betas: a setting of the optimizer: optimizer = { kind = "adamw", betas = [0.9, 0.99] }
    "#]]);
}

#[test]
fn deepspeeds_and_torchs_optimizers_are_read_as_they_spell_them() {
    let rule = |json: &str| with_deepspeed(json).spec().training.optimizer.rule;
    assert_eq!(
        rule(
            "{optimizer: {type: 'SGD', params: {lr: 0.1, momentum: 0.9, dampening: 0.1, \
             foreach: true}}}"
        ),
        UpdateRule::Sgd { momentum: 0.9, dampening: 0.1, nesterov: false }
    );
    assert_eq!(
        rule("{optimizer: {type: 'LAMB', params: {max_coeff: 2, eps_inside_sqrt: true}}}"),
        UpdateRule::Lamb {
            betas: [0.9, 0.999],
            eps: 1e-8,
            bias_correction: true,
            eps_inside_sqrt: true,
            min_coeff: 0.01,
            max_coeff: 2.0,
        }
    );
    assert_eq!(
        rule("{optimizer: {type: 'NAdam', params: {decoupled_weight_decay: true}}}"),
        UpdateRule::NAdam {
            betas: [0.9, 0.999],
            eps: 1e-8,
            momentum_decay: 4e-3,
            decoupled_decay: true,
        }
    );
    with_deepspeed("{optimizer: {type: 'sgd'}, zero_optimization: {stage: 2}}").check(&expect![[r#"
        ok
        note: ds.json:1: optimizer.type "sgd" is read as `SGD`; DeepSpeed itself takes torch's optimizers only as torch spells them
        note: optimizer: DeepSpeed takes SGD at this ZeRO stage only with zero_allow_untested_optimizer; here every optimizer is tested at every stage
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
    "#]]);
}

#[test]
fn wrong_parameters_of_an_optimizer_are_told_with_the_right_ones() {
    with_deepspeed(
        "{optimizer: {type: 'SGD', params: {betas: [0.9, 0.99], momentun: 0.9,\n max_grad_norm: 1}}}",
    )
    .check(&expect![[r#"
        ds.json:1: optimizer.params.momentun: unknown key; did you mean `momentum`?
        ds.json:1: optimizer.params.betas: SGD has no such parameter; it has momentum, dampening, nesterov
        ds.json:2: optimizer.params.max_grad_norm: DeepSpeed rejects this; use the top-level `gradient_clipping`
    "#]]);
    with_deepspeed("{optimizer: {type: 'Muon'}}").check(&expect![[r#"
        ds.json:1: optimizer.type = "Muon": not supported; this version has `Adam`, `AdamW`, `SGD`, `Adagrad`, `RMSprop`, `Lion`, `Lamb`, `NAdam`
    "#]]);
    with_deepspeed("{optimizer: {type: 'RMSprob'}}").check(&expect![[r#"
        ds.json:1: optimizer.type = "RMSprob": unknown optimizer; did you mean `RMSprop`?
    "#]]);
    with_deepspeed("{optimizer: {type: 'Lion', params: {eps: 1}}}").check(&expect![[r#"
        ds.json:1: optimizer.params.eps: Lion has no such parameter; it has betas
    "#]]);
}

#[test]
fn another_optimizer_on_the_command_line_leaves_the_configurations_parameters_aside() {
    let json = "{optimizer: {type: 'AdamW', params: {lr: 0.1, betas: [0.8, 0.9]}}}";
    let job = with_deepspeed(json).set("training.optimizer=lion");
    job.check(&expect![[r#"
        ok
        note: optimizer: lion replaces adamw (ds.json:1 optimizer.type), whose own parameters are left aside
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
    "#]]);
    assert_eq!(job.spec().training.optimizer.rule, UpdateRule::Lion { betas: [0.9, 0.999] });
    assert_eq!(job.spec().training.optimizer.learning_rate, 0.1);
}

#[test]
fn a_schedule_is_a_word_or_a_table() {
    let schedule = |lines: &str| job(&training(lines)).spec().training.schedule;
    assert_eq!(schedule("schedule = \"constant\""), Schedule::Constant);
    assert_eq!(
        schedule("schedule = { kind = \"step\", step-size = 5 }"),
        Schedule::Step { step_size: 5, gamma: 0.1 }
    );
    assert_eq!(
        schedule("schedule = { kind = \"cosine-restarts\", first-period = 5, min-lr = 1e-5 }"),
        Schedule::CosineRestarts { first_period: 5, period_factor: 1, min_lr: 1e-5 }
    );
    let job_of = |lines: &str| job(Box::leak(training(lines).into_boxed_str()));
    job_of("schedule = { kind = \"one-cycle\", min-lr = 0.1, max-lr = 1 }").explain(
        "training.schedule",
        &expect![[r#"
            training.schedule.kind = "one-cycle"  # job.toml:3
            training.schedule.max-lr = 1  # the learning rate
            training.schedule.min-lr = 0.1  # job.toml:3
            training.schedule.first-steps = 2000  # DeepSpeed default
            training.schedule.first-stairs = 0  # DeepSpeed default
            training.schedule.second-steps = 2000  # as the first half
            training.schedule.second-stairs = 0  # as the first half
            training.schedule.decay-rate = 0  # DeepSpeed default
            training.schedule.decay-steps = 0  # DeepSpeed default
            training.schedule.cycle-momentum = true  # DeepSpeed default
            training.schedule.momentum.min = 0.8  # DeepSpeed default
            training.schedule.momentum.max = 0.9  # DeepSpeed default
            training.schedule.momentum.decay-rate = 0  # DeepSpeed default
        "#]],
    );
    job_of("schedule = { kind = \"step\", gama = 2 }").check(&expect![[r#"
        job.toml:3: training.schedule.gama: unknown key; did you mean `gamma`?
        job.toml:3: training.schedule.step-size: step needs a valid `step-size`
    "#]]);
    job_of("schedule = { step-size = 2 }").check(&expect![[r#"
        job.toml:3: training.schedule = { step-size = 2 }: a kind is missing: schedule = { kind = "step", ... }
    "#]]);
    job_of("schedule = { kind = \"one-cycle\", min-lr = 0.1 }\noptimizer = \"nadam\"")
        .check(&expect![[r#"
            job.toml:3: training.schedule.max-lr: one-cycle needs a valid `max-lr`
            job.toml:3: training.schedule.cycle-momentum: not supported with nadam, which has a momentum schedule of its own; set cycle-momentum (cycle_momentum) to false
        "#]]);
}

#[test]
fn deepspeeds_schedulers_are_read_and_torchs_where_deepspeed_takes_them() {
    let schedule = |scheduler: &str| {
        with_deepspeed(&format!("{{scheduler: {scheduler}}}")).spec().training.schedule
    };
    assert_eq!(
        schedule("{type: 'LRRangeTest', params: {lr_range_test_staircase: true}}"),
        Schedule::LrRangeTest { min_lr: 1e-3, step_size: 2000, step_rate: 1.0, staircase: true }
    );
    assert_eq!(
        schedule("{type: 'CosineAnnealingWarmRestarts', params: {T_0: 7, T_mult: 2}}"),
        Schedule::CosineRestarts { first_period: 7, period_factor: 2, min_lr: 0.0 }
    );
    with_deepspeed(
        "{optimizer: {type: 'SGD', params: {lr: 0.1}}, scheduler: {type: 'OneCycle', params: \
         {cycle_min_lr: 0.01, cycle_max_lr: 0.2}}}",
    )
    .check(&expect![[r#"
        ok
        note: learning rate: the cycle peaks at 0.2 (ds.json:1 scheduler.params.cycle_max_lr), not at 0.1 (ds.json:1 optimizer.params.lr)
        note: OneCycle: momentum is not cycled, as in DeepSpeed: sgd has no betas
        note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
    "#]]);
    with_deepspeed("{scheduler: {type: 'WarmupDecayLR', params: {warmup_num_steps: 3}}}")
        .check(&expect![[r#"
            ok
            note: WarmupDecayLR: total_num_steps is not given; it is the job's own number of steps
            note: gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 (0, off, before)
        "#]]);
    with_deepspeed("{scheduler: {type: 'StepLR', params: {T_0: 7, last_epoch: 3}}}")
        .check(&expect![[r#"
            ds.json:1: scheduler.params.T_0: unknown parameter of StepLR; it has step_size, gamma, last_epoch
            ds.json:1: scheduler.params.last_epoch = 3: expected an integer from -1 to -1
            ds.json:1: scheduler.params.step_size: StepLR needs a valid `step_size`
        "#]]);
}

#[test]
fn two_schedules_are_a_mistake_unless_one_is_on_the_command_line() {
    let text = "deepspeed-config = \"ds.json\"\ndata.kind = \"sine\"\n\
                training.schedule = \"constant\"\n";
    let json = "{scheduler: {type: 'WarmupLR'}}";
    job(text).file("ds.json", json).check(&expect![[r#"
        job.toml:3: training.schedule = "constant": the DeepSpeed configuration has a scheduler too, at ds.json:1 scheduler.type; give one of them
    "#]]);
    let job = with_deepspeed(json).set("training.schedule=constant");
    assert_eq!(job.spec().training.schedule, Schedule::Constant);
}
