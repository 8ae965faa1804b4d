//! Optimizer states that a save copies while training goes on: they do not change before the next
//! update, so the copy has a forward and a backward to be made in.
//!
//! Promise: what is lent stays as it is until it is given back; who is about to change it waits for
//! that, and how long is counted. Refusal: copies nothing.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The states of one bucket, in the order of [`Optimizer::states`](crate::optimizer::Optimizer::states).
pub(crate) type HostStates = Vec<Vec<f32>>;

/// Elements of one state of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(super) bucket: usize,
    pub(super) state: usize,
    pub(super) range: Range<usize>,
}

/// What was lent, until it is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    /// By bucket.
    states: Vec<Arc<HostStates>>,
    desk: Arc<Desk>,
}

/// Where a loan comes back to.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    ledger: Mutex<Ledger>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Ledger {
    is_back: bool,
    waiting_since: Option<Instant>,
    waited: Duration,
}

impl Loan {
    pub(super) fn new(states: Vec<Arc<HostStates>>) -> Self {
        Self { states, desk: Arc::default() }
    }

    pub(crate) fn read(&self, place: &Place) -> &[f32] {
        &self.states[place.bucket][place.state][place.range.clone()]
    }

    pub(crate) fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Before anybody is told: who is, takes them as the only owner.
        self.states.clear();
        self.desk.give_back();
    }
}

impl Desk {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in here panics half-way.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self) {
        let mut ledger = self.ledger();
        ledger.is_back = true;
        ledger.waited = ledger.waiting_since.map_or(Duration::ZERO, |since| since.elapsed());
        self.given_back.notify_all();
    }

    /// Waits until the loan is back. Returns how long that took.
    pub(super) fn wait(&self) -> Duration {
        let mut ledger = self.ledger();
        if !ledger.is_back {
            ledger.waiting_since = Some(Instant::now());
        }
        while !ledger.is_back {
            ledger = self.given_back.wait(ledger).unwrap_or_else(PoisonError::into_inner);
        }
        ledger.waited
    }

    /// How long the loan was waited for; final once it is back.
    pub(crate) fn waited(&self) -> Duration {
        self.ledger().waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_what_is_lent_waits_for_it_and_the_wait_is_counted() {
        let mut states = Arc::new(vec![vec![1.0, 2.0, 3.0]]);
        let loan = Loan::new(vec![states.clone()]);
        let desk = loan.desk();
        let place = Place { bucket: 0, state: 0, range: 1..3 };
        let held = Duration::from_millis(50);
        let borrower = std::thread::spawn(move || {
            std::thread::sleep(held);
            assert_eq!(loan.read(&place), [2.0, 3.0]);
        });
        assert!(Arc::get_mut(&mut states).is_none());
        let waited = desk.wait();
        assert!(Arc::get_mut(&mut states).is_some(), "it is ours alone again");
        borrower.join().unwrap();
        // The borrower may have slept a part of it before the wait began.
        assert!(waited <= desk.waited() && !waited.is_zero(), "{waited:?}");
        assert_eq!(desk.wait(), waited, "what is back is not waited for");
    }

    #[test]
    fn a_borrower_that_panics_gives_back() {
        let loan = Loan::new(vec![Arc::default()]);
        let desk = loan.desk();
        let borrower = std::thread::spawn(move || {
            let _held = loan;
            panic!("as a save thread might");
        });
        desk.wait();
        assert!(borrower.join().is_err());
    }
}
