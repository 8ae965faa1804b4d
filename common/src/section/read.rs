//! The types that keys have.

use std::path::Path;
use std::time::Duration;

use super::{Dialect, Found, Section, nearest};
use crate::tree::{Node, Value, number};
use crate::units;

/// What an integer may be, and what it usually is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IntegerRange {
    min: i64,
    max: i64,
    usual: Option<(i64, i64)>,
}

impl IntegerRange {
    pub(crate) const fn new(min: i64, max: i64) -> Self {
        Self { min, max, usual: None }
    }

    pub(crate) const fn at_least(min: i64) -> Self {
        Self::new(min, i64::MAX)
    }

    /// Outside is a warning.
    pub(crate) const fn usually(self, min: i64, max: i64) -> Self {
        Self { usual: Some((min, max)), ..self }
    }

    fn describe(self) -> String {
        match self.max {
            i64::MAX => format!("an integer of at least {}", self.min),
            max => format!("an integer from {} to {max}", self.min),
        }
    }
}

/// What a number may be. Never NaN or infinite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloatRange {
    min: f64,
    max: f64,
    excludes_min: bool,
    excludes_max: bool,
}

impl FloatRange {
    pub(crate) const fn closed(min: f64, max: f64) -> Self {
        Self { min, max, excludes_min: false, excludes_max: false }
    }

    /// `min <= value < max`
    pub(crate) const fn half_open(min: f64, max: f64) -> Self {
        Self { excludes_max: true, ..Self::closed(min, max) }
    }

    pub(crate) const NOT_NEGATIVE: Self = Self::closed(0.0, f64::MAX);
    pub(crate) const POSITIVE: Self = Self { excludes_min: true, ..Self::closed(0.0, f64::MAX) };

    fn contains(self, value: f64) -> bool {
        value >= self.min
            && value <= self.max
            && !(self.excludes_min && value == self.min)
            && !(self.excludes_max && value == self.max)
    }

    fn describe(self) -> String {
        let lower = if self.excludes_min { "above" } else { "of at least" };
        if self.max == f64::MAX {
            return format!("a number {lower} {}", number(self.min));
        }
        let upper = if self.excludes_max { "below" } else { "at most" };
        format!("a number {lower} {} and {upper} {}", number(self.min), number(self.max))
    }
}

impl<'a> Section<'a> {
    pub(crate) fn integer<T: TryFrom<i64>>(
        &self,
        key: &str,
        range: IntegerRange,
    ) -> Option<Found<T>> {
        let node = self.lookup(key)?;
        let expected = || format!("expected {}", range.describe());
        let Some(value) = self.as_integer(&node.value) else {
            self.mistake(key, node, format!("{}, found {}", expected(), node.value.kind()));
            return None;
        };
        if value < range.min || value > range.max {
            self.mistake(key, node, expected());
            return None;
        }
        if let Some((min, max)) = range.usual.filter(|(min, max)| value < *min || value > *max) {
            self.report.warn(format!(
                "{}: {} = {value} is outside the usual {min} to {max}",
                node.place,
                self.path_of(key)
            ));
        }
        match T::try_from(value) {
            Ok(value) => Some(self.found(key, node, value)),
            Err(_) => {
                self.mistake(key, node, expected());
                None
            }
        }
    }

    fn as_integer(&self, value: &Value) -> Option<i64> {
        // Above 2^53 a float no longer names one integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match (value, self.dialect) {
            (Value::Integer(value), _) => Some(*value),
            (Value::Float(value), Dialect::DeepSpeed)
                if value.fract() == 0.0 && value.abs() <= EXACT =>
            {
                Some(*value as i64)
            }
            (Value::Text(text), Dialect::DeepSpeed) => integer_in_text(text),
            _ => None,
        }
    }

    pub(crate) fn float(&self, key: &str, range: FloatRange) -> Option<Found<f64>> {
        let node = self.lookup(key)?;
        let Some(value) = self.as_float(&node.value) else {
            let message = format!("expected {}, found {}", range.describe(), node.value.kind());
            self.mistake(key, node, message);
            return None;
        };
        if !range.contains(value) {
            self.mistake(key, node, format!("expected {}", range.describe()));
            return None;
        }
        Some(self.found(key, node, value))
    }

    fn as_float(&self, value: &Value) -> Option<f64> {
        match (value, self.dialect) {
            (Value::Float(value), _) => Some(*value),
            (Value::Integer(value), _) => Some(*value as f64),
            (Value::Text(text), Dialect::DeepSpeed) => text.trim().parse().ok(),
            // DeepSpeed takes one value per parameter group, and a job has one group.
            (Value::Array(items), Dialect::DeepSpeed) if items.len() == 1 => {
                self.as_float(&items[0].value)
            }
            _ => None,
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Option<Found<bool>> {
        let node = self.lookup(key)?;
        let value = match (&node.value, self.dialect) {
            (Value::Bool(value), _) => Some(*value),
            (Value::Text(text), Dialect::DeepSpeed) => boolean_in_text(text),
            (Value::Integer(0), Dialect::DeepSpeed) => Some(false),
            (Value::Integer(1), Dialect::DeepSpeed) => Some(true),
            _ => None,
        };
        if value.is_none() {
            let message = format!("expected true or false, found {}", node.value.kind());
            self.mistake(key, node, message);
        }
        value.map(|value| self.found(key, node, value))
    }

    pub(crate) fn text(&self, key: &str) -> Option<Found<String>> {
        let node = self.lookup(key)?;
        match &node.value {
            Value::Text(text) => Some(self.found(key, node, text.clone())),
            other => {
                self.mistake(key, node, format!("expected text, found {}", other.kind()));
                None
            }
        }
    }

    pub(crate) fn filled_text(&self, key: &str) -> Option<Found<String>> {
        let found = self.text(key)?;
        if found.value.trim().is_empty() {
            self.refuse(key, "expected text, found nothing in the quotes");
            return None;
        }
        Some(found)
    }

    /// One of a few words; `later` are words that a later version will know.
    pub(crate) fn choice<T: Copy>(
        &self,
        key: &str,
        words: &[(&str, T)],
        later: &[&str],
    ) -> Option<Found<T>> {
        let found = self.text(key)?;
        let written = found.value.as_str();
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == written) {
            return Some(found.map(|_| *value));
        }
        let names: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let names = or_list(&names);
        let message = if later.contains(&written) {
            format!("not supported yet; this version has {names}")
        } else {
            match nearest(written, words.iter().map(|(word, _)| *word)) {
                Some(right) => format!("did you mean `{right}`? expected {names}"),
                None => format!("expected {names}"),
            }
        };
        self.refuse(key, message);
        None
    }

    /// A list whose items `read` understands; one wrong item spoils it.
    pub(crate) fn list<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Node) -> Option<T>,
    ) -> Option<Found<Vec<T>>> {
        let node = self.lookup(key)?;
        let items = match &node.value {
            Value::Array(items) => items.iter().map(&read).collect::<Option<Vec<T>>>(),
            _ => None,
        };
        if items.is_none() {
            self.mistake(key, node, format!("expected {expected}"));
        }
        items.map(|items| self.found(key, node, items))
    }

    /// `30s`, `5m`, or a number of seconds.
    pub(crate) fn duration(&self, key: &str) -> Option<Found<Duration>> {
        let node = self.lookup(key)?;
        let value = match &node.value {
            Value::Text(text) => humantime::parse_duration(text).ok(),
            Value::Integer(_) | Value::Float(_) => self
                .as_float(&node.value)
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            _ => None,
        };
        let is_sane = |time: &Duration| !time.is_zero() && *time <= units::MAX_DURATION;
        let value = value.filter(is_sane);
        if value.is_none() {
            let expected = "expected a time above 0 and up to ten years, such as `30s`, `5m`, \
                            `250ms`, or a number of seconds";
            self.mistake(key, node, expected);
        }
        value.map(|value| self.found(key, node, value))
    }

    /// A path, absolute: relative ones start at `base`.
    pub(crate) fn path(&self, key: &str, base: &Path) -> Option<Found<std::path::PathBuf>> {
        Some(self.filled_text(key)?.map(|text| absolute(base, &text)))
    }

    /// A table of texts; numbers and booleans are taken as their text.
    pub(crate) fn texts(&self, key: &str) -> Vec<(String, Found<String>)> {
        let inner = self.sub(key);
        let Some(table) = inner.table() else { return Vec::new() };
        let mut texts = Vec::new();
        for entry in &table.entries {
            let text = match &entry.node.value {
                Value::Text(text) => Some(text.clone()),
                Value::Integer(_) | Value::Float(_) | Value::Bool(_) => {
                    Some(entry.node.value.to_string())
                }
                _ => None,
            };
            match text {
                Some(text) => {
                    texts.push((entry.key.clone(), inner.found(&entry.key, &entry.node, text)));
                }
                None => inner.mistake(&entry.key, &entry.node, "expected text"),
            }
        }
        texts
    }
}

/// A whole number as DeepSpeed's validation finds it in text: `8`, `8.0`.
pub(crate) fn integer_in_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let whole = text.split_once('.').map_or(Some(text), |(whole, fraction)| {
        (!fraction.is_empty() && fraction.chars().all(|c| c == '0')).then_some(whole)
    });
    whole?.parse().ok()
}

/// A boolean as DeepSpeed's validation finds it in text.
pub(crate) fn boolean_in_text(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "on" | "yes" | "y" => Some(true),
        "false" | "f" | "0" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

/// `a`, `b` or `c`.
pub(crate) fn or_list(words: &[String]) -> String {
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// `path` from `base`, without `.` and `..` where they can be resolved by name.
pub(crate) fn absolute(base: &Path, path: &str) -> std::path::PathBuf {
    use std::path::Component;

    let mut clean = std::path::PathBuf::new();
    for component in base.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
