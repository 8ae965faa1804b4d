//! Reads the events of a log on all cores: after a kill that is most of opening a large store. Says
//! where they stop being whole and contiguous.

use std::num::NonZeroUsize;
use std::ops::Bound;
use std::panic;
use std::path::Path;
use std::thread;

use sled::{IVec, Tree};

use crate::store::Error;
use crate::store::frame::{self, FrameError};

/// Events that are whole and contiguous from the start of what is there, with their numbers (of
/// the last piece).
pub(super) type Salvaged = Vec<(u64, Vec<u8>)>;

/// Values that a thread is worth.
const MIN_PART: u64 = 2000;

/// From which number, and to which.
type Part = (Bound<[u8; 8]>, Bound<[u8; 8]>);

/// An event or a piece of one.
struct Value {
    number: u64,
    more_follows: bool,
    payload: Vec<u8>,
}

/// Why a part was not read to its end.
enum Stop {
    Damaged(String),
    Newer(u16),
}

/// Reads the events after `start` until the first that is damaged or missing.
pub(super) fn read_events(
    folder: &Path,
    events: &Tree,
    start: u64,
) -> Result<(Salvaged, Option<String>), Error> {
    let mut whole: Salvaged = Vec::new();
    let mut pieces: Vec<u8> = Vec::new();
    let mut expected: Option<u64> = None;
    for (values, stop) in read_parts(events, start)? {
        for Value { number, more_follows, payload } in values {
            if expected.is_some_and(|expected| expected != number) {
                return Ok((whole, Some(format!("the event before {number} is missing"))));
            }
            expected = Some(number + 1);
            match pieces.is_empty() {
                true => pieces = payload,
                false => pieces.extend(payload),
            }
            if !more_follows {
                whole.push((number, std::mem::take(&mut pieces)));
            }
        }
        match stop {
            None => {}
            Some(Stop::Damaged(problem)) => return Ok((whole, Some(problem))),
            Some(Stop::Newer(found)) => {
                return Err(Error::Newer { folder: folder.to_owned(), found });
            }
        }
    }
    let problem = (!pieces.is_empty()).then(|| "the last event is cut".to_owned());
    Ok((whole, problem))
}

/// What a thread has read, and why it went no further than that.
type Read = (Vec<Value>, Option<Stop>);

fn read_parts(events: &Tree, start: u64) -> Result<Vec<Read>, Error> {
    thread::scope(|scope| {
        let mut reading = Vec::new();
        for part in parts(events, start) {
            let named = thread::Builder::new().name("store-read".to_owned());
            // No thread is no damage: it is an error, and not a panic, which would be taken for one.
            reading.push(named.spawn_scoped(scope, move || read(events, part))?);
        }
        let read = reading.into_iter().map(|part| match part.join() {
            Ok(read) => read,
            // The engine's, told by who guards the opening.
            Err(payload) => panic::resume_unwind(payload),
        });
        Ok(read.collect())
    })
}

/// All that follows, whatever its keys are, in parts of about the same size.
fn parts(events: &Tree, start: u64) -> Vec<Part> {
    let number = |entry: sled::Result<Option<(IVec, IVec)>>| {
        let (key, _) = entry.ok().flatten()?;
        key.as_ref().try_into().ok().map(u64::from_be_bytes)
    };
    // An end that cannot be read is told by the part that comes upon it.
    let ends = number(events.first()).zip(number(events.last()));
    let (first, last) = ends.unwrap_or_default();
    let first = first.max(start.saturating_add(1));
    let span = last.saturating_sub(first);
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
    let count = (span / MIN_PART).clamp(1, cores);
    let bound = |part: u64| (first + span / count * part).to_be_bytes();
    let from = |part| match part == 0 && start == 0 {
        true => Bound::Unbounded,
        false => Bound::Included(bound(part)),
    };
    let to = |part| match part == count {
        true => Bound::Unbounded,
        false => Bound::Excluded(bound(part)),
    };
    (0..count).map(|part| (from(part), to(part + 1))).collect()
}

fn read(events: &Tree, part: Part) -> Read {
    let mut values = Vec::new();
    for entry in events.range::<[u8; 8], Part>(part) {
        match entry
            .map_err(|error| Stop::Damaged(format!("reading events: {error}")))
            .and_then(value)
        {
            Ok(value) => values.push(value),
            Err(stop) => return (values, Some(stop)),
        }
    }
    (values, None)
}

fn value((key, value): (IVec, IVec)) -> Result<Value, Stop> {
    let Ok(number) = key.as_ref().try_into().map(u64::from_be_bytes) else {
        return Err(Stop::Damaged("an event has a malformed number".to_owned()));
    };
    match frame::decode(&value) {
        Ok(frame) => {
            let (more_follows, payload) = (frame.more_follows, frame.payload.to_vec());
            Ok(Value { number, more_follows, payload })
        }
        Err(FrameError::Newer(found)) => Err(Stop::Newer(found)),
        Err(error) => Err(Stop::Damaged(format!("event {number}: {error}"))),
    }
}
