//! A configuration as written: values with the place of each, whatever the language. Files and
//! flags are laid over each other here. Knows no key.

use std::fmt;
use std::sync::Arc;

pub(crate) mod from_toml;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    source: Arc<str>,
    line: Option<u32>,
    from_command_line: bool,
}

impl Place {
    pub(crate) fn file(name: &Arc<str>, line: Option<u32>) -> Self {
        Self { source: Arc::clone(name), line, from_command_line: false }
    }

    pub(crate) fn command_line(flag: &str) -> Self {
        Self { source: Arc::from(flag), line: None, from_command_line: true }
    }

    /// Mistakes are told file by file in the order of lines, the command line's last.
    pub(crate) fn order(&self) -> (bool, &str, Option<u32>) {
        (self.from_command_line, &self.source, self.line)
    }

    /// Flags win over files without being a disagreement.
    pub(crate) fn is_command_line(&self) -> bool {
        self.from_command_line
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Array(Vec<Node>),
    Table(Table),
    /// What no key takes: dates, integers that do not fit in 64 bits.
    Other(String),
}

impl Value {
    /// The kind of value in words, for "expected ..., found ...".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(_) => "a value of another kind",
        }
    }
}

/// As TOML would write it on one line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => f.write_str(&number(*value)),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{}", item.value)?;
                }
                f.write_str("]")
            }
            Self::Table(table) => {
                f.write_str("{")?;
                for (index, entry) in table.entries.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} {} = {}", entry.key, entry.node.value)?;
                }
                f.write_str(" }")
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// The shortest decimal that reads back as the same number: `0.001`, `1e-8`, `500000000`.
pub(crate) fn number(value: f64) -> String {
    let is_plain = value == 0.0 || (1e-4..1e12).contains(&value.abs()) || !value.is_finite();
    if is_plain { format!("{value}") } else { format!("{value:e}") }
}

/// Keys and values in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Of the key.
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Lays `upper` over this: tables are merged key by key, anything else is replaced.
    pub(crate) fn overlay(&mut self, upper: Table) {
        for entry in upper.entries {
            match self.entries.iter_mut().find(|ours| ours.key == entry.key) {
                None => self.entries.push(entry),
                Some(ours) => match (&mut ours.node.value, entry.node.value) {
                    (Value::Table(lower), Value::Table(upper)) => lower.overlay(upper),
                    (slot, value) => {
                        *slot = value;
                        ours.node.place = entry.node.place;
                        ours.place = entry.place;
                    }
                },
            }
        }
    }

    /// A table that holds only `value`, below the keys of `path`.
    pub(crate) fn with(path: &[String], node: Node) -> Self {
        let place = node.place.clone();
        let Some((key, rest)) = path.split_first() else { return Self::default() };
        let node = if rest.is_empty() {
            node
        } else {
            Node { value: Value::Table(Self::with(rest, node)), place: place.clone() }
        };
        Self { entries: vec![Entry { key: key.clone(), place, node }] }
    }
}
