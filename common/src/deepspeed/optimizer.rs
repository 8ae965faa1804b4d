//! The `optimizer` block: Adam and AdamW by DeepSpeed's rule.

use crate::section::{FloatRange, Found, Section};
use crate::tree::{Node, Value};
use serde::Serialize;

/// Optimizers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OptimizerKind {
    Adam,
    #[serde(rename = "adamw")]
    AdamW,
}

/// What the block says; None where it is silent.
#[derive(Debug, Default)]
pub(crate) struct OptimizerBlock {
    pub(crate) kind: Option<Found<OptimizerKind>>,
    pub(crate) learning_rate: Option<Found<f64>>,
    pub(crate) betas: Option<Found<[f64; 2]>>,
    pub(crate) eps: Option<Found<f64>>,
    pub(crate) weight_decay: Option<Found<f64>>,
    pub(crate) bias_correction: Option<Found<bool>>,
    pub(crate) adam_w_mode: Option<Found<bool>>,
}

/// Optimizers of DeepSpeed and torch that a later version may have.
const LATER: &[&str] = &[
    "adagrad",
    "lamb",
    "lion",
    "muon",
    "muadam",
    "muadamw",
    "musgd",
    "sgd",
    "rmsprop",
    "nadam",
    "onebitadam",
    "onebitlamb",
    "zerooneadam",
];

pub(crate) fn read(top: &Section<'_>) -> OptimizerBlock {
    let block = top.sub("optimizer");
    let kind = kind(&block);
    if block.lacks("type") {
        top.refuse("optimizer", "a type is missing; this version has `Adam` and `AdamW`");
    }
    let params = block.sub("params");
    OptimizerBlock {
        kind,
        learning_rate: params.float("lr", FloatRange::POSITIVE),
        betas: betas(&params),
        eps: params.float("eps", FloatRange::POSITIVE),
        weight_decay: params.float("weight_decay", FloatRange::NOT_NEGATIVE),
        bias_correction: params.boolean("bias_correction"),
        adam_w_mode: params.boolean("adam_w_mode"),
    }
}

fn kind(block: &Section<'_>) -> Option<Found<OptimizerKind>> {
    let found = block.text("type")?;
    match found.value.to_ascii_lowercase().as_str() {
        "adam" => Some(found.map(|_| OptimizerKind::Adam)),
        "adamw" => Some(found.map(|_| OptimizerKind::AdamW)),
        other => {
            let later = if LATER.contains(&other) { "not supported yet" } else { "unknown" };
            let message = format!("{later}; this version has `Adam` and `AdamW`");
            block.refuse("type", message);
            None
        }
    }
}

fn betas(params: &Section<'_>) -> Option<Found<[f64; 2]>> {
    let below_one = |node: &Node| match node.value {
        Value::Float(beta) if (0.0..1.0).contains(&beta) => Some(beta),
        Value::Integer(0) => Some(0.0),
        _ => None,
    };
    let expected = "two numbers of at least 0 and below 1";
    let found = params.list("betas", expected, below_one)?;
    match <[f64; 2]>::try_from(found.value.clone()) {
        Ok(betas) => Some(found.map(|_| betas)),
        Err(_) => {
            params.refuse("betas", format!("expected {expected}"));
            None
        }
    }
}
