//! One column of a CSV file on its way to numbers: gaps, text, and what cannot be read.

use super::shorten;

/// What one field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell {
    Number(f64),
    Missing,
    /// Not a number that can be trained on; what would be one.
    Bad(&'static str),
}

/// Spellings of a missing value, in lower case: those of pandas that people write, and `?`.
const MISSING: [&str; 9] = ["", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a"];

impl Cell {
    pub(super) fn parse(text: &str) -> Self {
        if MISSING.iter().any(|missing| text.eq_ignore_ascii_case(missing)) {
            return Self::Missing;
        }
        match text.parse::<f64>() {
            Ok(value) if (value as f32).is_finite() => Self::Number(value),
            Ok(_) => Self::Bad("a finite number of at most 3.4e38"),
            Err(_) => Self::Bad("a number"),
        }
    }
}

/// One column while it is read. A missing value is NaN until it is treated.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// In the file.
    pub(super) position: usize,
    /// It was asked for by name; else it may turn out to be text.
    pub(super) required: bool,
    pub(super) values: Vec<f64>,
    first_missing: Option<(u64, String)>,
    first_refused: Option<(u64, String)>,
}

impl Column {
    pub(super) fn new(name: String, position: usize, required: bool) -> Self {
        let (first_missing, first_refused) = (None, None);
        Self { name, position, required, values: Vec::new(), first_missing, first_refused }
    }

    pub(super) fn push(&mut self, value: f64) {
        if self.first_refused.is_none() {
            self.values.push(value);
        }
    }

    pub(super) fn push_missing(&mut self, line: u64, text: &str) {
        if self.first_missing.is_none() {
            self.first_missing = Some((line, shorten(text)));
        }
        self.push(f64::NAN);
    }

    /// A field that is no number: the column is text, and its values are of no use.
    pub(super) fn refuse(&mut self, line: u64, text: &str) {
        if self.first_refused.is_none() {
            self.first_refused = Some((line, shorten(text)));
            self.values = Vec::new();
        }
    }

    /// A number came before: a field that is none is then a mistake in the file, not a sign that
    /// the column is text.
    pub(super) fn held_numbers(&self) -> bool {
        self.values.iter().any(|value| !value.is_nan())
    }

    /// A column that was asked for stays, even if all its values are missing: the treatment of
    /// missing values then says so.
    pub(super) fn is_numeric(&self) -> bool {
        self.required || (self.first_refused.is_none() && self.held_numbers())
    }

    pub(super) fn why_not_numeric(&self) -> String {
        match &self.first_refused {
            Some((line, value)) => format!(
                "column `{}` is left out, line {line} holds `{value}`, which is no number",
                self.name
            ),
            None => format!("column `{}` is left out, all its values are missing", self.name),
        }
    }

    pub(super) fn first_refused(&self) -> (u64, String) {
        self.first_refused.clone().or_else(|| self.first_missing.clone()).unwrap_or_default()
    }

    /// Column name, line and text.
    pub(super) fn first_missing(&self) -> Option<(String, u64, String)> {
        let (line, text) = self.first_missing.clone()?;
        Some((self.name.clone(), line, text))
    }

    /// Fills gaps on the straight line between their neighbours, and at either end with the
    /// nearest value. Returns how many were filled; None if there is nothing to fill from.
    pub(super) fn interpolate(&mut self) -> Option<usize> {
        let known: Vec<usize> =
            (0..self.values.len()).filter(|&row| !self.values[row].is_nan()).collect();
        let (&first, &last) = (known.first()?, known.last()?);
        let (low, high) = (self.values[first], self.values[last]);
        self.values[..first].fill(low);
        self.values[last..].fill(high);
        for pair in known.windows(2) {
            let (left, right) = (pair[0], pair[1]);
            let (from, to) = (self.values[left], self.values[right]);
            for row in left + 1..right {
                let share = (row - left) as f64 / (right - left) as f64;
                self.values[row] = from + (to - from) * share;
            }
        }
        Some(self.values.len() - known.len())
    }
}
