//! Walks a DeepSpeed configuration along the table of keys: says what is unknown, misformed,
//! ignored, gone or not supported, and records every key for `config explain`. What is implemented
//! is read elsewhere.

use crate::explain::Written;
use crate::report::{Report, shown};
use crate::section::nearest;
use crate::tree::{Entry, Table, Value};

use super::keys::{self, Fate, Form, Harmless, Key};

/// How much is forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Unknown top-level keys and ignored ones are warnings.
    Lenient,
    /// Every one is a mistake.
    Strict,
}

pub(crate) fn check(root: &Table, strictness: Strictness, report: &Report) {
    Walk { strictness, report }.block("", root);
}

struct Walk<'a> {
    strictness: Strictness,
    report: &'a Report,
}

impl Walk<'_> {
    fn block(&self, path: &str, table: &Table) {
        for entry in &table.entries {
            let full = keys::path_of(path, &entry.key);
            match keys::find(path, &entry.key) {
                None => self.unknown(path, &full, entry),
                Some(key) => self.known(path, key, &full, entry),
            }
        }
    }

    fn known(&self, path: &str, key: &Key, full: &str, entry: &Entry) {
        let fits = has_form(key.form, &entry.node.value);
        // What is implemented is read by a reader, which knows ranges too.
        if !fits && keys::is_validated(path) && !matches!(key.fate, Fate::Implemented(_)) {
            let message =
                format!("expected {}, found {}", in_words(key.form), entry.node.value.kind());
            self.report.wrong_value(&entry.node.place, full, &entry.node.value, message);
            return;
        }
        self.judge(key, full, entry);
        // The scheduler's parameters depend on its type, which its reader knows.
        let knows = full != "scheduler.params" && !keys::names_of(full).is_empty();
        match &entry.node.value {
            Value::Table(inner) if knows => self.inside(key, full, inner),
            Value::Table(inner) if key.form == Form::Block => self.list(full, inner, key),
            value => self.explain(key, full, entry, value),
        }
    }

    fn inside(&self, key: &Key, full: &str, inner: &Table) {
        if matches!(key.fate, Fate::Implemented(_)) && !is_switched_off(inner) {
            return self.block(full, inner);
        }
        // The block was judged as a whole; only misspelt keys are left to find.
        for entry in &inner.entries {
            let path = keys::path_of(full, &entry.key);
            match keys::find(full, &entry.key) {
                None => self.unknown(full, &path, entry),
                Some(known) => {
                    let is_read = matches!(key.fate, Fate::Implemented(_));
                    let fate = if is_read { known.fate } else { key.fate };
                    self.explain(&Key { fate, ..*known }, &path, entry, &entry.node.value);
                }
            }
        }
    }

    /// A block whose keys have no lines of their own.
    fn list(&self, full: &str, inner: &Table, key: &Key) {
        for entry in &inner.entries {
            let path = keys::path_of(full, &entry.key);
            let known = keys::find(full, &entry.key).unwrap_or(key);
            self.explain(known, &path, entry, &entry.node.value);
        }
    }

    fn explain(&self, key: &Key, full: &str, entry: &Entry, value: &Value) {
        let Key { meaning, .. } = key;
        let (what, decides) = match key.fate {
            Fate::Implemented("") => ((*meaning).to_owned(), None),
            Fate::Implemented(decides) => (format!("{meaning}; see {decides}"), Some(decides)),
            Fate::Ignored(_, why) => (format!("{meaning}; ignored because {why}"), None),
            Fate::NotSupported(_, why) => (format!("{meaning}; not supported: {why}"), None),
            Fate::Removed(_, why) => {
                (format!("{meaning}; newer DeepSpeed rejects it: {why}"), None)
            }
            Fate::Alias(new) | Fate::Deprecated(new) => (format!("another name of {new}"), None),
        };
        self.report.deepspeed(Written {
            key: full.to_owned(),
            value: shown(value),
            is_auto: matches!(value, Value::Text(text) if text == "auto"),
            place: entry.node.place.to_string(),
            meaning: what,
            decides,
        });
    }

    fn judge(&self, key: &Key, full: &str, entry: &Entry) {
        let value = &entry.node.value;
        let Entry { place, node, .. } = entry;
        match key.fate {
            Fate::Implemented(_) | Fate::Alias(_) | Fate::Deprecated(_) => {}
            Fate::NotSupported(harmless, _) if is_harmless(harmless, value) => {}
            Fate::Ignored(harmless, why) if is_harmless(harmless, value) => {
                // A value that is always ignored is worth a word only where every one counts.
                let counts = self.strictness == Strictness::Strict && harmless == Harmless::Any;
                if counts && !is_off(value) {
                    self.doubt(full, entry, &format!("ignored because {why}"));
                }
            }
            Fate::Ignored(_, why) => self.doubt(full, entry, &format!("ignored because {why}")),
            Fate::NotSupported(_, why) => {
                let message = format!("not supported: {why}");
                self.report.wrong_value(&node.place, full, value, message);
            }
            Fate::Removed(harmless, why) if is_harmless(harmless, value) => {
                let message = format!("newer DeepSpeed rejects this key ({why})");
                self.report.warn(format!("{place}: {full}: {message}"));
            }
            Fate::Removed(_, why) => {
                let message = format!("not supported, and newer DeepSpeed rejects it: {why}");
                self.report.wrong_value(&node.place, full, value, message);
            }
        }
    }

    fn unknown(&self, block: &str, full: &str, entry: &Entry) {
        let names = keys::names_of(block);
        let hint = match nearest(&entry.key, names) {
            Some(right) => format!("unknown key; did you mean `{right}`?"),
            None => "unknown key".to_owned(),
        };
        if full == "optimizer.params.max_grad_norm" {
            let message = "DeepSpeed rejects this; use the top-level `gradient_clipping`";
            self.report.wrong_key(&entry.place, full, message);
        } else if keys::is_validated(block) {
            self.report.wrong_key(&entry.place, full, hint);
        } else {
            self.doubt(full, entry, &format!("{hint} (ignored)"));
        }
    }

    fn doubt(&self, full: &str, entry: &Entry, message: &str) {
        match self.strictness {
            Strictness::Strict => self.report.wrong_key(&entry.place, full, message),
            Strictness::Lenient => {
                self.report.warn(format!("{}: {full}: {message}", entry.place));
            }
        }
    }
}

fn is_harmless(harmless: Harmless, value: &Value) -> bool {
    match harmless {
        Harmless::Any => true,
        Harmless::Off => is_off(value),
        Harmless::Is(texts) => is_one_of(value, texts),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Integer(0) => true,
        Value::Float(value) => *value == 0.0,
        Value::Text(text) => {
            ["", "auto", "false", "none", "0"].contains(&text.to_ascii_lowercase().as_str())
        }
        Value::Array(items) => items.is_empty(),
        Value::Table(table) => is_block_off(table),
        Value::Bool(true) | Value::Integer(_) | Value::Other(_) => false,
    }
}

/// A block asks for nothing when it is not enabled, offloads to `none`, or every value is off.
fn is_block_off(table: &Table) -> bool {
    match switch(table) {
        Some(value) => is_off(value),
        None => table.entries.iter().all(|entry| is_off(&entry.node.value)),
    }
}

/// It has a switch, and that is off: whatever else it says is of no consequence.
fn is_switched_off(table: &Table) -> bool {
    switch(table).is_some_and(is_off)
}

fn switch(table: &Table) -> Option<&Value> {
    let keys = ["enabled", "device", "deepcompile"];
    keys.iter().find_map(|key| table.get(key)).map(|node| &node.value)
}

/// One of `texts`, or nothing at all.
fn is_one_of(value: &Value, texts: &[&str]) -> bool {
    let text = match value {
        Value::Null => return true,
        Value::Table(table) => return is_block_off(table),
        Value::Text(text) => text.to_ascii_lowercase(),
        other => other.to_string(),
    };
    text == "auto" || texts.contains(&text.as_str())
}

/// As DeepSpeed's validation takes it: numbers and booleans may be text, whole numbers may be
/// written as floats.
fn has_form(form: Form, value: &Value) -> bool {
    let is_auto = matches!(value, Value::Text(text) if text == "auto");
    if is_auto || *value == Value::Null {
        return true;
    }
    match (form, value) {
        (Form::Other, _)
        | (Form::Bool, Value::Bool(_) | Value::Integer(0 | 1))
        | (Form::Integer, Value::Integer(_))
        | (Form::Number, Value::Integer(_) | Value::Float(_))
        | (Form::Text, Value::Text(_))
        | (Form::List, Value::Array(_))
        | (Form::Block, Value::Table(_)) => true,
        (Form::Integer, Value::Float(value)) => value.fract() == 0.0,
        (Form::Bool, Value::Text(text)) => crate::section::boolean_in_text(text).is_some(),
        (Form::Integer, Value::Text(text)) => crate::section::integer_in_text(text).is_some(),
        (Form::Number, Value::Text(text)) => text.trim().parse::<f64>().is_ok(),
        // Some blocks may be switched off by a plain false.
        (Form::Block, Value::Bool(_)) => true,
        _ => false,
    }
}

fn in_words(form: Form) -> &'static str {
    match form {
        Form::Bool => "true or false",
        Form::Integer => "a whole number",
        Form::Number => "a number",
        Form::Text => "text",
        Form::List => "a list",
        Form::Block => "a table",
        Form::Other => "a value",
    }
}
