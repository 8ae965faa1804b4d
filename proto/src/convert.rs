//! Wire ⇄ meaning. A conversion from the wire that can fail names the field; a conversion to the
//! wire never fails. Unknown enum values of a newer peer are errors here, not guesses.
//!
//! `TryFrom<v1::X> for X` and `From<X> for v1::X` for whole messages; functions for single fields
//! that several messages carry (`job_id`, `worker_id`, `token`, `spec`, `summary`, ...).

mod gpus;
mod position;
mod status;
#[cfg(test)]
mod tests;
mod trainer;

use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;

use common::ids::{Incarnation, InvalidId, JobId, WorkerId};
use common::ports::PortRange;
use common::slurm::pool::PoolStatus;
use common::spec::JobSpec;
use common::status::{Explanation, JobState, Summary, Waiting};

/// A message that does not mean anything to us.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("field `{field}` is missing")]
    Missing { field: &'static str },
    #[error("field `{field}`")]
    Id {
        field: &'static str,
        #[source]
        source: InvalidId,
    },
    #[error("field `{field}`: `{value}` is not {expected}")]
    Value { field: &'static str, value: String, expected: &'static str },
    #[error("field `{field}` is not the JSON it should be")]
    Json {
        field: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    fn value(field: &'static str, value: impl ToString, expected: &'static str) -> Self {
        // Foreign text: enough of it to recognise, not enough to flood a log.
        let value = value.to_string().chars().take(120).collect();
        Self::Value { field, value, expected }
    }
}

/// What `what` of a fetch request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchWhat {
    Checkpoint,
    Tensorboard,
    Logs,
    Metrics,
    All,
}

impl FetchWhat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Tensorboard => "tensorboard",
            Self::Logs => "logs",
            Self::Metrics => "metrics",
            Self::All => "all",
        }
    }
}

/// A job id from any message.
pub fn job_id(text: &str) -> Result<JobId, Error> {
    text.parse().map_err(|source| Error::Id { field: "job_id", source })
}

/// A worker's identity from its hello.
pub fn worker_id(uuid: &str, incarnation: u64) -> Result<WorkerId, Error> {
    let uuid = uuid.parse().map_err(|_| Error::value("uuid", uuid, "a uuid"))?;
    Ok(WorkerId { uuid, incarnation: Incarnation(incarnation) })
}

/// An address that peers connect to.
pub fn socket_address(field: &'static str, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| Error::value(field, text, "an address such as 10.0.0.4:7070"))
}

/// An address without a port, as `--advertise` gives it.
pub fn ip_address(field: &'static str, text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| Error::value(field, text, "an IP address"))
}

/// Ports that ranks listen on; None: any.
pub fn port_range(field: &'static str, text: &str) -> Result<Option<PortRange>, Error> {
    match text {
        "" => Ok(None),
        text => {
            let range = text.parse().map_err(|_| Error::value(field, text, "a range of ports"));
            range.map(Some)
        }
    }
}

/// The secret that the ranks of one attempt prove to each other.
pub fn token(bytes: &[u8]) -> Result<[u8; 16], Error> {
    bytes
        .try_into()
        .map_err(|_| Error::value("token", format!("{} bytes", bytes.len()), "16 bytes long"))
}

/// What a fetch asks for.
pub fn fetch_what(text: &str) -> Result<FetchWhat, Error> {
    use FetchWhat::{All, Checkpoint, Logs, Metrics, Tensorboard};
    [Checkpoint, Tensorboard, Logs, Metrics, All]
        .into_iter()
        .find(|w| w.as_str() == text)
        .ok_or_else(|| Error::value("what", text, "checkpoint, tensorboard, logs, metrics or all"))
}

/// The effective job out of `spec_json`.
pub fn spec(json: &str) -> Result<JobSpec, Error> {
    from_json("spec_json", json)
}

/// The effective job as `spec_json`.
pub fn spec_json(spec: &JobSpec) -> String {
    serde_json::to_string(spec).expect("a job spec has string keys only, so it is always JSON")
}

/// Why a job is as it is, out of `explanation_json`.
pub fn explanation(json: &str) -> Result<Explanation, Error> {
    from_json("explanation_json", json)
}

/// A pool out of `status_json`; empty text means that it is gone.
pub fn pool_status(json: &str) -> Result<Option<PoolStatus>, Error> {
    if json.is_empty() { Ok(None) } else { from_json("status_json", json).map(Some) }
}

/// A summary out of `summary_json`; empty text means that there is none.
pub fn summary(json: &str) -> Result<Option<Summary>, Error> {
    if json.is_empty() { Ok(None) } else { from_json("summary_json", json).map(Some) }
}

/// A summary as `summary_json`.
pub fn summary_json(summary: Option<&Summary>) -> String {
    summary.map_or_else(String::new, |s| {
        serde_json::to_string(s).expect("a summary has string keys only, so it is always JSON")
    })
}

/// Why a job waits, out of `waiting_json`; empty text means that it does not.
pub fn waiting(json: &str) -> Result<Option<Waiting>, Error> {
    if json.is_empty() { Ok(None) } else { from_json("waiting_json", json).map(Some) }
}

/// Why a job waits, as `waiting_json`.
pub fn waiting_json(waiting: Option<&Waiting>) -> String {
    waiting.map_or_else(String::new, |waiting| {
        serde_json::to_string(waiting).expect("its keys are all strings, so it is always JSON")
    })
}

/// A job's state as text; the words are those of `--json`.
pub fn job_state(field: &'static str, text: &str) -> Result<JobState, Error> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| Error::value(field, text, "a job state"))
}

fn from_json<T: DeserializeOwned>(field: &'static str, json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(|source| Error::Json { field, source })
}

/// Proto3 has no empty string apart from an absent one.
fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
