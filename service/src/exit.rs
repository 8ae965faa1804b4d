//! The last metre of every binary: an error becomes `error: ...`, a blank line, `hint: ...`, and
//! an exit code. Decides nothing about what went wrong.

use std::fmt::Display;

use common::exit::ExitCode;

/// Why a binary ends, with the code that scripts rely on.
#[derive(Debug)]
pub struct Failure {
    pub code: ExitCode,
    pub error: anyhow::Error,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The text for stderr: the error and its sources joined by `: `, then the hint.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}", chain(self.error.as_ref()));
        if let Some(hint) = &self.hint {
            text.push_str("\n\nhint: ");
            text.push_str(hint);
        }
        text
    }
}

impl From<crate::layers::Error> for Failure {
    fn from(error: crate::layers::Error) -> Self {
        Self::new(ExitCode::BadConfiguration, error)
    }
}

impl From<crate::lock::Error> for Failure {
    fn from(error: crate::lock::Error) -> Self {
        let hint = error.hint();
        Self { code: ExitCode::Failed, error: error.into(), hint }
    }
}

impl From<crate::transport::Error> for Failure {
    fn from(error: crate::transport::Error) -> Self {
        let hint = error.hint();
        Self { code: error.exit_code(), error: error.into(), hint }
    }
}

/// An error and its sources joined by `: `, without saying the same thing twice: some libraries
/// repeat their source in their own text.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

/// The end of `main`: prints a failure to stderr and turns it into the process's code.
#[expect(clippy::print_stderr, reason = "the one place where binaries print their error")]
pub fn finish(result: Result<ExitCode, Failure>) -> std::process::ExitCode {
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            eprintln!("{}", failure.render());
            failure.code.into()
        }
    }
}
