//! Walks a DeepSpeed configuration along the table of keys: says what is unknown, ignored, gone
//! or not supported yet. What is implemented is read elsewhere.

use crate::report::Report;
use crate::section::nearest;
use crate::tree::{Entry, Table, Value};

use super::keys::{self, Harmless, Row, Status};

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
            let name = entry.key.as_str();
            let full = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            match keys::find(path, name) {
                None => self.unknown(path, &full, entry),
                Some(row) => self.known(row, &full, entry),
            }
        }
    }

    fn known(&self, row: &Row, full: &str, entry: &Entry) {
        self.judge(row, full, entry);
        // The scheduler's parameters depend on its type, which its reader knows.
        let Value::Table(inner) = &entry.node.value else { return };
        if full == "scheduler.params" || keys::names_of(full).is_empty() {
            return;
        }
        if row.status == Status::Implemented {
            self.block(full, inner);
        } else {
            // The block was judged as a whole; only misspelt keys are left to find.
            for entry in &inner.entries {
                if keys::find(full, &entry.key).is_none() {
                    self.unknown(full, &format!("{full}.{}", entry.key), entry);
                }
            }
        }
    }

    fn judge(&self, row: &Row, full: &str, entry: &Entry) {
        let value = &entry.node.value;
        let harmless = match row.harmless {
            Harmless::Any => true,
            Harmless::Off => is_off(value),
            Harmless::Is(texts) => is_one_of(value, texts),
        };
        let Entry { place, node, .. } = entry;
        match (row.status, harmless) {
            (Status::Implemented, _) | (Status::Later, true) => {}
            // A value that is always ignored is worth a word only where every one counts.
            (Status::Ignored, true)
                if self.strictness == Strictness::Strict
                    && matches!(row.harmless, Harmless::Any)
                    && !is_off(value) =>
            {
                self.doubt(full, entry, &format!("ignored: {}", row.why));
            }
            (Status::Ignored, true) => {}
            (Status::Ignored, false) => {
                self.doubt(full, entry, &format!("ignored: {}", row.why));
            }
            (Status::Later, false) => {
                let message = format!("not supported yet: {}", row.why);
                self.report.wrong_value(&node.place, full, value, message);
            }
            (Status::Removed, true) => {
                let message = format!("newer DeepSpeed rejects this key ({})", row.why);
                self.report.warn(format!("{place}: {full}: {message}"));
            }
            (Status::Removed, false) => {
                let message = format!("not supported, and newer DeepSpeed rejects it: {}", row.why);
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
        } else if keys::VALIDATED.contains(&block) {
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
    let switch = ["enabled", "device", "deepcompile"].iter().find_map(|key| table.get(key));
    match switch {
        Some(node) => is_off(&node.value),
        None => table.entries.iter().all(|entry| is_off(&entry.node.value)),
    }
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
