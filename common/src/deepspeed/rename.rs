//! Old names and old forms of DeepSpeed keys become today's, before anything is read. Says so where
//! DeepSpeed would; refuses an old name beside its replacement, as DeepSpeed does.

use crate::report::Report;
use crate::tree::{Entry, Node, Table, Value};

use super::keys::{self, Fate};

/// Blocks with old names; a parent comes before what it holds.
const BLOCKS: &[&str] = &["", "zero_optimization"];

/// The same configuration in today's words.
pub(super) fn modernise(root: &Table, report: &Report) -> Table {
    let mut root = root.clone();
    for block in BLOCKS {
        let table = match *block {
            "" => Some(&mut root),
            name => table_mut(&mut root, name),
        };
        if let Some(table) = table {
            rename(block, table, report);
        }
    }
    root
}

fn table_mut<'t>(root: &'t mut Table, name: &str) -> Option<&'t mut Table> {
    let entry = root.entries.iter_mut().find(|entry| entry.key == name)?;
    // A bare `true` is the oldest way to write stage 1.
    if let Value::Bool(is_on) = entry.node.value {
        let stage = Node { value: Value::Integer(i64::from(is_on)), ..entry.node.clone() };
        entry.node.value = Value::Table(Table::with(&["stage".to_owned()], stage));
    }
    match &mut entry.node.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn rename(block: &str, table: &mut Table, report: &Report) {
    let written: Vec<Entry> = table.entries.clone();
    let mut renamed: Vec<(&'static str, String)> = Vec::new();
    table.entries.clear();
    for entry in written.iter().cloned() {
        let (new, is_deprecated) = match keys::find(block, &entry.key).map(|key| key.fate) {
            Some(Fate::Deprecated(new)) => (new, true),
            Some(Fate::Alias(new)) => (new, false),
            _ => {
                table.entries.push(entry);
                continue;
            }
        };
        let full = keys::path_of(block, &entry.key);
        let twin = written.iter().find(|other| other.key == new).map(|other| &other.place);
        let earlier = renamed.iter().find(|(taken, _)| *taken == new).map(|(_, name)| name);
        if let Some(place) = twin {
            let message = format!("says what `{new}` at {place} says; give one of them");
            report.wrong_value(&entry.node.place, &full, &entry.node.value, message);
            continue;
        }
        if let Some(name) = earlier {
            let message = format!("says what `{name}` says; give one of them, or `{new}`");
            report.wrong_value(&entry.node.place, &full, &entry.node.value, message);
            continue;
        }
        renamed.push((new, entry.key.clone()));
        if let Some(entry) = in_new_form(&full, new, entry, report) {
            if is_deprecated {
                let meant = format!("{new} = {}", entry.node.value);
                report.warn(format!("{}: {full}: deprecated; read as `{meant}`", entry.place));
            }
            table.entries.push(entry);
        }
    }
}

/// The entry under its new name; None where it asks for nothing or is wrong.
fn in_new_form(full: &str, new: &str, mut entry: Entry, report: &Report) -> Option<Entry> {
    entry.key = new.to_owned();
    let asks_for_a_device = ["offload_optimizer", "offload_param"].contains(&new);
    if !asks_for_a_device {
        return Some(entry);
    }
    let text = match &entry.node.value {
        Value::Bool(true) | Value::Integer(1) => "true".to_owned(),
        Value::Bool(false) | Value::Integer(0) | Value::Null => "false".to_owned(),
        Value::Text(text) => text.to_ascii_lowercase(),
        _ => String::new(),
    };
    match text.as_str() {
        "true" => {
            let device = Node { value: Value::Text("cpu".to_owned()), ..entry.node.clone() };
            entry.node.value = Value::Table(Table::with(&["device".to_owned()], device));
            Some(entry)
        }
        "false" | "auto" => None,
        _ => {
            let message = format!("expected true or false, found {}", entry.node.value.kind());
            report.wrong_value(&entry.node.place, full, &entry.node.value, message);
            None
        }
    }
}
