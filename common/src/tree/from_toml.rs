//! TOML text to a tree with lines.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Entry, Node, Place, Table, Value};

/// What makes a text no TOML, with its line.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// Every syntax error is returned, not only the first.
pub(crate) fn parse(name: &Arc<str>, text: &str) -> Result<Table, Vec<SyntaxError>> {
    let lines = Lines { name: Arc::clone(name), starts: line_starts(text) };
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(lines.table(document.get_ref()));
    }
    let to_error = |error: toml::de::Error| SyntaxError {
        place: match error.span() {
            Some(span) => lines.place(span.start),
            None => Place::file(name, None),
        },
        message: format!("not TOML: {}", error.message().replace('\n', ", ")),
    };
    Err(errors.into_iter().map(to_error).collect())
}

/// A value that the command line brought.
pub(crate) fn from_value(value: &toml::Value, place: &Place) -> Node {
    let node = |value| Node { value, place: place.clone() };
    node(match value {
        toml::Value::String(text) => Value::Text(text.clone()),
        toml::Value::Integer(value) => Value::Integer(*value),
        toml::Value::Float(value) => Value::Float(*value),
        toml::Value::Boolean(value) => Value::Bool(*value),
        toml::Value::Datetime(value) => Value::Other(value.to_string()),
        toml::Value::Array(items) => {
            Value::Array(items.iter().map(|item| from_value(item, place)).collect())
        }
        toml::Value::Table(table) => Value::Table(Table {
            entries: table
                .iter()
                .map(|(key, value)| Entry {
                    key: key.clone(),
                    place: place.clone(),
                    node: from_value(value, place),
                })
                .collect(),
        }),
    })
}

struct Lines {
    name: Arc<str>,
    /// Byte offsets of the first byte of each line.
    starts: Vec<usize>,
}

fn line_starts(text: &str) -> Vec<usize> {
    let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    std::iter::once(0).chain(newlines.map(|(index, _)| index + 1)).collect()
}

impl Lines {
    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        Place::file(&self.name, u32::try_from(line).ok())
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entries = table.iter().map(|(key, value)| Entry {
            key: key.get_ref().clone().into_owned(),
            place: self.place(key.span().start),
            node: self.node(value),
        });
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_by_key(|entry| entry.place.line);
        Table { entries }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let place = self.place(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Integer(value) => match i64::from_str_radix(value.as_str(), value.radix()) {
                Ok(value) => Value::Integer(value),
                Err(_) => Value::Other(value.to_string()),
            },
            DeValue::Float(value) => match value.as_str().parse() {
                Ok(value) => Value::Float(value),
                Err(_) => Value::Other(value.to_string()),
            },
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(value) => Value::Other(value.to_string()),
            DeValue::Array(items) => Value::Array(items.iter().map(|i| self.node(i)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { value, place }
    }
}
