//! Durable records and the ledger as bytes. JSON: the store is small, and a person can read it.

use control::coordinator::{Ledger, Record};

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
}

pub(crate) fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys only, so they are always JSON")
}

pub(crate) fn encode_ledger(ledger: &Ledger) -> Vec<u8> {
    serde_json::to_vec(ledger).expect("the ledger's keys are texts, so it is always JSON")
}

/// The ledger that a snapshot and the events after it give (A3).
pub(crate) fn replay(snapshot: Option<&[u8]>, events: &[Vec<u8>]) -> Result<Ledger, Error> {
    let mut ledger = match snapshot {
        Some(state) => {
            serde_json::from_slice(state).map_err(|source| Error::Snapshot { source })?
        }
        None => Ledger::default(),
    };
    for (index, event) in events.iter().enumerate() {
        let record: Record =
            serde_json::from_slice(event).map_err(|source| Error::Event { index, source })?;
        ledger.apply(&record);
    }
    Ok(ledger)
}
