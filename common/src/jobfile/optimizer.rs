//! The optimizer, from `[training]` and the DeepSpeed configuration: a word, or a table with
//! `kind` and the settings of that kind.

use crate::deepspeed::{OptimizerKind, OptimizerSettings, optimizer_settings};
use crate::section::{FloatRange, Found, Section};
use crate::spec::{Optimizer, Schedule, UpdateRule};

use super::join::joined;
use super::{Context, DEFAULT, schedule};

const THEIRS: &str = "DeepSpeed default";
const TORCHS: &str = "torch default";

/// The optimizer, and the schedule, which may decide the learning rate.
pub(super) fn read(section: &Section<'_>, context: &Context<'_>) -> (Optimizer, Schedule) {
    let theirs = &context.deepspeed.optimizer;
    let inner = section.sub_or_plain("optimizer");
    let (words, later) = (OptimizerKind::WORDS, OptimizerKind::LATER);
    let ours = match inner.table() {
        Some(_) => inner.choice("kind", words, later),
        None => section.choice("optimizer", words, later),
    };
    let found = joined(section, "optimizer", ours, theirs.kind.clone());
    let kind = section.settle("optimizer", found, (OptimizerKind::AdamW, DEFAULT));
    let settings = own_settings(&inner, kind);
    let settings = joined_settings(&inner, settings, their_settings(section, context, kind));
    let rate = section.float("learning-rate", FloatRange::POSITIVE);
    let rate = joined(section, "learning-rate", rate, theirs.learning_rate.clone());
    let (learning_rate, schedule) = schedule::read(section, context, (kind, rate));
    let decay = section.float("weight-decay", FloatRange::NOT_NEGATIVE);
    let decay = joined(section, "weight-decay", decay, theirs.weight_decay.clone());
    let weight_decay = section.settle("weight-decay", decay, (0.0, DEFAULT));
    let rule = rule(&inner, kind, &settings);
    say_untested(section, context, kind);
    (Optimizer { learning_rate, weight_decay, rule }, schedule)
}

/// torch's or DeepSpeed's, by kind.
pub(super) fn default_rate(kind: OptimizerKind) -> (f64, &'static str) {
    match kind {
        OptimizerKind::Adagrad => (1e-2, "default of adagrad"),
        OptimizerKind::RmsProp => (1e-2, "default of rmsprop"),
        OptimizerKind::NAdam => (2e-3, "default of nadam"),
        _ => (1e-3, DEFAULT),
    }
}

/// What the job file's table says; keys of other kinds are told as such.
fn own_settings(inner: &Section<'_>, kind: OptimizerKind) -> OptimizerSettings {
    let settings = optimizer_settings(inner, kind);
    let keys_of: Vec<(&str, &[&str])> =
        OptimizerKind::WORDS.iter().map(|(word, kind)| (*word, kind.keys())).collect();
    inner.refuse_keys_of_others(kind.word(), &keys_of);
    inner.elsewhere(&["learning-rate", "lr"], "use training.learning-rate");
    inner.elsewhere(&["weight-decay"], "use training.weight-decay");
    inner.refuse_unknown(&[]);
    settings
}

/// Nothing, where the command line asks for another kind than the configuration.
fn their_settings(
    section: &Section<'_>,
    context: &Context<'_>,
    kind: OptimizerKind,
) -> OptimizerSettings {
    let theirs = &context.deepspeed.optimizer;
    match &theirs.kind {
        Some(written) if written.value != kind => {
            section.report().note(format!(
                "optimizer: {} replaces {} ({}), whose own parameters are left aside",
                kind.word(),
                written.value.word(),
                written.origin
            ));
            OptimizerSettings::default()
        }
        _ => theirs.settings.clone(),
    }
}

fn joined_settings(
    inner: &Section<'_>,
    ours: OptimizerSettings,
    theirs: OptimizerSettings,
) -> OptimizerSettings {
    let float = |key, ours, theirs| joined::<f64>(inner, key, ours, theirs);
    let boolean = |key, ours, theirs| joined::<bool>(inner, key, ours, theirs);
    OptimizerSettings {
        betas: joined(inner, "betas", ours.betas, theirs.betas),
        eps: float("eps", ours.eps, theirs.eps),
        bias_correction: boolean("bias-correction", ours.bias_correction, theirs.bias_correction),
        decoupled_decay: boolean("decoupled-decay", ours.decoupled_decay, theirs.decoupled_decay),
        momentum: float("momentum", ours.momentum, theirs.momentum),
        dampening: float("dampening", ours.dampening, theirs.dampening),
        nesterov: boolean("nesterov", ours.nesterov, theirs.nesterov),
        lr_decay: float("lr-decay", ours.lr_decay, theirs.lr_decay),
        initial_accumulator_value: float(
            "initial-accumulator-value",
            ours.initial_accumulator_value,
            theirs.initial_accumulator_value,
        ),
        alpha: float("alpha", ours.alpha, theirs.alpha),
        centered: boolean("centered", ours.centered, theirs.centered),
        eps_inside_sqrt: boolean("eps-inside-sqrt", ours.eps_inside_sqrt, theirs.eps_inside_sqrt),
        min_coeff: float("min-coeff", ours.min_coeff, theirs.min_coeff),
        max_coeff: float("max-coeff", ours.max_coeff, theirs.max_coeff),
        momentum_decay: float("momentum-decay", ours.momentum_decay, theirs.momentum_decay),
    }
}

fn rule(inner: &Section<'_>, kind: OptimizerKind, found: &OptimizerSettings) -> UpdateRule {
    let float =
        |key, found: &Option<Found<f64>>, default| inner.settle(key, found.clone(), default);
    let boolean =
        |key, found: &Option<Found<bool>>, default| inner.settle(key, found.clone(), default);
    let betas = || inner.settle("betas", found.betas.clone(), ([0.9, 0.999], THEIRS));
    let eps = |default| float("eps", &found.eps, default);
    let correction = || boolean("bias-correction", &found.bias_correction, (true, THEIRS));
    match kind {
        OptimizerKind::Adam => UpdateRule::Adam {
            betas: betas(),
            eps: eps((1e-8, THEIRS)),
            bias_correction: correction(),
            decoupled_decay: boolean(
                "decoupled-decay",
                &found.decoupled_decay,
                (true, "DeepSpeed default: adam decays decoupled unless adam_w_mode is false"),
            ),
        },
        OptimizerKind::AdamW => UpdateRule::AdamW {
            betas: betas(),
            eps: eps((1e-8, THEIRS)),
            bias_correction: correction(),
        },
        OptimizerKind::Sgd => sgd(inner, found),
        OptimizerKind::Adagrad => UpdateRule::Adagrad {
            eps: eps((1e-10, TORCHS)),
            lr_decay: float("lr-decay", &found.lr_decay, (0.0, TORCHS)),
            initial_accumulator_value: float(
                "initial-accumulator-value",
                &found.initial_accumulator_value,
                (0.0, TORCHS),
            ),
        },
        OptimizerKind::RmsProp => UpdateRule::RmsProp {
            alpha: float("alpha", &found.alpha, (0.99, TORCHS)),
            eps: eps((1e-8, TORCHS)),
            momentum: float("momentum", &found.momentum, (0.0, TORCHS)),
            centered: boolean("centered", &found.centered, (false, TORCHS)),
        },
        OptimizerKind::Lion => UpdateRule::Lion { betas: betas() },
        OptimizerKind::Lamb => lamb(inner, found, (betas(), eps((1e-8, THEIRS)), correction())),
        OptimizerKind::NAdam => UpdateRule::NAdam {
            betas: betas(),
            eps: eps((1e-8, TORCHS)),
            momentum_decay: float("momentum-decay", &found.momentum_decay, (4e-3, TORCHS)),
            decoupled_decay: boolean("decoupled-decay", &found.decoupled_decay, (false, TORCHS)),
        },
    }
}

fn sgd(inner: &Section<'_>, found: &OptimizerSettings) -> UpdateRule {
    let momentum = inner.settle("momentum", found.momentum.clone(), (0.0, TORCHS));
    let dampening = inner.settle("dampening", found.dampening.clone(), (0.0, TORCHS));
    let nesterov = inner.settle("nesterov", found.nesterov.clone(), (false, TORCHS));
    if let Some(asked) = found.nesterov.as_ref().filter(|asked| asked.value)
        && (momentum == 0.0 || dampening != 0.0)
    {
        let message = "Nesterov's momentum needs a momentum above 0 and no dampening";
        inner.report().wrong_key(&asked.place, &inner.path_of("nesterov"), message);
    }
    UpdateRule::Sgd { momentum, dampening, nesterov }
}

fn lamb(
    inner: &Section<'_>,
    found: &OptimizerSettings,
    (betas, eps, bias_correction): ([f64; 2], f64, bool),
) -> UpdateRule {
    let inside = found.eps_inside_sqrt.clone();
    let eps_inside_sqrt = inner.settle("eps-inside-sqrt", inside, (false, THEIRS));
    let min_coeff = inner.settle("min-coeff", found.min_coeff.clone(), (0.01, THEIRS));
    let max_coeff = inner.settle("max-coeff", found.max_coeff.clone(), (10.0, THEIRS));
    if min_coeff > max_coeff {
        let written = found.min_coeff.as_ref().or(found.max_coeff.as_ref());
        if let Some(written) = written {
            let message = format!("min-coeff {min_coeff} is above max-coeff {max_coeff}");
            inner.report().wrong_key(&written.place, &inner.path_of("min-coeff"), message);
        }
    }
    UpdateRule::Lamb { betas, eps, bias_correction, eps_inside_sqrt, min_coeff, max_coeff }
}

/// DeepSpeed shards only the states of optimizers on its list without being told that it may.
fn say_untested(section: &Section<'_>, context: &Context<'_>, kind: OptimizerKind) {
    use OptimizerKind::{Lamb, NAdam, RmsProp, Sgd};
    let sharded = context.deepspeed.zero.stage.as_ref().is_some_and(|stage| stage.value > 0);
    let is_theirs = context.deepspeed.optimizer.kind.is_some();
    if sharded && is_theirs && matches!(kind, Lamb | NAdam | RmsProp | Sgd) {
        section.report().note(format!(
            "optimizer: DeepSpeed takes {} at this ZeRO stage only with \
             zero_allow_untested_optimizer; here every optimizer is tested at every stage",
            kind.theirs()
        ));
    }
}
