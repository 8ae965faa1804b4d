//! The only place that prints: data to stdout, talk to stderr. A reader that went away (`| head`)
//! is no failure.

pub(crate) mod cluster;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod hostfile;
pub(crate) mod plot;
pub(crate) mod pool;
pub(crate) mod progress;
pub(crate) mod status;
pub(crate) mod summary;
pub(crate) mod table;

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use common::exit::ExitCode;
use service::exit::Failure;

/// One block of data; ends with a newline.
pub(crate) fn data(text: impl Display) -> Result<(), Failure> {
    let text = text.to_string();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    raw(format!("{text}{newline}").as_bytes())
}

/// Bytes to stdout as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(ExitCode::Failed, anyhow::Error::new(error).context("print")))
}

/// One JSON document, for people and programs.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    data(serde_json::to_string_pretty(value).map_err(not_json)?)
}

/// One JSON object a line, for streams.
pub(crate) fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    data(serde_json::to_string(value).map_err(not_json)?)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::new(ExitCode::Bug, error)
}

/// Talk. Nobody is left to tell when stderr is closed, so that is no failure.
pub(crate) fn talk(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub(crate) fn warning(text: impl Display) {
    talk(format_args!("warning: {text}"));
}

/// What a panic says.
pub(crate) fn bug(panic: &str) {
    talk(format_args!(
        "error: a bug in rsctl: {panic}\n\nhint: please report it with the command line"
    ));
}

pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Did the reader of our stdout go away?
pub(crate) fn is_closed_pipe(failure: &Failure) -> bool {
    failure
        .error
        .chain()
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
        && failure.error.to_string() == "print"
}
