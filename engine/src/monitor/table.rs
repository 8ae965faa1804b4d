//! CSV files with a header and a row per record, which continue where a run is resumed.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Error, Position, StepRecord, ValidationRecord, number};

/// `metrics/steps.csv`: a row for every optimizer step.
#[derive(Debug)]
pub struct StepsCsv(Table);

impl StepsCsv {
    pub const HEADER: &'static str =
        "step,samples,epoch,train_loss,lr,grad_norm,step_seconds,samples_per_second";

    pub fn open(path: &Path, from: Position) -> Result<Self, Error> {
        Table::open(path, Self::HEADER, from.step).map(Self)
    }

    pub fn append(&mut self, records: &[StepRecord]) -> Result<(), Error> {
        self.0.append(records.iter().map(|r| {
            format!(
                "{},{},{},{},{},{},{},{}",
                r.step,
                r.samples,
                r.epoch,
                number(r.train_loss),
                number(r.learning_rate),
                number(r.grad_norm),
                number(r.step_seconds),
                number(r.samples_per_second)
            )
        }))
    }
}

/// `metrics/validation.csv`: a row for every validation.
#[derive(Debug)]
pub struct ValidationCsv(Table);

/// What a validation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValidationColumns {
    Loss,
    LossAndAccuracy,
}

impl ValidationColumns {
    pub fn header(self) -> &'static str {
        match self {
            Self::Loss => "step,samples,epoch,val_loss",
            Self::LossAndAccuracy => "step,samples,epoch,val_loss,val_accuracy",
        }
    }
}

impl ValidationCsv {
    pub fn open(path: &Path, columns: ValidationColumns, from: Position) -> Result<Self, Error> {
        Table::open(path, columns.header(), from.step).map(Self)
    }

    pub fn append(&mut self, records: &[ValidationRecord]) -> Result<(), Error> {
        self.0.append(records.iter().map(|r| {
            let accuracy = r.val_accuracy.map(|value| format!(",{}", number(value)));
            let accuracy = accuracy.unwrap_or_default();
            format!("{},{},{},{}{accuracy}", r.step, r.samples, r.epoch, number(r.val_loss))
        }))
    }
}

/// A file whose rows start with a number that grows.
#[derive(Debug)]
pub(super) struct Table {
    file: std::fs::File,
    path: PathBuf,
}

impl Table {
    /// Keeps the rows up to `last`, takes back the others and a torn last line, and continues.
    pub(super) fn open(path: &Path, header: &str, last: u64) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs_err::create_dir_all(folder).map_err(Error::io("create folder", folder))?;
        let kept = Rows { path, header, last }.kept()?;
        // Beside and renamed: a crash here leaves the old file, not half of it.
        let beside = path.with_extension("csv.new");
        let write = || -> std::io::Result<()> {
            let mut new = BufWriter::new(fs_err::File::create(&beside)?);
            for line in std::iter::once(header).chain(kept.iter().map(String::as_str)) {
                new.write_all(line.as_bytes())?;
                new.write_all(b"\n")?;
            }
            new.into_inner().map_err(|error| error.into_error())?.sync_all()?;
            fs_err::rename(&beside, path)
        };
        write().map_err(Error::io("rewrite", path))?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends whole rows in one write.
    pub(super) fn append(&mut self, rows: impl Iterator<Item = String>) -> Result<(), Error> {
        let mut text = String::new();
        for row in rows {
            text.push_str(&row);
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        self.file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

/// What an older run left.
struct Rows<'a> {
    path: &'a Path,
    header: &'a str,
    last: u64,
}

impl Rows<'_> {
    fn kept(&self) -> Result<Vec<String>, Error> {
        let file = match std::fs::File::open(self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("open", self.path)(error)),
        };
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        let mut next = |line: &mut String| {
            line.clear();
            reader.read_line(line).map_err(Error::io("read", self.path))
        };
        next(&mut line)?;
        if line.trim_end() != self.header && !line.is_empty() {
            return Err(Error::ForeignFile {
                path: self.path.to_owned(),
                found: line.trim_end().chars().take(80).collect(),
                expected: self.header.to_owned(),
            });
        }
        let mut kept = Vec::new();
        // A line without its end was being written when the older run died.
        while next(&mut line)? > 0 && line.ends_with('\n') {
            let row = line.trim_end();
            let position = row.split(',').next().and_then(|first| first.parse::<u64>().ok());
            if position.is_some_and(|position| position <= self.last) {
                kept.push(row.to_owned());
            }
        }
        Ok(kept)
    }
}
