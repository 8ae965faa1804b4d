//! Durable records and the ledger as bytes. JSON: a person can read it.
//!
//! A replay decodes on all cores and applies in order: behind a deep queue, decoding is most of what
//! a new life does before it is in charge.

mod in_order;

use std::collections::BTreeMap;
use std::io::{self, BufRead as _};
use std::thread;

use common::ids::JobId;
use common::status::UnixMillis;
use control::coordinator::{Job, Ledger, Record, Shared, Submission};
use serde::{Deserialize, Serialize, Serializer};

use self::in_order::in_order;

/// Events, or jobs of a snapshot, that are decoded at once: some milliseconds.
const CHUNK: usize = 512;

/// How the record of a submit begins: its tag comes first.
pub(crate) const SUBMITTED: &[u8] = br#"{"record":"job-submitted","#;

/// Whole by its checksum, and still not what this build writes or reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("event {index} after the snapshot is none that this build knows")]
    Event {
        index: usize,
        #[source]
        source: serde_json::Error,
    },
    #[error("the snapshot is none that this build knows")]
    Snapshot {
        #[source]
        source: serde_json::Error,
    },
    #[error("start a thread that decodes")]
    Thread {
        #[source]
        source: io::Error,
    },
}

pub(crate) fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys only, so they are always JSON")
}

/// A line without the jobs, then one for every so many of them, so that each can be read by itself.
/// JSON has no ends of lines inside.
pub(crate) fn encode_ledger(ledger: &Ledger) -> Vec<u8> {
    const WHY: &str = "the ledger's keys are texts, so it is always JSON";
    let mut bytes = serde_json::to_vec(&ledger.without_jobs()).expect(WHY);
    let jobs: Vec<(&JobId, &Shared<Job>)> = ledger.jobs.iter().collect();
    for jobs in jobs.chunks(CHUNK) {
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, &Part(jobs)).expect(WHY);
    }
    bytes
}

/// Written as the map that they are a part of.
struct Part<'a>(&'a [(&'a JobId, &'a Shared<Job>)]);

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// The ledger that a snapshot and the events after it give (A3).
pub(crate) fn replay(snapshot: Option<&[u8]>, events: &[Vec<u8>]) -> Result<Ledger, Error> {
    let lines = snapshot.map(lines).unwrap_or_default();
    // Earlier builds wrote one line, with the jobs.
    let (head, parts) = (lines.first().copied().unwrap_or_default(), lines.get(1..));
    let parts = parts.unwrap_or_default();
    let chunks: Vec<&[Vec<u8>]> = events.chunks(CHUNK).collect();
    let failed = |source| Error::Thread { source };
    thread::scope(|scope| {
        let jobs = in_order(scope, parts, decode_part).map_err(failed)?;
        let records = in_order(scope, &chunks, decode_chunk).map_err(failed)?;
        let mut ledger = match snapshot {
            Some(_) => serde_json::from_slice(head).map_err(|source| Error::Snapshot { source })?,
            None => Ledger::default(),
        };
        // Sorted already, so that the map is made at once.
        let jobs: Vec<Jobs> = jobs.collect::<Result<_, _>>()?;
        ledger.jobs.append(&mut jobs.into_iter().flatten().collect());
        for chunk in records {
            for record in chunk? {
                ledger.replay(record);
            }
        }
        Ok(ledger)
    })
}

type Jobs = BTreeMap<JobId, Shared<Job>>;

/// Without their ends.
fn lines(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while !bytes.is_empty() {
        let rest = bytes;
        let len = bytes.skip_until(b'\n').expect("memory is read without errors");
        let line = &rest[..len];
        lines.push(line.strip_suffix(b"\n").unwrap_or(line));
    }
    lines
}

fn decode_part(_: usize, line: &&[u8]) -> Result<Jobs, Error> {
    from_json(line).map_err(|source| Error::Snapshot { source })
}

fn decode_chunk(number: usize, chunk: &&[Vec<u8>]) -> Result<Vec<Record>, Error> {
    let failed = |index| move |source| Error::Event { index, source };
    let events = (number * CHUNK..).zip(*chunk);
    events.map(|(index, event)| decode(event).map_err(failed(index))).collect()
}

/// By far the largest record, and what a deep queue is made of.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Submitted {
    job_id: JobId,
    submission: Box<Submission>,
    at: UnixMillis,
}

/// A tag may stand anywhere in an object, so all of it is copied before its kind is known. Of a
/// submit ours is known at once, which halves the work.
fn decode(event: &[u8]) -> Result<Record, serde_json::Error> {
    if !event.starts_with(SUBMITTED) {
        return from_json(event);
    }
    let Submitted { job_id, submission, at } = from_json(event)?;
    Ok(Record::JobSubmitted { job_id, submission, at })
}

/// Looks once whether all of it is text, and not again at each string.
fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        // Says where.
        Err(_) => serde_json::from_slice(bytes),
    }
}
