//! A daemon's configuration in layers: default < file < environment (`RUSTSPEED_*`) < flags. All
//! mistakes are told at once, each with its key, its value's origin and what would be right. Checks
//! shapes only; whether values make sense is the daemon's own business.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat, Map, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Environment variables are `RUSTSPEED_` and the key in capitals with `_` for `-`.
pub const ENV_PREFIX: &str = "RUSTSPEED";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read configuration `{}`", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: config::ConfigError,
    },
    #[error("configuration has {} mistake{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, list(.0))]
    Mistakes(Vec<Mistake>),
    #[error("bug: the built-in defaults do not load")]
    Defaults {
        #[source]
        source: config::ConfigError,
    },
}

/// One wrong key or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub key: String,
    pub origin: Origin,
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.origin, self.key, self.problem)
    }
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n")
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Env(String),
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A loaded configuration and where each key came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    pub value: T,
    pub origins: BTreeMap<String, Origin>,
}

/// Loads `T` from its defaults, `file`, the process's environment and `flags`.
///
/// `T` must be a struct whose serialised default names every key (no `skip_serializing_if`), in
/// kebab-case, and that refuses unknown keys; `flags` serialises to the keys that were typed (here
/// `skip_serializing_if` is right). Environment variables of other programs are ignored.
pub fn load<T>(file: Option<&Path>, flags: &impl Serialize) -> Result<Loaded<T>, Error>
where
    T: Default + Serialize + DeserializeOwned,
{
    load_from(file, std::env::vars().collect(), flags)
}

/// [`load`] with the environment passed in.
pub fn load_from<T>(
    file: Option<&Path>,
    env: Vec<(String, String)>,
    flags: &impl Serialize,
) -> Result<Loaded<T>, Error>
where
    T: Default + Serialize + DeserializeOwned,
{
    let defaults = Config::try_from(&T::default()).map_err(|source| Error::Defaults { source })?;
    let known: Vec<String> = keys_of(&defaults)?.into_keys().collect();
    let mut layers: Vec<(Map<String, Value>, Config, OriginOf)> = Vec::new();
    if let Some(path) = file {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let source = File::from(path).format(FileFormat::Toml);
        let layer = Config::builder().add_source(source).build().map_err(failed)?;
        layers.push((keys_of(&layer)?, layer, OriginOf::File(path.to_owned())));
    }
    let environment = Environment::default().source(Some(known_env(&known, env)));
    for layer in [
        (Config::builder().add_source(environment).build(), OriginOf::Env),
        (Config::try_from(flags), OriginOf::Flag),
    ] {
        let config = layer.0.map_err(|source| Error::Defaults { source })?;
        layers.push((keys_of(&config)?, config, layer.1));
    }

    let mut mistakes = Vec::new();
    let mut origins: BTreeMap<String, Origin> =
        known.iter().map(|key| (key.clone(), Origin::Default)).collect();
    for (keys, _, origin) in &layers {
        for (key, value) in keys {
            let origin = origin.of(key);
            match check_key::<T>(&defaults, &known, key, value) {
                None => _ = origins.insert(key.clone(), origin),
                Some(problem) => mistakes.push(Mistake { key: key.clone(), origin, problem }),
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Error::Mistakes(mistakes));
    }
    let mut all = Config::builder().add_source(defaults);
    for (_, layer, _) in layers {
        all = all.add_source(layer);
    }
    let value = all
        .build()
        .and_then(Config::try_deserialize)
        .map_err(|source| Error::Defaults { source })?;
    Ok(Loaded { value, origins })
}

enum OriginOf {
    File(PathBuf),
    Env,
    Flag,
}

impl OriginOf {
    fn of(&self, key: &str) -> Origin {
        match self {
            Self::File(path) => Origin::File(path.clone()),
            Self::Env => Origin::Env(env_name(key)),
            Self::Flag => Origin::Flag,
        }
    }
}

/// The environment variable of a key.
pub fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}_{}", key.to_uppercase().replace('-', "_"))
}

/// Only variables of keys that this daemon has: others belong to rsctl or to another daemon.
fn known_env(known: &[String], env: Vec<(String, String)>) -> Map<String, String> {
    let env: BTreeMap<String, String> = env.into_iter().collect();
    known
        .iter()
        .filter_map(|key| Some((key.clone(), env.get(&env_name(key))?.clone())))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn keys_of(config: &Config) -> Result<Map<String, Value>, Error> {
    config.cache.clone().into_table().map_err(|source| Error::Defaults { source })
}

/// What is wrong with one key of one layer, tried alone on top of the defaults.
fn check_key<T: DeserializeOwned>(
    defaults: &Config,
    known: &[String],
    key: &str,
    value: &Value,
) -> Option<String> {
    if !known.iter().any(|k| k == key) {
        let nearest = known.iter().min_by_key(|k| strsim::damerau_levenshtein(k, key))?;
        return Some(format!(
            "unknown key; did you mean `{nearest}`? (known: {})",
            known.join(", ")
        ));
    }
    let tried = Config::builder()
        .add_source(defaults.clone())
        .set_override(key, value.clone())
        .and_then(|builder| builder.build())
        .and_then(Config::try_deserialize::<T>);
    match tried {
        Ok(_) => None,
        Err(error) => Some(problem_text(&error)),
    }
}

/// The text of serde's complaint without the key and origin that the mistake already names.
fn problem_text(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => problem_text(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("is {unexpected}, must be {expected}")
        }
        other => other.to_string(),
    }
}

impl<T: Serialize> Loaded<T> {
    /// The effective values as TOML, each with its origin: what `--print-config` prints. `reasons`
    /// explains derived values by key.
    pub fn render(&self, reasons: &BTreeMap<&str, String>) -> Result<String, serde_json::Error> {
        let serde_json::Value::Object(values) = serde_json::to_value(&self.value)? else {
            return Ok(String::new());
        };
        let mut text = String::new();
        for (key, value) in values {
            let origin = self.origins.get(&key).unwrap_or(&Origin::Default);
            let reason = reasons.get(key.as_str()).map(|r| format!("; {r}")).unwrap_or_default();
            let line = match value {
                serde_json::Value::Null => format!("# {key} is not set"),
                value => format!("{key} = {value}"),
            };
            writeln!(text, "{line}  # {origin}{reason}").expect("writing to a string cannot fail");
        }
        Ok(text)
    }
}
