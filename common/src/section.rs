//! Typed reading of one table: every key that is asked for becomes known, every wrong type or
//! value becomes a mistake, every effective value is recorded with its origin, and what was never
//! asked for is unknown. Knows types and ranges, not what a key means.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

use crate::report::Report;
use crate::tree::{self, Node, Place, Table, Value};

mod read;

pub(crate) use read::{
    FloatRange, IntegerRange, absolute, boolean_in_text, integer_in_text, or_list,
};

/// A value that someone wrote.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
    /// `job.toml:12`, or with the key where its name is not the job file's:
    /// `ds.json:3 train_batch_size`.
    pub(crate) origin: String,
}

impl<T> Found<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        Found { value: change(self.value), place: self.place, origin: self.origin }
    }
}

/// Whose words and rules a table follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Strict types.
    Job,
    /// `"auto"` and null mean "not given", numbers and booleans may be text, integers may be
    /// written `5e8`.
    DeepSpeed,
}

/// One table while it is read. A missing table reads as an empty one.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    path: String,
    table: Option<&'a Table>,
    dialect: Dialect,
    report: &'a Report,
    known: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    pub(crate) fn root(table: &'a Table, dialect: Dialect, report: &'a Report) -> Self {
        Self { path: String::new(), table: Some(table), dialect, report, known: RefCell::default() }
    }

    /// The table under `key`; anything else there is a mistake.
    pub(crate) fn sub(&self, key: &str) -> Section<'a> {
        let table = match self.lookup(key) {
            None => None,
            Some(Node { value: Value::Table(table), .. }) => Some(table),
            Some(node) => {
                self.mistake(key, node, "expected a table");
                None
            }
        };
        Section {
            path: self.path_of(key),
            table,
            dialect: self.dialect,
            report: self.report,
            known: RefCell::default(),
        }
    }

    /// As [`Section::sub`], and empty where a plain value stands under `key`, which has another
    /// reader.
    pub(crate) fn sub_or_plain(&self, key: &str) -> Section<'a> {
        match self.lookup(key) {
            Some(Node { value: Value::Table(_), .. }) | None => self.sub(key),
            Some(_) => Section {
                path: self.path_of(key),
                table: None,
                dialect: self.dialect,
                report: self.report,
                known: RefCell::default(),
            },
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }

    /// The table is there and `key` is not.
    pub(crate) fn lacks(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_none())
    }

    pub(crate) fn table(&self) -> Option<&'a Table> {
        self.table
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of `key` as written, which makes the key known. None where it is not given.
    pub(crate) fn lookup(&self, key: &str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key.to_owned());
        let node = self.table?.get(key)?;
        let means_nothing = match &node.value {
            Value::Null => true,
            Value::Text(text) => text == "auto",
            _ => false,
        };
        (self.dialect == Dialect::Job || !means_nothing).then_some(node)
    }

    fn found<T>(&self, key: &str, node: &Node, value: T) -> Found<T> {
        let place = node.place.clone();
        let origin = match self.dialect {
            Dialect::Job => place.to_string(),
            Dialect::DeepSpeed if place.is_command_line() => place.to_string(),
            Dialect::DeepSpeed => format!("{place} {}", self.path_of(key)),
        };
        Found { value, place, origin }
    }

    fn mistake(&self, key: &str, node: &Node, message: impl Into<String>) {
        self.report.wrong_value(&node.place, &self.path_of(key), &node.value, message);
    }

    /// A mistake about a value that was read but cannot be, for a reason that spans keys.
    pub(crate) fn refuse(&self, key: &str, message: impl Into<String>) {
        if let Some(node) = self.table.and_then(|table| table.get(key)) {
            self.mistake(key, node, message);
        }
    }

    /// Keys of later versions: refused by name, never ignored.
    pub(crate) fn not_yet(&self, keys: &[&str], why: &str) {
        for key in keys {
            if let Some(node) = self.lookup(key) {
                self.mistake(key, node, format!("not supported yet: {why}"));
            }
        }
    }

    /// Keys that belong to another place.
    pub(crate) fn elsewhere(&self, keys: &[&str], where_else: &str) {
        for key in keys {
            if let Some(node) = self.lookup(key) {
                self.report.wrong_key(&node.place, &self.path_of(key), where_else);
            }
        }
    }

    /// Keys that another kind of the same section has: told where they belong. `keys_of` lists the
    /// keys that not every kind has.
    pub(crate) fn refuse_keys_of_others(&self, kind: &str, keys_of: &[(&str, &[&str])]) {
        let Some(table) = self.table else { return };
        let own = keys_of.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| keys);
        for entry in &table.entries {
            let key = entry.key.as_str();
            let has_it = |keys: &[&str]| keys.contains(&key) && !own.contains(&key);
            let kinds: Vec<&str> =
                keys_of.iter().filter(|(_, keys)| has_it(keys)).map(|(name, _)| *name).collect();
            if let Some((last, others)) = kinds.split_last() {
                let others = others.join(", ");
                let and = if others.is_empty() { "" } else { " and " };
                let kinds = format!("{others}{and}{last}");
                let message = format!("kind = \"{kind}\" has no such key; it belongs to {kinds}");
                self.report.wrong_key(&entry.place, &self.path_of(key), message);
                self.lookup(key);
            }
        }
    }

    /// Everything that nobody asked for is unknown; `synonyms` are names that other tools use.
    pub(crate) fn refuse_unknown(&self, synonyms: &[(&str, &str)]) {
        let known = self.known.borrow();
        let Some(table) = self.table else { return };
        for entry in &table.entries {
            if known.contains(&entry.key) {
                continue;
            }
            let synonym = synonyms.iter().find(|(other, _)| *other == entry.key.replace('_', "-"));
            let hint = match synonym {
                Some((_, right)) => format!("unknown key; use `{right}`"),
                None => match nearest(&entry.key, known.iter().map(String::as_str)) {
                    Some(right) => format!("unknown key; did you mean `{right}`?"),
                    None => "unknown key".to_owned(),
                },
            };
            self.report.wrong_key(&entry.place, &self.path_of(&entry.key), hint);
        }
    }

    /// The value that will hold: the found one, else the default. Recorded with its origin.
    pub(crate) fn settle<T: Serialize>(
        &self,
        key: &str,
        found: Option<Found<T>>,
        default: (T, &str),
    ) -> T {
        let (value, origin) = match found {
            Some(found) => (found.value, found.origin),
            None => (default.0, default.1.to_owned()),
        };
        self.record(key, &toml_text(&value), origin);
        value
    }

    /// As `settle`, where nothing is an answer too; `nothing` says what it means.
    pub(crate) fn settle_optional<T: Serialize>(
        &self,
        key: &str,
        found: Option<Found<T>>,
        nothing: &str,
    ) -> Option<T> {
        match found {
            Some(found) => {
                self.record(key, &toml_text(&found.value), found.origin);
                Some(found.value)
            }
            None => {
                self.record(key, &"-", nothing.to_owned());
                None
            }
        }
    }

    pub(crate) fn record(&self, key: &str, value: &dyn fmt::Display, origin: String) {
        self.report.effective(&self.path_of(key), value.to_string(), origin);
    }
}

/// A value as one line of TOML.
pub(crate) fn toml_text<T: Serialize>(value: &T) -> String {
    match toml::Value::try_from(value) {
        Ok(value) => {
            let nowhere = Place::command_line("");
            tree::from_toml::from_value(&value, &nowhere).value.to_string()
        }
        // Only what TOML cannot write: a number beyond 63 bits, say.
        Err(error) => error.to_string(),
    }
}

/// The known word that `written` was probably meant to be.
pub(crate) fn nearest<'w>(
    written: &str,
    known: impl IntoIterator<Item = &'w str>,
) -> Option<&'w str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let written = plain(written);
    known
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&written, &plain(word)), word))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}
