//! `[model]`: which network.

use std::path::PathBuf;

use crate::section::{FloatRange, Found, IntegerRange, Section};
use crate::spec::{Cnn, Model, Recurrent, RecurrentKernel};
use crate::tree::{Node, Value};

use super::data::{self, Samples};
use super::{Context, DEFAULT, SYNONYMS};

/// The kinds of models of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lstm,
    Gru,
    Cnn,
}

const KINDS: &[(&str, Kind)] = &[("lstm", Kind::Lstm), ("gru", Kind::Gru), ("cnn", Kind::Cnn)];
const LATER_KINDS: &[&str] = &[
    "attention-lstm",
    "rnn",
    "mobilenet",
    "resnet",
    "transformer",
    "gpt",
    "bayesian-lstm",
    "mlp",
    "tcn",
];

/// Keys that only some kinds have, for a better answer than "unknown".
const KEYS_OF: &[(&str, &[&str])] = &[
    ("lstm", &["num-layers", "head-dropout", "bidirectional", "kernel"]),
    ("gru", &["num-layers", "head-dropout", "bidirectional", "kernel"]),
    ("cnn", &["channels", "kernel-size"]),
];

const HIDDEN_SIZE: IntegerRange = IntegerRange::new(1, 65_536).usually(32, 1024);
const NUM_LAYERS: IntegerRange = IntegerRange::new(1, 64).usually(1, 8);
const KERNEL_SIZE: IntegerRange = IntegerRange::new(1, 31).usually(3, 7);
const DROPOUT: FloatRange = FloatRange::half_open(0.0, 1.0);
/// Of one convolution, and convolutions of a model: more are typing mistakes.
const MAX_CHANNELS: i64 = 4096;
const MAX_BLOCKS: usize = 16;

/// `data` is None where its own mistake is told already.
pub(super) fn read(root: &Section<'_>, context: &Context<'_>, data: Option<data::Kind>) -> Model {
    let section = root.sub("model");
    let found = section.choice("kind", KINDS, LATER_KINDS);
    if let (Some(found), Some(data)) = (&found, data) {
        check_kind(&section, found.value, data);
    }
    let is_wrong = found.is_none() && section.table().is_some() && !section.lacks("kind");
    let data = data.unwrap_or(data::Kind::Csv);
    let (default, of) = match data.samples() {
        Samples::Windows => (Kind::Lstm, DEFAULT.to_owned()),
        Samples::Images => (Kind::Cnn, data.default_of()),
    };
    let (kind, origin) = found.map_or((default, of), |found| (found.value, found.origin));
    section.record("kind", &format!("{:?}", kind.name()), origin);
    let model = match kind {
        Kind::Lstm => {
            let kernel = kernel(&section, LSTM_KERNEL);
            Model::Lstm(Recurrent { kernel, ..recurrent(&section, context, data) })
        }
        Kind::Gru => {
            let kernel = kernel(&section, GRU_KERNEL);
            if kernel == RecurrentKernel::Native {
                section.refuse("kernel", "only lstm has a kernel of our own; expected `libtorch`");
            }
            Model::Gru(Recurrent { kernel, ..recurrent(&section, context, data) })
        }
        Kind::Cnn => Model::Cnn(cnn(&section, context)),
    };
    if is_wrong {
        // One mistake: which keys belong depends on what the kind was meant to be.
        for key in KEYS_OF.iter().flat_map(|(_, keys)| *keys) {
            section.lookup(key);
        }
    } else {
        section.refuse_keys_of_others(kind.name(), KEYS_OF);
    }
    section.not_yet(
        &["attention-heads", "num-heads", "vocab-size"],
        "models of other kinds than lstm, gru and cnn",
    );
    section.elsewhere(&["num-classes"], "the data tells how many classes there are");
    section.refuse_unknown(SYNONYMS);
    model
}

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

fn check_kind(section: &Section<'_>, kind: Kind, data: data::Kind) {
    let of = data.name();
    match (kind, data.samples()) {
        (Kind::Lstm | Kind::Gru, Samples::Windows) | (Kind::Cnn, Samples::Images) => {}
        (Kind::Cnn, Samples::Windows) => {
            let message = format!("reads images, and `{of}` has none; expected `lstm` or `gru`");
            section.refuse("kind", message);
        }
        (Kind::Lstm | Kind::Gru, Samples::Images) => {
            let message = format!("reads series, and `{of}` holds images; expected `cnn`");
            section.refuse("kind", message);
        }
    }
}

fn recurrent(section: &Section<'_>, context: &Context<'_>, data: data::Kind) -> Recurrent {
    let of = data.default_of();
    let (hidden, dropout, head_dropout) = recurrent_defaults(data);
    let hidden_size = section.integer("hidden-size", HIDDEN_SIZE);
    let hidden_size = section.settle("hidden-size", hidden_size, (hidden, &of));
    let num_layers = section.integer("num-layers", NUM_LAYERS);
    let num_layers = section.settle("num-layers", num_layers, (2, &of));
    let dropout_found = section.float("dropout", DROPOUT);
    warn_if_without_effect(section, dropout_found.as_ref(), num_layers);
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
    let init_from = init_from(section, context);
    let kernel = RecurrentKernel::Auto;
    Recurrent { hidden_size, num_layers, dropout, head_dropout, bidirectional, kernel, init_from }
}

/// What `auto` comes to; each rank decides, because only it knows its CPU.
const LSTM_KERNEL: &str = "default: native in fp32 with one thread per rank on CPUs with AVX2 or \
                           AVX-512, else libtorch";
const GRU_KERNEL: &str = "default: libtorch, as for every gru";

fn kernel(section: &Section<'_>, default: &str) -> RecurrentKernel {
    let words = &[
        ("auto", RecurrentKernel::Auto),
        ("libtorch", RecurrentKernel::Libtorch),
        ("native", RecurrentKernel::Native),
    ];
    let found = section.choice("kernel", words, &[]);
    section.settle("kernel", found, (RecurrentKernel::Auto, default))
}

fn cnn(section: &Section<'_>, context: &Context<'_>) -> Cnn {
    let of = "default of cnn";
    let channels = section.settle("channels", channels(section), (vec![32, 64], of));
    let kernel_size: Option<Found<u32>> = section.integer("kernel-size", KERNEL_SIZE);
    if kernel_size.as_ref().is_some_and(|found| found.value.is_multiple_of(2)) {
        section.refuse("kernel-size", "expected an odd number: then images keep their size");
    }
    let kernel_size = section.settle("kernel-size", kernel_size, (3, of));
    let hidden_size = section.integer("hidden-size", HIDDEN_SIZE);
    let hidden_size = section.settle("hidden-size", hidden_size, (128, of));
    let dropout = section.settle("dropout", section.float("dropout", DROPOUT), (0.25, of));
    Cnn { channels, kernel_size, hidden_size, dropout, init_from: init_from(section, context) }
}

/// One number per block.
fn channels(section: &Section<'_>) -> Option<Found<Vec<u32>>> {
    let expected = "a list of 1 to 16 numbers from 1 to 4096: the channels of each convolution";
    let item = |node: &Node| match node.value {
        Value::Integer(channels @ 1..=MAX_CHANNELS) => u32::try_from(channels).ok(),
        _ => None,
    };
    let found = section.list("channels", expected, item)?;
    if (1..=MAX_BLOCKS).contains(&found.value.len()) {
        return Some(found);
    }
    section.refuse("channels", format!("expected {expected}"));
    None
}

fn init_from(section: &Section<'_>, context: &Context<'_>) -> Option<PathBuf> {
    let found = section.path("init-from", context.base_dir);
    section.settle_optional("init-from", found, "default: fresh weights from job.seed")
}

enum HeadDropout {
    None,
    SameAsDropout,
}

fn recurrent_defaults(data: data::Kind) -> (u32, f64, HeadDropout) {
    match data {
        data::Kind::Sine => (64, 0.2, HeadDropout::None),
        data::Kind::SyntheticTimeseries => (128, 0.2, HeadDropout::SameAsDropout),
        data::Kind::Csv | data::Kind::Digits => (64, 0.0, HeadDropout::None),
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
