//! The Hjson that DeepSpeed reads its configuration with: JSON plus comments (`#`, `//`,
//! `/* */`), trailing or missing commas, unquoted keys and text, `'''` blocks and optional outer
//! braces. Every value keeps its line; keys written twice are named. Refuses nesting deeper than
//! `MAX_DEPTH`.

use std::sync::Arc;

use crate::tree::{Entry, Node, Place, Table, Value};

/// Real configurations nest four deep; the bound keeps the parser's stack bounded too.
const MAX_DEPTH: u32 = 64;

/// A text that is no Hjson.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// A key that its table holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Duplicate {
    /// Dotted, from the root.
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) first: Place,
}

/// The root table, and the keys that were written twice (the first one is kept).
pub(crate) fn parse(name: &Arc<str>, text: &str) -> Result<(Table, Vec<Duplicate>), SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser {
        name: Arc::clone(name),
        rest: text,
        line: 1,
        path: Vec::new(),
        duplicates: Vec::new(),
    };
    parser.skip_blank()?;
    let table =
        if parser.eat('{') { parser.members(Some('}'), 0)? } else { parser.members(None, 0)? };
    parser.skip_blank()?;
    match parser.peek() {
        None => Ok((table, parser.duplicates)),
        Some(c) => Err(parser.error(format!("expected the end of the file, found `{c}`"))),
    }
}

struct Parser<'a> {
    name: Arc<str>,
    rest: &'a str,
    line: u32,
    /// Keys of the tables around the reading position.
    path: Vec<String>,
    duplicates: Vec<Duplicate>,
}

impl Parser<'_> {
    fn place(&self) -> Place {
        Place::file(&self.name, Some(self.line))
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { place: self.place(), message: format!("not Hjson: {}", message.into()) }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += u32::from(c == '\n');
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.bump();
        }
        found
    }

    /// Spaces, newlines and comments.
    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        loop {
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.bump();
                }
            } else if self.rest.starts_with("/*") {
                let opened = self.error("this `/*` comment is never closed");
                self.bump();
                self.bump();
                while !self.rest.starts_with("*/") {
                    self.bump().ok_or_else(|| opened.clone())?;
                }
                self.bump();
                self.bump();
            } else if self.peek().is_some_and(char::is_whitespace) {
                self.bump();
            } else {
                return Ok(());
            }
        }
    }

    /// `key: value` pairs until `end`, or to the end of the text where the root has no braces.
    fn members(&mut self, end: Option<char>, depth: u32) -> Result<Table, SyntaxError> {
        let opened = self.error("this `{` is never closed");
        let mut table = Table::default();
        loop {
            self.skip_blank()?;
            match self.peek() {
                None if end.is_none() => return Ok(table),
                None => return Err(opened),
                Some(c) if Some(c) == end => {
                    self.bump();
                    return Ok(table);
                }
                Some(_) => {}
            }
            let place = self.place();
            let key = self.key()?;
            self.skip_blank()?;
            if !self.eat(':') {
                return Err(self.error(format!("expected `:` after the key `{key}`")));
            }
            self.path.push(key.clone());
            let node = self.value(depth)?;
            self.note_duplicate(&table, &key, &place);
            self.path.pop();
            if table.get(&key).is_none() {
                table.entries.push(Entry { key, place, node });
            }
            self.skip_blank()?;
            self.eat(',');
        }
    }

    fn note_duplicate(&mut self, table: &Table, key: &str, place: &Place) {
        if let Some(first) = table.entries.iter().find(|entry| entry.key == key) {
            self.duplicates.push(Duplicate {
                path: self.path.join("."),
                place: place.clone(),
                first: first.place.clone(),
            });
        }
    }

    fn key(&mut self) -> Result<String, SyntaxError> {
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.quoted(quote);
        }
        let mut key = String::new();
        while let Some(c) = self.peek() {
            if c.is_whitespace() || ",:[]{}".contains(c) {
                break;
            }
            key.push(c);
            self.bump();
        }
        if key.is_empty() {
            let found = self.peek().map_or("the end".to_owned(), |c| format!("`{c}`"));
            return Err(self.error(format!("expected a key, found {found}")));
        }
        Ok(key)
    }

    fn value(&mut self, depth: u32) -> Result<Node, SyntaxError> {
        if depth >= MAX_DEPTH {
            return Err(self.error(format!("nested deeper than {MAX_DEPTH}")));
        }
        self.skip_blank()?;
        let place = self.place();
        let value = match self.peek() {
            Some('{') => {
                self.bump();
                Value::Table(self.members(Some('}'), depth + 1)?)
            }
            Some('[') => {
                self.bump();
                Value::Array(self.items(depth + 1)?)
            }
            Some('\'') if self.rest.starts_with("'''") => Value::Text(self.block()?),
            Some(quote @ ('"' | '\'')) => Value::Text(self.quoted(quote)?),
            Some(c) if !"}],:".contains(c) => self.quoteless(),
            Some(c) => return Err(self.error(format!("expected a value, found `{c}`"))),
            None => return Err(self.error("expected a value, found the end")),
        };
        Ok(Node { value, place })
    }

    fn items(&mut self, depth: u32) -> Result<Vec<Node>, SyntaxError> {
        let opened = self.error("this `[` is never closed");
        let mut items = Vec::new();
        loop {
            self.skip_blank()?;
            match self.peek() {
                None => return Err(opened),
                Some(']') => {
                    self.bump();
                    return Ok(items);
                }
                Some(_) => items.push(self.value(depth)?),
            }
            self.skip_blank()?;
            self.eat(',');
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, SyntaxError> {
        let opened = self.error("this text is never closed by a quote");
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                None | Some('\n') => return Err(opened),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c == quote => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        Ok(match self.bump() {
            Some(c @ ('"' | '\'' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode_escape(),
            Some(c) => return Err(self.error(format!("unknown escape `\\{c}`"))),
            None => return Err(self.error("the text ends in an escape")),
        })
    }

    /// `\uXXXX`, or two of them for a character outside the first 65536.
    fn unicode_escape(&mut self) -> Result<char, SyntaxError> {
        let high = self.four_digits()?;
        let is_high = (0xD800..0xDC00).contains(&high);
        let code = if is_high && self.rest.starts_with("\\u") {
            self.bump();
            self.bump();
            let low = self.four_digits()?;
            if !(0xDC00..0xE000).contains(&low) {
                return Err(self.error("a broken pair of \\u escapes"));
            }
            0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        } else {
            high
        };
        char::from_u32(code).ok_or_else(|| self.error("a broken pair of \\u escapes"))
    }

    fn four_digits(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.bump().and_then(|c| c.to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.error("\\u takes four hex digits"))?;
        }
        Ok(code)
    }

    /// `'''` text over several lines: the first newline and the indentation of the opening quotes
    /// do not count.
    fn block(&mut self) -> Result<String, SyntaxError> {
        let opened = self.error("this ''' text is never closed");
        for _ in 0..3 {
            self.bump();
        }
        let (body, rest) = self.rest.split_once("'''").ok_or(opened)?;
        self.line += u32::try_from(body.matches('\n').count()).unwrap_or(u32::MAX);
        self.rest = rest;
        let lines: Vec<&str> = body.trim_start_matches([' ', '\t', '\r']).lines().collect();
        let lines = match lines.split_first() {
            Some((first, others)) if first.trim().is_empty() => others,
            _ => &lines[..],
        };
        Ok(lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n").trim().to_owned())
    }

    /// A number, `true`, `false`, `null`, or text to the end of the line.
    fn quoteless(&mut self) -> Value {
        let line_end = self.rest.find('\n').unwrap_or(self.rest.len());
        let line = &self.rest[..line_end];
        // A literal ends where a comma, a bracket or a comment begins; text does not.
        let literal_end = line
            .char_indices()
            .find(|(index, c)| {
                let rest = &line[*index..];
                ",}]#".contains(*c) || rest.starts_with("//") || rest.starts_with("/*")
            })
            .map_or(line_end, |(index, _)| index);
        if let Some(value) = literal(line[..literal_end].trim()) {
            self.rest = &self.rest[literal_end..];
            return value;
        }
        self.rest = &self.rest[line_end..];
        Value::Text(line.trim().to_owned())
    }
}

fn literal(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        "null" => return Some(Value::Null),
        _ => {}
    }
    // JSON's grammar of numbers: no `+`, no leading zeros, no `inf`, a digit after the point.
    let digits = text.strip_prefix('-').unwrap_or(text);
    let starts_right = digits.starts_with(|c: char| c.is_ascii_digit());
    let leading_zero =
        digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    let known = digits.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    if !starts_right || leading_zero || !known || digits.ends_with('.') || digits.contains(".e") {
        return None;
    }
    if let Ok(value) = text.parse::<i64>() {
        return Some(Value::Integer(value));
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::Float)
}

#[cfg(test)]
mod tests;
