//! Which variables go to the hosts: some of this environment by their names' beginnings, those that
//! are asked for, and those of `.deepspeed_env`. Values are never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use common::exit::ExitCode;
use service::exit::Failure;

use crate::job;

/// Beginnings of names that tune what moves and computes, on every host alike. What names a device, a
/// path or a person of this machine is not among them.
const FORWARDED: &[&str] = &["NCCL_", "UCX_", "FI_", "GLOO_", "OMP_", "KMP_", "MKL_"];
/// Settings of workers that mean the same everywhere.
const SETTINGS: &[&str] = &[
    "RUSTSPEED_LIBTORCH",
    "RUSTSPEED_LOG_FILTER",
    "RUSTSPEED_LOG_FORMAT",
    "RUSTSPEED_NOTICE_GRACE",
    "RUSTSPEED_PIN_CORES",
    "RUSTSPEED_STOP_GRACE",
];
/// DeepSpeed's file, and the variable that names another.
const FILE: &str = ".deepspeed_env";
const FILE_VARIABLE: &str = "DS_ENV_FILE";

/// Names and values, sorted. `Debug` shows the names alone: values may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables(BTreeMap<String, String>);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read variables for the hosts")]
    Read(#[source] io::Error),
    #[error("{file}:{line}: `{name}` is no name of a variable: expected NAME=VALUE")]
    Line { file: String, line: usize, name: String },
    #[error("--export {0}: expected the name of a variable")]
    Name(String),
    #[error("--export {0}: it is not set here")]
    NotSet(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, hint) = match &error {
            Error::Read(_) => (ExitCode::BadConfiguration, None),
            Error::Line { .. } => (
                ExitCode::BadConfiguration,
                Some("blank lines and those that begin with # may stand"),
            ),
            Error::Name(_) => {
                (ExitCode::Usage, Some("a value goes into .deepspeed_env, where no `ps` shows it"))
            }
            Error::NotSet(_) => (ExitCode::Usage, Some("set it, or write it into .deepspeed_env")),
        };
        Self { code, hint: hint.map(str::to_owned), error: error.into() }
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// Of this process: what is allowed and what is exported by name; then `~/.deepspeed_env` and
    /// `./.deepspeed_env`, which win in this order, as under DeepSpeed.
    pub(crate) fn of_this_process(export: &[String]) -> Result<Self, Error> {
        Self::with(export, &[])
    }

    /// The same, and those whose names begin so.
    pub(crate) fn with(export: &[String], more: &[&str]) -> Result<Self, Error> {
        let here = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let here: Vec<(String, String)> = here.collect();
        let mut variables = Self::allowed(here.iter().cloned());
        let is_more = |name: &str| is_name(name) && more.iter().any(|text| name.starts_with(text));
        variables.0.extend(here.into_iter().filter(|(name, _)| is_more(name)));
        for name in export {
            if !is_name(name) {
                return Err(Error::Name(name.split('=').next().unwrap_or_default().to_owned()));
            }
            let value = std::env::var(name).map_err(|_| Error::NotSet(name.clone()))?;
            variables.0.insert(name.clone(), value);
        }
        let file = std::env::var_os(FILE_VARIABLE).filter(|file| !file.is_empty());
        let file = file.map_or_else(|| PathBuf::from(FILE), PathBuf::from);
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(&file));
        for path in home.into_iter().chain([file]) {
            match job::read_regular(&path) {
                Ok(text) => variables.add_file(&path.display().to_string(), &text)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        Ok(variables)
    }

    pub(crate) fn allowed(of: impl Iterator<Item = (String, String)>) -> Self {
        let is_allowed = |name: &str| {
            let begins = FORWARDED.iter().any(|beginning| name.starts_with(beginning));
            is_name(name) && (begins || SETTINGS.contains(&name))
        };
        Self(of.filter(|(name, _)| is_allowed(name)).collect())
    }

    pub(crate) fn add_file(&mut self, file: &str, text: &str) -> Result<(), Error> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line_of = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line_of.split_once('=').unwrap_or((line_of, ""));
            let name = name.trim();
            if !is_name(name) || !line_of.contains('=') {
                // Only what could be a name: the rest may be a secret.
                let name = name.chars().take(40).flat_map(char::escape_debug).collect();
                return Err(Error::Line { file: file.to_owned(), line: index + 1, name });
            }
            self.0.insert(name.to_owned(), unquoted(value.trim()).to_owned());
        }
        Ok(())
    }

    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    /// Puts a folder in front of a list of such.
    pub(crate) fn put_first(&mut self, name: &str, folder: &Path) {
        let folder = folder.display();
        let list = match self.0.get(name).filter(|list| !list.is_empty()) {
            Some(list) => format!("{folder}:{list}"),
            None => folder.to_string(),
        };
        self.set(name, list);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// For a person; None: there are none.
    pub(crate) fn told(&self) -> Option<String> {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        (!names.is_empty()).then(|| format!("forwarding {}", names.join(", ")))
    }
}

/// A shell would take one pair of quotes away.
fn unquoted(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !text.is_empty()
        && text.chars().all(is_plain)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}
