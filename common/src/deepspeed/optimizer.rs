//! Optimizers by name, and the settings that each has beside rate and decay, in DeepSpeed's words
//! and in the job file's.

use serde::Serialize;

use super::keys::{self, Fate};
use crate::section::{Dialect, FloatRange, Found, Section, nearest};
use crate::tree::{Node, Value};

/// What the block says; None where it is silent.
#[derive(Debug, Default)]
pub(crate) struct OptimizerBlock {
    pub(crate) kind: Option<Found<OptimizerKind>>,
    pub(crate) learning_rate: Option<Found<f64>>,
    pub(crate) weight_decay: Option<Found<f64>>,
    pub(crate) settings: OptimizerSettings,
}

/// Of one kind; None where nobody says it or the kind has no such setting.
#[derive(Debug, Default, Clone)]
pub(crate) struct OptimizerSettings {
    pub(crate) betas: Option<Found<[f64; 2]>>,
    pub(crate) eps: Option<Found<f64>>,
    pub(crate) bias_correction: Option<Found<bool>>,
    pub(crate) decoupled_decay: Option<Found<bool>>,
    pub(crate) momentum: Option<Found<f64>>,
    pub(crate) dampening: Option<Found<f64>>,
    pub(crate) nesterov: Option<Found<bool>>,
    pub(crate) lr_decay: Option<Found<f64>>,
    pub(crate) initial_accumulator_value: Option<Found<f64>>,
    pub(crate) alpha: Option<Found<f64>>,
    pub(crate) centered: Option<Found<bool>>,
    pub(crate) eps_inside_sqrt: Option<Found<bool>>,
    pub(crate) min_coeff: Option<Found<f64>>,
    pub(crate) max_coeff: Option<Found<f64>>,
    pub(crate) momentum_decay: Option<Found<f64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OptimizerKind {
    Adam,
    AdamW,
    Sgd,
    Adagrad,
    RmsProp,
    Lion,
    Lamb,
    NAdam,
}

use OptimizerKind::{Adagrad, Adam, AdamW, Lamb, Lion, NAdam, RmsProp, Sgd};

/// The job file's words, and DeepSpeed's.
const NAMES: &[(&str, &str, OptimizerKind)] = &[
    ("adam", "Adam", Adam),
    ("adamw", "AdamW", AdamW),
    ("sgd", "SGD", Sgd),
    ("adagrad", "Adagrad", Adagrad),
    ("rmsprop", "RMSprop", RmsProp),
    ("lion", "Lion", Lion),
    ("lamb", "Lamb", Lamb),
    ("nadam", "NAdam", NAdam),
];

/// Refused by name.
const NOT_HERE: &[&str] = &[
    "OneBitAdam",
    "OneBitLamb",
    "ZeroOneAdam",
    "Muon",
    "MuAdam",
    "MuAdamW",
    "MuSGD",
    "Adadelta",
    "Adafactor",
    "Adamax",
    "ASGD",
    "LBFGS",
    "RAdam",
    "Rprop",
    "SparseAdam",
];

impl OptimizerKind {
    pub(crate) const WORDS: &'static [(&'static str, Self)] = &[
        ("adam", Adam),
        ("adamw", AdamW),
        ("sgd", Sgd),
        ("adagrad", Adagrad),
        ("rmsprop", RmsProp),
        ("lion", Lion),
        ("lamb", Lamb),
        ("nadam", NAdam),
    ];

    pub(crate) const LATER: &'static [&'static str] =
        &["muon", "onebitadam", "onebitlamb", "zerooneadam", "radam", "adamax", "adadelta"];

    pub(crate) fn word(self) -> &'static str {
        self.names().0
    }

    /// DeepSpeed's spelling.
    pub(crate) fn theirs(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        let row = NAMES.iter().find(|(_, _, kind)| *kind == self);
        row.map(|(ours, theirs, _)| (*ours, *theirs)).expect("every kind has a row")
    }

    /// The settings that it has, in the job file's words.
    pub(crate) const fn keys(self) -> &'static [&'static str] {
        match self {
            Adam => &["betas", "eps", "bias-correction", "decoupled-decay"],
            AdamW => &["betas", "eps", "bias-correction"],
            Sgd => &["momentum", "dampening", "nesterov"],
            Adagrad => &["eps", "lr-decay", "initial-accumulator-value"],
            RmsProp => &["alpha", "eps", "momentum", "centered"],
            Lion => &["betas"],
            Lamb => {
                &["betas", "eps", "bias-correction", "eps-inside-sqrt", "min-coeff", "max-coeff"]
            }
            NAdam => &["betas", "eps", "momentum-decay", "decoupled-decay"],
        }
    }

    /// What `key` is called in this dialect.
    fn name_in(self, dialect: Dialect, key: &str) -> String {
        match (dialect, self, key) {
            (Dialect::Job, _, key) => key.to_owned(),
            (Dialect::DeepSpeed, NAdam, "decoupled-decay") => "decoupled_weight_decay".to_owned(),
            (Dialect::DeepSpeed, _, "decoupled-decay") => "adam_w_mode".to_owned(),
            (Dialect::DeepSpeed, _, key) => key.replace('-', "_"),
        }
    }
}

pub(crate) fn read(top: &Section<'_>) -> OptimizerBlock {
    let block = top.sub("optimizer");
    if block.lacks("type") {
        let message = format!("a type is missing; this version has {}", all());
        top.refuse("optimizer", message);
    }
    let kind = kind(&block);
    let params = block.sub("params");
    let of = kind.as_ref().map_or(AdamW, |kind| kind.value);
    if kind.is_some() {
        refuse_params_of_others(&params, of);
    }
    OptimizerBlock {
        kind,
        learning_rate: params.float("lr", FloatRange::POSITIVE),
        weight_decay: params.float("weight_decay", FloatRange::NOT_NEGATIVE),
        settings: settings(&params, of),
    }
}

fn all() -> String {
    let names: Vec<String> = NAMES.iter().map(|(_, theirs, _)| format!("`{theirs}`")).collect();
    names.join(", ")
}

/// DeepSpeed lower-cases its own names and takes torch's as they are.
fn kind(block: &Section<'_>) -> Option<Found<OptimizerKind>> {
    let found = block.text("type")?;
    let written = found.value.as_str();
    let is = |name: &str| written.eq_ignore_ascii_case(name);
    if let Some((_, theirs, kind)) = NAMES.iter().find(|(_, theirs, _)| is(theirs)) {
        let is_torchs = matches!(kind, Sgd | RmsProp | NAdam);
        if is_torchs && written != *theirs {
            block.report().note(format!(
                "{}: optimizer.type \"{written}\" is read as `{theirs}`; DeepSpeed itself takes \
                 torch's optimizers only as torch spells them",
                found.place
            ));
        }
        return Some(found.map(|_| *kind));
    }
    let message = if NOT_HERE.iter().any(|name| is(name)) {
        format!("not supported; this version has {}", all())
    } else {
        match nearest(written, NAMES.iter().map(|(_, theirs, _)| *theirs)) {
            Some(right) => format!("unknown optimizer; did you mean `{right}`?"),
            None => format!("unknown optimizer; this version has {}", all()),
        }
    };
    block.refuse("type", message);
    None
}

/// What is a parameter of another optimizer; what is one of none is told with the unknown keys.
fn refuse_params_of_others(params: &Section<'_>, kind: OptimizerKind) {
    let Some(table) = params.table() else { return };
    let own: Vec<String> =
        kind.keys().iter().map(|key| kind.name_in(Dialect::DeepSpeed, key)).collect();
    for entry in &table.entries {
        let key = entry.key.as_str();
        // AdamW ignores adam_w_mode, in DeepSpeed too.
        let is_own = own.iter().any(|name| name == key)
            || ["lr", "weight_decay"].contains(&key)
            || (kind == AdamW && key == "adam_w_mode");
        let is_read = keys::find("optimizer.params", key)
            .is_some_and(|known| matches!(known.fate, Fate::Implemented(_)));
        if is_read && !is_own {
            let message =
                format!("{} has no such parameter; it has {}", kind.theirs(), own.join(", "));
            params.report().wrong_key(&entry.place, &params.path_of(key), message);
        }
    }
}

/// The settings of `kind` that the table has, in its dialect.
pub(crate) fn settings(table: &Section<'_>, kind: OptimizerKind) -> OptimizerSettings {
    const BELOW_ONE: FloatRange = FloatRange::half_open(0.0, 1.0);
    let name = |key: &str| kind.keys().contains(&key).then(|| kind.name_in(table.dialect(), key));
    let float = |key: &str, range| name(key).and_then(|name| table.float(&name, range));
    let boolean = |key: &str| name(key).and_then(|name| table.boolean(&name));
    OptimizerSettings {
        betas: name("betas").and_then(|name| betas(table, &name)),
        eps: float("eps", FloatRange::POSITIVE),
        bias_correction: boolean("bias-correction"),
        decoupled_decay: boolean("decoupled-decay"),
        momentum: float("momentum", FloatRange::NOT_NEGATIVE),
        dampening: float("dampening", FloatRange::closed(0.0, 1.0)),
        nesterov: boolean("nesterov"),
        lr_decay: float("lr-decay", FloatRange::NOT_NEGATIVE),
        initial_accumulator_value: float("initial-accumulator-value", FloatRange::NOT_NEGATIVE),
        alpha: float("alpha", BELOW_ONE),
        centered: boolean("centered"),
        eps_inside_sqrt: boolean("eps-inside-sqrt"),
        min_coeff: float("min-coeff", FloatRange::NOT_NEGATIVE),
        max_coeff: float("max-coeff", FloatRange::POSITIVE),
        momentum_decay: float("momentum-decay", FloatRange::NOT_NEGATIVE),
    }
}

fn betas(table: &Section<'_>, key: &str) -> Option<Found<[f64; 2]>> {
    let below_one = |node: &Node| match node.value {
        Value::Float(beta) if (0.0..1.0).contains(&beta) => Some(beta),
        Value::Integer(0) => Some(0.0),
        _ => None,
    };
    let expected = "two numbers of at least 0 and below 1";
    let found = table.list(key, expected, below_one)?;
    match <[f64; 2]>::try_from(found.value.clone()) {
        Ok(betas) => Some(found.map(|_| betas)),
        Err(_) => {
            table.refuse(key, format!("expected {expected}"));
            None
        }
    }
}
