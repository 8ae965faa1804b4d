//! DeepSpeed's hostfile and its filters: which hosts, and which slots of each, are meant.
//!
//! Promise: what DeepSpeed takes is taken and means the same, and every mistake is told with its
//! line and with what would be right. Refusal: what DeepSpeed lets pass and fails on later, or does
//! something else about in silence: one node under two users, more nodes or slots asked for than there
//! are, filters that leave nothing. Reads no file: the caller does.

use std::collections::BTreeMap;
use std::fmt;

use crate::report::Mistake;
use crate::spec::hosts::{normal, shown, unbracketed};
use crate::spec::{MAX_HOSTS, MAX_SLOTS, is_host_name};

mod filter;

pub use filter::{Filter, InvalidFilter, NotThere, Selected, Selection};

/// Longer than [`MAX_HOSTS`] lines with the longest names.
const MAX_BYTES: usize = 2 << 20;
/// Mistakes that are told; a file that is no hostfile has one on every line.
const MAX_TOLD: usize = 20;

/// The hosts of a file, in its order: never empty, no node twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostfile {
    /// For messages, as the user wrote it.
    file: String,
    entries: Vec<Entry>,
    ignored: Vec<Ignored>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As written: `node01`, `ada@node01`.
    pub host: String,
    /// Of the file, from 1.
    pub line: u32,
    pub slots: u32,
}

impl Entry {
    /// The node, without the user that DeepSpeed's ssh would log in as.
    pub fn node(&self) -> &str {
        node_of(&self.host)
    }
}

fn node_of(host: &str) -> &str {
    host.rsplit_once('@').map_or(host, |(_, node)| node)
}

/// What stands behind an entry and is no comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub line: u32,
    pub text: String,
}

/// A line that cannot be, or a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("`{found}` is no entry; write `{right}`")]
    NotAnEntry { found: String, right: String },
    #[error("`{0}` is no host: expected a worker's name, a hostname or an address")]
    NotAHost(String),
    #[error("`{host}` has {slots} slots; at most {MAX_SLOTS}")]
    TooManySlots { host: String, slots: String },
    #[error(
        "`{host}` is written twice, first at line {first}; give it one line with all its slots"
    )]
    Twice { host: String, first: u32 },
    #[error("`{host}` is the node of line {first} under another user; give it one line")]
    SameNode { host: String, first: u32 },
    #[error("no host; write one a line as `HOST slots=N`")]
    Empty,
    #[error("more than {MAX_HOSTS} hosts")]
    TooManyHosts,
    #[error("larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
}

/// Everything that is wrong with a hostfile, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    /// With their lines; None: of the file as a whole.
    problems: Vec<(Option<u32>, Problem)>,
}

impl Mistakes {
    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn problems(&self) -> &[(Option<u32>, Problem)] {
        &self.problems
    }

    /// The ones that are told, as of every other file.
    pub fn told(&self) -> Vec<Mistake> {
        let told = self.problems.iter().take(MAX_TOLD);
        let mistake = |(line, problem): &(Option<u32>, Problem)| Mistake {
            place: line.map_or(self.file.clone(), |line| format!("{}:{line}", self.file)),
            key: String::new(),
            value: None,
            message: problem.to_string(),
        };
        told.map(mistake).collect()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.told();
        for (index, mistake) in told.iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{mistake}")?;
        }
        match self.problems.len() - told.len() {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.file),
        }
    }
}

impl Hostfile {
    /// `file` is its name for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, Mistakes> {
        let file = file.to_owned();
        if text.len() > MAX_BYTES {
            return Err(Mistakes { file, problems: vec![(None, Problem::TooLarge)] });
        }
        let mut reading = Reading::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (line, text) in (1..).zip(text.lines()) {
            reading.line(line, text.trim());
        }
        let Reading { entries, ignored, mut problems, .. } = reading;
        if entries.is_empty() && problems.is_empty() {
            problems.push((None, Problem::Empty));
        }
        if problems.is_empty() {
            Ok(Self { file, entries, ignored })
        } else {
            Err(Mistakes { file, problems })
        }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What DeepSpeed ignores too, and an author may not have meant to be ignored.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }
}

#[derive(Default)]
struct Reading {
    entries: Vec<Entry>,
    ignored: Vec<Ignored>,
    problems: Vec<(Option<u32>, Problem)>,
    /// The entry of each node, by a name that is equal for equal nodes.
    known: BTreeMap<String, usize>,
}

impl Reading {
    fn line(&mut self, line: u32, text: &str) {
        if text.is_empty() || text.starts_with('#') {
            return;
        }
        match entry(text) {
            Err(problem) => self.problems.push((Some(line), problem)),
            // A file of nothing but hosts is read no further.
            Ok(_) if self.entries.len() == MAX_HOSTS => {
                if self.problems.last().is_none_or(|(_, last)| *last != Problem::TooManyHosts) {
                    self.problems.push((Some(line), Problem::TooManyHosts));
                }
            }
            Ok((host, slots, rest)) => {
                self.entry(Entry { host: host.to_owned(), line, slots });
                if !rest.is_empty() && !rest.starts_with('#') {
                    self.ignored.push(Ignored { line, text: shown(rest) });
                }
            }
        }
    }

    fn entry(&mut self, entry: Entry) {
        let node = normal(entry.node());
        let Some(known) = self.known.get(&node).map(|index| &self.entries[*index]) else {
            self.known.insert(node, self.entries.len());
            self.entries.push(entry);
            return;
        };
        let Entry { host, line, .. } = entry;
        let first = known.line;
        let problem = match normal(&known.host) == normal(&host) {
            true => Problem::Twice { host, first },
            false => Problem::SameNode { host, first },
        };
        self.problems.push((Some(line), problem));
    }
}

/// DeepSpeed's `^(\S+)\s+slots=(\d+)`: host, slots, and what stands behind.
fn entry(text: &str) -> Result<(&str, u32, &str), Problem> {
    let not_an_entry = || Problem::NotAnEntry { found: shown(text), right: right(text) };
    let (host, rest) = text.split_once(char::is_whitespace).ok_or_else(not_an_entry)?;
    let rest = rest.trim_start().strip_prefix("slots=").ok_or_else(not_an_entry)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at(end);
    if digits.is_empty() {
        return Err(not_an_entry());
    }
    if !is_host_name(node_of(host)) || !is_host_name(host) {
        return Err(Problem::NotAHost(shown(host)));
    }
    // What uses the host wants the address.
    let host = unbracketed(host);
    match digits.parse() {
        Ok(slots @ 0..=MAX_SLOTS) => Ok((host, slots, rest.trim_start())),
        _ => Err(Problem::TooManySlots { host: host.to_owned(), slots: shown(digits) }),
    }
}

/// What the author of a line that is no entry has probably meant.
fn right(text: &str) -> String {
    let end = text.find(|c: char| c.is_whitespace() || c == ':').unwrap_or(text.len());
    let (host, rest) = match text.split_at(end) {
        (host, _) if host.contains('=') => ("", text),
        parts => parts,
    };
    let digits: String = rest
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .take(4)
        .collect();
    let host = if host.is_empty() { "HOST".to_owned() } else { shown(host) };
    format!("{host} slots={}", if digits.is_empty() { "N" } else { &digits })
}

#[cfg(test)]
mod tests;
