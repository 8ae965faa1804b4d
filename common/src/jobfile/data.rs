//! `[data]`: where samples come from. Each kind has its own keys and defaults.

use std::path::PathBuf;

use crate::section::{FloatRange, Found, IntegerRange, Section};
use crate::spec::{Data, DataSource, Missing, Normalization};
use crate::tree::{Node, Value};

use super::{Context, DEFAULT, SYNONYMS};

/// The kinds of data of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sine,
    SyntheticTimeseries,
    Csv,
    Digits,
}

/// What one sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Samples {
    /// A stretch of a series, and what comes after it.
    Windows,
    /// An image and its class.
    Images,
}

const KINDS: &[(&str, Kind)] = &[
    ("sine", Kind::Sine),
    ("synthetic-timeseries", Kind::SyntheticTimeseries),
    ("csv", Kind::Csv),
    ("digits", Kind::Digits),
];
const LATER_KINDS: &[&str] = &[
    "mnist",
    "cifar10",
    "images",
    "text",
    "tokens",
    "parquet",
    "arrow",
    "bandit",
    "seattle-weather",
    "stocks",
];

const WINDOW: IntegerRange = IntegerRange::new(1, 1_000_000).usually(10, 500);
const SAMPLES: IntegerRange = IntegerRange::new(1, 1_000_000_000).usually(1_000, 100_000);
const SINE_VALIDATION_SAMPLES: IntegerRange = IntegerRange::new(0, 1_000_000_000);
const HORIZON: IntegerRange = IntegerRange::new(1, 100_000);
const FEATURES: IntegerRange = IntegerRange::new(1, 4096);

/// Keys that only some kinds have, for a better answer than "unknown".
const KEYS_OF: &[(&str, &[&str])] = &[
    ("sine", &["samples", "validation-samples", "noise", "window", "horizon"]),
    (
        "synthetic-timeseries",
        &[
            "samples",
            "features",
            "sampling-rate",
            "noise",
            "split",
            "normalization",
            "window",
            "horizon",
        ],
    ),
    (
        "csv",
        &[
            "path",
            "columns",
            "targets",
            "header",
            "split",
            "normalization",
            "missing",
            "window",
            "horizon",
        ],
    ),
    ("digits", &["path", "split"]),
];

/// The set's name among the project's own.
const DIGITS_FILE: &str = "digits.csv.gz";

impl Kind {
    pub(super) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    pub(super) fn samples(self) -> Samples {
        match self {
            Self::Sine | Self::SyntheticTimeseries | Self::Csv => Samples::Windows,
            Self::Digits => Samples::Images,
        }
    }

    /// Says whose default a default is.
    pub(super) fn default_of(self) -> String {
        format!("default of {}", self.name())
    }
}

/// The data, and its kind for the defaults of the other sections. None: no kind is known.
pub(super) fn read(root: &Section<'_>, context: &Context<'_>) -> Option<(Kind, Data)> {
    let section = root.sub("data");
    let kind = section.choice("kind", KINDS, LATER_KINDS);
    let Some(kind) = kind else {
        if section.table().is_none() || section.lacks("kind") {
            let names: Vec<String> = KINDS.iter().map(|(word, _)| format!("`{word}`")).collect();
            let message = format!("missing; expected {}", crate::section::or_list(&names));
            context.missing("data.kind", message);
        }
        return None;
    };
    section.record("kind", &format!("{:?}", kind.value.name()), kind.origin);
    let kind = kind.value;
    let of = kind.default_of();
    let source = match kind {
        Kind::Sine => sine(&section, &of),
        Kind::SyntheticTimeseries => synthetic(&section, &of),
        Kind::Csv => csv(&section, context),
        Kind::Digits => digits(&section, context),
    };
    let (window, horizon) = match kind.samples() {
        Samples::Windows => windows(&section, kind),
        Samples::Images => (None, None),
    };
    let shuffle = section.settle("shuffle", section.boolean("shuffle"), (true, DEFAULT));
    let drop_last = drop_last(&section, context);
    section.refuse_keys_of_others(kind.name(), KEYS_OF);
    section.not_yet(&["augment", "num-workers", "download"], "data loading of this kind");
    section.refuse_unknown(SYNONYMS);
    Some((kind, Data { source, window, horizon, shuffle, drop_last }))
}

fn windows(section: &Section<'_>, kind: Kind) -> (Option<u32>, Option<u32>) {
    let of = kind.default_of();
    let window = section.settle("window", section.integer("window", WINDOW), (50, &of));
    let horizon = section.settle("horizon", section.integer("horizon", HORIZON), (1, DEFAULT));
    if kind == Kind::Sine && horizon != 1 {
        section.refuse("horizon", "sine predicts the next value only; expected 1");
    }
    (Some(window), Some(horizon))
}

/// DeepSpeed's `dataloader_drop_last` wins over ours, but not over the command line's.
fn drop_last(section: &Section<'_>, context: &Context<'_>) -> bool {
    let ours = section.boolean("drop-last");
    let theirs = context.deepspeed.drop_last.clone();
    let forced = ours.as_ref().is_some_and(|found| found.place.is_command_line());
    let found = if forced { ours.or(theirs) } else { theirs.or(ours) };
    section.settle("drop-last", found, (true, DEFAULT))
}

fn sine(section: &Section<'_>, of: &str) -> DataSource {
    let validation = section.integer("validation-samples", SINE_VALIDATION_SAMPLES);
    DataSource::Sine {
        samples: section.settle("samples", section.integer("samples", SAMPLES), (8_000, of)),
        validation_samples: section.settle("validation-samples", validation, (2_000, of)),
        noise: section.settle("noise", section.float("noise", FloatRange::NOT_NEGATIVE), (0.1, of)),
    }
}

fn synthetic(section: &Section<'_>, of: &str) -> DataSource {
    let rate = section.float("sampling-rate", FloatRange::POSITIVE);
    let noise = section.float("noise", FloatRange::NOT_NEGATIVE);
    let normalization = normalization(section);
    DataSource::SyntheticTimeseries {
        samples: section.settle("samples", section.integer("samples", SAMPLES), (20_000, of)),
        features: section.settle("features", section.integer("features", FEATURES), (3, of)),
        sampling_rate: section.settle("sampling-rate", rate, (0.1, of)),
        noise: section.settle("noise", noise, (0.05, of)),
        split: section.settle("split", split(section), ([0.8, 0.2, 0.0], of)),
        normalization: section.settle("normalization", normalization, (Normalization::None, of)),
    }
}

fn csv(section: &Section<'_>, context: &Context<'_>) -> DataSource {
    let of = &Kind::Csv.default_of();
    let header = section.settle("header", section.boolean("header"), (true, of));
    let columns = columns(section, "columns", header);
    let targets = columns_or(section, "targets", header, &columns);
    let words = &[
        ("error", Missing::Error),
        ("drop", Missing::Drop),
        ("interpolate", Missing::Interpolate),
    ];
    let missing = section.choice("missing", words, &["forward-fill", "zero", "mean"]);
    let normalization = normalization(section);
    DataSource::Csv {
        path: path(section, context),
        columns,
        targets,
        header,
        split: section.settle("split", split(section), ([0.7, 0.15, 0.15], of)),
        normalization: section.settle(
            "normalization",
            normalization,
            (Normalization::Standard, of),
        ),
        missing: section.settle("missing", missing, (Missing::Error, of)),
    }
}

fn digits(section: &Section<'_>, context: &Context<'_>) -> DataSource {
    let beside = context.base_dir.join(DIGITS_FILE);
    let of = "default of digits: beside the job file";
    let path = section.settle("path", section.path("path", context.base_dir), (beside, of));
    let split = section.settle("split", split(section), ([0.7, 0.15, 0.15], "default of digits"));
    DataSource::Digits { path, split }
}

fn path(section: &Section<'_>, context: &Context<'_>) -> PathBuf {
    match section.path("path", context.base_dir) {
        Some(found) => section.settle("path", Some(found), (PathBuf::new(), DEFAULT)),
        None => {
            if section.lacks("path") {
                let message = "missing; kind = \"csv\" needs a file, relative to the job file";
                context.missing("data.path", message);
            }
            PathBuf::new()
        }
    }
}

fn columns(section: &Section<'_>, key: &str, header: bool) -> Vec<String> {
    let found = names(section, key, header);
    let all = (Vec::new(), "default: every column that holds numbers");
    section.settle(key, found, all)
}

fn columns_or(section: &Section<'_>, key: &str, header: bool, columns: &[String]) -> Vec<String> {
    let found = names(section, key, header);
    section.settle(key, found, (columns.to_vec(), "default: the same as data.columns"))
}

/// Names, or indexes from 0 where the file has no header.
fn names(section: &Section<'_>, key: &str, header: bool) -> Option<Found<Vec<String>>> {
    let expected = if header {
        "a list of column names (indexes need `header = false`)"
    } else {
        "a list of column indexes from 0, as the file has no header"
    };
    let read = |node: &Node| match &node.value {
        Value::Text(name) if header && !name.trim().is_empty() => Some(name.clone()),
        Value::Integer(index @ 0..) if !header => Some(index.to_string()),
        Value::Text(index) if !header => index.parse::<u32>().ok().map(|i| i.to_string()),
        _ => None,
    };
    let found = section.list(key, expected, read)?;
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = found.value.iter().find(|name| !seen.insert(name.as_str())) {
        section.refuse(key, format!("`{twice}` is listed twice"));
    }
    if found.value.is_empty() {
        section.refuse(key, "the list is empty; leave the key out for every numeric column");
    }
    Some(found)
}

fn normalization(section: &Section<'_>) -> Option<Found<Normalization>> {
    let words = &[
        ("none", Normalization::None),
        ("standard", Normalization::Standard),
        ("min-max", Normalization::MinMax),
        ("window", Normalization::Window),
    ];
    section.choice("normalization", words, &["robust", "log"])
}

/// `[train, validation, test]`; two parts mean that there is no test part.
fn split(section: &Section<'_>) -> Option<Found<[f64; 3]>> {
    let expected = "[train, validation, test]: parts of at least 0 that sum to 1, \
                    the first above 0";
    let part = |node: &Node| match node.value {
        Value::Float(part) if (0.0..=1.0).contains(&part) => Some(part),
        Value::Integer(part @ 0..=1) => Some(part as f64),
        _ => None,
    };
    let found = section.list("split", expected, part)?;
    let parts = match found.value[..] {
        [train, validation] => [train, validation, 0.0],
        [train, validation, test] => [train, validation, test],
        _ => {
            section.refuse("split", format!("expected {expected}"));
            return None;
        }
    };
    // Of adding decimal fractions.
    const ROUNDING: f64 = 1e-6;
    if parts[0] <= 0.0 || (parts.iter().sum::<f64>() - 1.0).abs() > ROUNDING {
        section.refuse("split", format!("expected {expected}"));
        return None;
    }
    Some(found.map(|_| parts))
}
