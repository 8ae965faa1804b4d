//! What is wrong, doubtful or worth saying about a job's configuration, collected while it is
//! read, so that all of it is told at once. Reads nothing itself.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

use crate::explain::{Effective, Written};
use crate::tree::{Place, Value};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where: `job.toml:12`, `--set training.epochs=0`.
    pub place: String,
    /// `training.epochs`; empty where a file as a whole is wrong.
    pub key: String,
    /// As written, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, value, message } = self;
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        match (key.is_empty(), value) {
            (true, _) => f.write_str(message),
            (false, Some(value)) => write!(f, "{key} = {value}: {message}"),
            (false, None) => write!(f, "{key}: {message}"),
        }
    }
}

/// Everything that is wrong with a job, and what was doubtful besides. Displayed as one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Mistakes {
    pub mistakes: Vec<Mistake>,
    pub warnings: Vec<String>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

/// Collects while sections are read; shared by all of them, hence the cells.
#[derive(Debug, Default)]
pub(crate) struct Report {
    mistakes: RefCell<Vec<(Place, Mistake)>>,
    warnings: RefCell<Vec<String>>,
    notes: RefCell<Vec<String>>,
    effective: RefCell<Vec<Effective>>,
    deepspeed: RefCell<Vec<Written>>,
}

/// What was collected.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) effective: Vec<Effective>,
    pub(crate) deepspeed: Vec<Written>,
}

/// A value longer than this is cut in a message.
const SHOWN_CHARS: usize = 80;

impl Report {
    fn mistake(&self, place: &Place, key: &str, value: Option<String>, message: String) {
        let place_text = place.to_string();
        let mistake = Mistake { place: place_text, key: key.to_owned(), value, message };
        let mut mistakes = self.mistakes.borrow_mut();
        if !mistakes.iter().any(|(_, told)| *told == mistake) {
            mistakes.push((place.clone(), mistake));
        }
    }

    /// A key that should not be there, or is missing.
    pub(crate) fn wrong_key(&self, place: &Place, key: &str, message: impl Into<String>) {
        self.mistake(place, key, None, message.into());
    }

    pub(crate) fn wrong_value(
        &self,
        place: &Place,
        key: &str,
        value: &Value,
        message: impl Into<String>,
    ) {
        self.mistake(place, key, Some(shown(value)), message.into());
    }

    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let warning = warning.into();
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Said at the start of the run.
    pub(crate) fn note(&self, note: impl Into<String>) {
        self.notes.borrow_mut().push(note.into());
    }

    pub(crate) fn effective(&self, key: &str, value: String, origin: String) {
        self.effective.borrow_mut().push(Effective::new(key, value, origin));
    }

    /// A key of the DeepSpeed configuration, for `config explain`.
    pub(crate) fn deepspeed(&self, written: Written) {
        self.deepspeed.borrow_mut().push(written);
    }

    pub(crate) fn collected(self) -> Collected {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by(|(a, _), (b, _)| a.order().cmp(&b.order()));
        Collected {
            mistakes: mistakes.into_iter().map(|(_, mistake)| mistake).collect(),
            warnings: self.warnings.into_inner(),
            notes: self.notes.into_inner(),
            effective: self.effective.into_inner(),
            deepspeed: self.deepspeed.into_inner(),
        }
    }
}

pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS {
        return text;
    }
    text.chars().take(SHOWN_CHARS).chain(['…']).collect()
}
