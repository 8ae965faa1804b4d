//! Reads the numeric columns of a CSV file. Whatever cannot be used is an error with file, line,
//! column and value, or a note; no cell is guessed.

use std::io::{BufRead, Read};
use std::path::Path;

use common::spec::{DataSource, Missing};
use csv::StringRecord;

use super::{Error, Table, check_size};

mod column;
mod unix_lines;

use column::{Cell, Column};
use unix_lines::UnixLines;

pub(super) fn read(source: &DataSource) -> Result<Table, Error> {
    let DataSource::Csv { path, columns, targets, header, missing, .. } = source else {
        unreachable!("the caller matched on the kind");
    };
    let file = Source { path, header: *header };
    let table =
        file.scan(columns, targets).and_then(|scan| scan.into_table(columns, targets, *missing));
    table.map_err(|error| file.explain(error))
}

struct Source<'a> {
    path: &'a Path,
    header: bool,
}

/// The file's numbers, by column, with the line of each row.
struct Scan {
    path: String,
    columns: Vec<Column>,
    lines: Vec<u64>,
}

impl Source<'_> {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// A file of another kind gives errors about its first column; this says what it is instead.
    fn explain(&self, error: Error) -> Error {
        let is_about_columns = matches!(
            error,
            Error::UnknownColumn { .. }
                | Error::BadIndex { .. }
                | Error::FieldCount { .. }
                | Error::NoNumericColumn { .. }
                | Error::BadValue { .. }
        );
        match self.other_separator().filter(|_| is_about_columns) {
            Some(separator) => {
                Error::Separator { path: self.name(), separator, source: Box::new(error) }
            }
            None => error,
        }
    }

    /// What the first line is separated by, where that is not a comma.
    fn other_separator(&self) -> Option<&'static str> {
        const LONGEST_LINE: u64 = 64 << 10;
        let mut line = Vec::new();
        let file = fs_err::File::open(self.path).ok()?;
        let mut reader = std::io::BufReader::new(file.take(LONGEST_LINE));
        reader.read_until(b'\n', &mut line).ok()?;
        if line.contains(&b',') {
            return None;
        }
        [(b';', "semicolons"), (b'\t', "tabs"), (b'|', "bars")]
            .into_iter()
            .find_map(|(byte, name)| line.contains(&byte).then_some(name))
    }

    fn scan(&self, inputs: &[String], targets: &[String]) -> Result<Scan, Error> {
        let file = fs_err::File::open(self.path)
            .map_err(|source| Error::Open { path: self.name(), source })?;
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .trim(csv::Trim::All)
            .from_reader(UnixLines::new(std::io::BufReader::with_capacity(1 << 16, file)));
        let mut record = StringRecord::new();
        let mut scan = Scan { path: self.name(), columns: Vec::new(), lines: Vec::new() };
        let mut first = true;
        while self.next(&mut reader, &mut record)? {
            if first {
                scan.columns = self.columns(&record, inputs, targets)?;
            }
            if !(first && self.header) {
                scan.push(&record)?;
            }
            first = false;
        }
        if scan.lines.is_empty() {
            return Err(Error::NoRows { path: scan.path });
        }
        Ok(scan)
    }

    fn next<R: Read>(
        &self,
        reader: &mut csv::Reader<R>,
        record: &mut StringRecord,
    ) -> Result<bool, Error> {
        let line = reader.position().line();
        reader.read_record(record).map_err(|source| {
            let line_of = |pos: &Option<csv::Position>| pos.as_ref().map_or(line, |p| p.line());
            match source.kind() {
                csv::ErrorKind::Utf8 { pos, .. } => {
                    Error::NotUtf8 { path: self.name(), line: line_of(pos) }
                }
                csv::ErrorKind::UnequalLengths { pos, expected_len, len } => Error::FieldCount {
                    path: self.name(),
                    line: line_of(pos),
                    found: *len,
                    expected: *expected_len,
                },
                _ => Error::Read { path: self.name(), line, source },
            }
        })
    }

    /// The columns to collect: those asked for, or all while none were.
    fn columns(
        &self,
        first: &StringRecord,
        inputs: &[String],
        targets: &[String],
    ) -> Result<Vec<Column>, Error> {
        let names: Vec<String> = if self.header {
            first.iter().map(str::to_owned).collect()
        } else {
            (0..first.len()).map(|index| index.to_string()).collect()
        };
        for asked in inputs.iter().chain(targets) {
            self.check_name(asked, &names)?;
        }
        let wanted = |name: &String| inputs.contains(name) || targets.contains(name);
        let all = inputs.is_empty();
        Ok(names
            .into_iter()
            .enumerate()
            .filter(|(_, name)| all || wanted(name))
            .map(|(position, name)| {
                let required = wanted(&name);
                Column::new(name, position, required)
            })
            .collect())
    }

    fn check_name(&self, asked: &str, names: &[String]) -> Result<(), Error> {
        let (path, column) = (self.name(), asked.to_owned());
        match names.iter().filter(|name| *name == asked).count() {
            1 => Ok(()),
            0 if self.header => {
                Err(Error::UnknownColumn { path, column, available: names.join(", ") })
            }
            0 => Err(Error::BadIndex { path, column, last: names.len() - 1 }),
            count => Err(Error::AmbiguousColumn { path, column, count }),
        }
    }
}

impl Scan {
    fn push(&mut self, record: &StringRecord) -> Result<(), Error> {
        let line = record.position().map_or(0, csv::Position::line);
        for column in &mut self.columns {
            let text = record.get(column.position).expect("the reader refuses ragged rows");
            match Cell::parse(text) {
                Cell::Number(value) => column.push(value),
                Cell::Missing => column.push_missing(line, text),
                Cell::Bad(expected) if column.required || column.held_numbers() => {
                    return Err(Error::BadValue {
                        path: self.path.clone(),
                        line,
                        column: column.name.clone(),
                        value: shorten(text),
                        expected,
                    });
                }
                Cell::Bad(_) => column.refuse(line, text),
            }
        }
        self.lines.push(line);
        check_size(&self.path, self.lines.len() as u64, self.columns.len().max(1) as u64)
    }

    fn into_table(
        mut self,
        inputs: &[String],
        targets: &[String],
        missing: Missing,
    ) -> Result<Table, Error> {
        let mut notes = self.leave_out_text(inputs.is_empty())?;
        let inputs: Vec<String> = match inputs {
            [] => self.columns.iter().map(|column| column.name.clone()).collect(),
            named => named.to_vec(),
        };
        let targets: Vec<String> =
            if targets.is_empty() { inputs.clone() } else { targets.to_vec() };
        let keep = self.treat_missing(missing, &mut notes)?;
        let outputs = self.matrix(&targets, &keep);
        Ok(Table {
            rows: keep.len(),
            inputs: self.matrix(&inputs, &keep),
            columns: inputs,
            outputs,
            targets,
            notes,
            origin: format!("`{}`", self.path),
        })
    }

    /// Without a list of columns, every numeric one is an input; the others are told.
    fn leave_out_text(&mut self, all: bool) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        let (numeric, text): (Vec<_>, Vec<_>) =
            self.columns.drain(..).partition(Column::is_numeric);
        self.columns = numeric;
        for column in &text {
            notes.push(format!("{}: {}", self.path, column.why_not_numeric()));
        }
        if let (true, Some(column)) = (self.columns.is_empty(), text.into_iter().next()) {
            let (line, value) = column.first_refused();
            let (path, column) = (self.path.clone(), column.name);
            return Err(Error::NoNumericColumn { path, line, column, value });
        }
        if all {
            let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
            notes.push(format!("{}: input columns are {}", self.path, names.join(", ")));
        }
        Ok(notes)
    }

    /// The rows to keep.
    fn treat_missing(
        &mut self,
        missing: Missing,
        notes: &mut Vec<String>,
    ) -> Result<Vec<usize>, Error> {
        let rows = self.lines.len();
        match missing {
            Missing::Error => match self.columns.iter().find_map(Column::first_missing) {
                None => Ok((0..rows).collect()),
                Some((column, line, value)) => {
                    Err(Error::MissingValue { path: self.path.clone(), line, column, value })
                }
            },
            Missing::Drop => {
                let whole = |row: &usize| self.columns.iter().all(|c| !c.values[*row].is_nan());
                let keep: Vec<usize> = (0..rows).filter(whole).collect();
                if keep.len() < rows {
                    let dropped = rows - keep.len();
                    notes.push(format!(
                        "{}: dropped {dropped} of {rows} rows with missing values; their \
                         neighbours count as consecutive",
                        self.path
                    ));
                }
                if keep.is_empty() {
                    Err(Error::NoRows { path: self.path.clone() })
                } else {
                    Ok(keep)
                }
            }
            Missing::Interpolate => {
                for column in &mut self.columns {
                    let filled = column.interpolate().ok_or_else(|| Error::AllMissing {
                        path: self.path.clone(),
                        column: column.name.clone(),
                    })?;
                    if filled > 0 {
                        notes.push(format!(
                            "{}: interpolated {filled} of {rows} values of column `{}`",
                            self.path, column.name
                        ));
                    }
                }
                Ok((0..rows).collect())
            }
        }
    }

    /// Row-major, the kept rows of the named columns.
    fn matrix(&self, names: &[String], keep: &[usize]) -> Vec<f64> {
        let columns: Vec<&Column> = names
            .iter()
            .map(|name| {
                let found = self.columns.iter().find(|column| column.name == *name);
                found.expect("every named column was checked against the file and is required")
            })
            .collect();
        keep.iter().flat_map(|&row| columns.iter().map(move |c| c.values[row])).collect()
    }
}

/// Cells go into messages; a runaway quote can make one as long as the file.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
