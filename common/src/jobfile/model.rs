//! `[model]`: which network.

use crate::section::{FloatRange, Found, IntegerRange, Section};
use crate::spec::{Model, ModelKind};

use super::data::Kind;
use super::{Context, DEFAULT, SYNONYMS};

const KINDS: &[(&str, ModelKind)] = &[("lstm", ModelKind::Lstm), ("gru", ModelKind::Gru)];
const LATER_KINDS: &[&str] = &[
    "attention-lstm",
    "rnn",
    "cnn",
    "mobilenet",
    "resnet",
    "transformer",
    "gpt",
    "bayesian-lstm",
    "mlp",
    "tcn",
];

const HIDDEN_SIZE: IntegerRange = IntegerRange::new(1, 65_536).usually(32, 1024);
const NUM_LAYERS: IntegerRange = IntegerRange::new(1, 64).usually(1, 8);
const DROPOUT: FloatRange = FloatRange::half_open(0.0, 1.0);

pub(super) fn read(root: &Section<'_>, context: &Context<'_>, data: Kind) -> Model {
    let section = root.sub("model");
    let of = data.default_of();
    let (hidden, dropout, head_dropout) = defaults(data);
    let kind = section.choice("kind", KINDS, LATER_KINDS);
    let kind = section.settle("kind", kind, (ModelKind::Lstm, DEFAULT));
    let hidden_size = section.integer("hidden-size", HIDDEN_SIZE);
    let hidden_size = section.settle("hidden-size", hidden_size, (hidden, &of));
    let num_layers = section.integer("num-layers", NUM_LAYERS);
    let num_layers = section.settle("num-layers", num_layers, (2, &of));
    let dropout_found = section.float("dropout", DROPOUT);
    warn_if_without_effect(&section, dropout_found.as_ref(), num_layers);
    let dropout = section.settle("dropout", dropout_found, (dropout, &of));
    let head_default = match head_dropout {
        HeadDropout::None => (0.0, of.as_str()),
        HeadDropout::SameAsDropout => {
            (dropout, "default of synthetic-timeseries: as model.dropout")
        }
    };
    let head_dropout = section.float("head-dropout", DROPOUT);
    let head_dropout = section.settle("head-dropout", head_dropout, head_default);
    let bidirectional = section.boolean("bidirectional");
    let bidirectional = section.settle("bidirectional", bidirectional, (false, DEFAULT));
    let init_from = section.path("init-from", context.base_dir);
    let init_from =
        section.settle_optional("init-from", init_from, "default: fresh weights from job.seed");
    section.not_yet(
        &["attention-heads", "num-heads", "channels", "vocab-size", "num-classes"],
        "models of other kinds than lstm and gru",
    );
    section.refuse_unknown(SYNONYMS);
    Model { kind, hidden_size, num_layers, dropout, head_dropout, bidirectional, init_from }
}

enum HeadDropout {
    None,
    SameAsDropout,
}

fn defaults(data: Kind) -> (u32, f64, HeadDropout) {
    match data {
        Kind::Sine => (64, 0.2, HeadDropout::None),
        Kind::SyntheticTimeseries => (128, 0.2, HeadDropout::SameAsDropout),
        Kind::Csv => (64, 0.0, HeadDropout::None),
    }
}

fn warn_if_without_effect(section: &Section<'_>, dropout: Option<&Found<f64>>, num_layers: u32) {
    if let Some(found) = dropout.filter(|found| found.value > 0.0 && num_layers == 1) {
        section.report().warn(format!(
            "{}: model.dropout acts between layers, and there is one; \
             model.head-dropout acts before the last linear layer",
            found.place
        ));
    }
}
