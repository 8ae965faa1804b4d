//! What can be wrong with data; each names the file or key, and what would be right.

use tch::TchError;

/// Data could not be read, made or gathered. The text names file, line, column and value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{key} = {value}: expected {expected}")]
    Setting { key: &'static str, value: String, expected: &'static str },
    #[error("open data `{path}`")]
    Open { path: String, source: std::io::Error },
    #[error("read `{path}` at line {line}")]
    Read { path: String, line: u64, source: csv::Error },
    #[error("`{path}` line {line}: the text is not UTF-8")]
    NotUtf8 { path: String, line: u64 },
    #[error("`{path}` line {line}: {found} fields where the lines before have {expected}")]
    FieldCount { path: String, line: u64, found: u64, expected: u64 },
    #[error("`{path}` holds no rows of data")]
    NoRows { path: String },
    #[error(
        "`{path}` is separated by {separator}, and a CSV file here by commas, with points in its \
         decimals; convert it"
    )]
    Separator { path: String, separator: &'static str, source: Box<Error> },
    #[error("`{path}` has no column `{column}`; it has: {available}")]
    UnknownColumn { path: String, column: String, available: String },
    #[error(
        "`{path}` is read without a header, so `{column}` must be an index from 0 to {last} \
         (or set data.header = true)"
    )]
    BadIndex { path: String, column: String, last: usize },
    #[error(
        "`{path}` has {count} columns named `{column}`; set data.header = false and use indices"
    )]
    AmbiguousColumn { path: String, column: String, count: usize },
    #[error("`{path}` has no numeric column; line {line}, column `{column}` holds `{value}`")]
    NoNumericColumn { path: String, line: u64, column: String, value: String },
    #[error("`{path}` line {line}, column `{column}`: `{value}` is not {expected}")]
    BadValue { path: String, line: u64, column: String, value: String, expected: &'static str },
    #[error(
        "`{path}` line {line}, column `{column}`: the value is missing (`{value}`); \
         data.missing = \"drop\" leaves such rows out, \"interpolate\" fills them"
    )]
    MissingValue { path: String, line: u64, column: String, value: String },
    #[error("`{path}`: every value of column `{column}` is missing")]
    AllMissing { path: String, column: String },
    #[error("{origin}: {rows} rows of {columns} values exceed the limit of {limit} values")]
    TooLarge { origin: String, rows: u64, columns: u64, limit: u64 },
    #[error(
        "{origin}: the {part} part has {rows} of {total} rows, but one sample needs {needed} \
         (data.window = {window} and data.horizon = {horizon})"
    )]
    TooFewRows {
        origin: String,
        part: &'static str,
        rows: usize,
        total: usize,
        needed: u64,
        window: u32,
        horizon: u32,
    },
    #[error("read or unpack `{path}`")]
    Unpack { path: String, source: std::io::Error },
    #[error("`{path}` has more than {limit} bytes when unpacked")]
    TooManyBytes { path: String, limit: u64 },
    #[error(
        "`{path}` line {line}: {found} fields; expected {expected}: the pixels of 8 x 8 and a class"
    )]
    NotADigit { path: String, line: u64, found: u64, expected: u64 },
    #[error(
        "`{path}`: data.split leaves the {part} part without one of its {total} images; \
         give it a larger share, or 0"
    )]
    TooFewImages { path: String, part: &'static str, total: usize },
    #[error("classes have no units to measure errors in")]
    NoUnits,
    #[error("sample {index} of {len}")]
    NoSuchSample { index: u32, len: usize },
    #[error("a batch of {samples} samples with {values} values does not fit into memory")]
    OutOfMemory { samples: usize, values: usize },
    #[error("predictions of shape {found:?}: expected {expected:?}")]
    PredictionShape { found: Vec<i64>, expected: [i64; 2] },
    #[error("{operation}")]
    Torch { operation: &'static str, source: TchError },
}

impl Error {
    pub(super) fn setting(key: &'static str, value: impl ToString, expected: &'static str) -> Self {
        Self::Setting { key, value: value.to_string(), expected }
    }

    /// Whether the job asks for what cannot be, rather than its data being bad.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Setting { .. } | Self::TooLarge { .. })
    }
}
