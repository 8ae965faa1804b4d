//! A snapshot is made while the machine goes on.

use crate::coordinator::{CancelMode, Ledger};

use super::world::{World, id, spec};

#[test]
fn a_frozen_ledger_stays_as_it_was_and_is_whole_again_when_it_is_read() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("one", Some(1)));
    w.submit(spec("two", Some(2)));
    let before = w.machine.ledger().clone();
    let frozen = w.machine.ledger().frozen();
    let written = serde_json::to_string(&frozen).unwrap();
    w.cancel("one", CancelMode::Now);
    w.submit(spec("three", Some(1)));
    assert_ne!(w.machine.ledger().jobs.len(), frozen.jobs.len());
    assert_eq!(serde_json::to_string(&frozen).unwrap(), written);
    let mut read: Ledger = serde_json::from_str(&written).unwrap();
    read.complete();
    assert_eq!(read, before);
    assert_eq!(read.requests["two"], id("two"));
}
