//! Optimizer states that a save copies while training goes on: they do not change before the next
//! update, so the copy has a forward and a backward to be made in.
//!
//! Promise: what is lent stays as it is until it is given back; who is about to change it waits for
//! that, not for ever, and how long is counted. Refusal: copies nothing.

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

    /// Waits until the loan is back; false: it was not, for as long as `patience`.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let mut ledger = self.ledger();
        if !ledger.is_back {
            ledger.waiting_since = Some(Instant::now());
        }
        let is_out = |ledger: &mut Ledger| !ledger.is_back;
        let waited = self.given_back.wait_timeout_while(ledger, patience, is_out);
        let (ledger, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ledger.is_back
    }

    #[cfg(test)]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.ledger().waiting_since.is_some()
    }

    /// How long the loan was waited for; final once it is back.
    pub(crate) fn waited(&self) -> Duration {
        self.ledger().waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far above what anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn who_changes_what_is_lent_waits_for_it_and_the_wait_is_counted() {
        let mut states = Arc::new(vec![vec![1.0, 2.0, 3.0]]);
        let loan = Loan::new(vec![states.clone()]);
        let desk = loan.desk();
        let place = Place { bucket: 0, state: 0, range: 1..3 };
        assert!(Arc::get_mut(&mut states).is_none());
        assert!(!desk.wait(Duration::from_millis(1)), "nobody gives it back");
        let borrower = std::thread::spawn(move || {
            while !loan.desk().is_waited_for() {
                std::thread::yield_now();
            }
            assert_eq!(loan.read(&place), [2.0, 3.0]);
        });
        assert!(desk.wait(PATIENCE));
        assert!(Arc::get_mut(&mut states).is_some(), "it is ours alone again");
        borrower.join().unwrap();
        assert!(!desk.waited().is_zero());
        let waited = desk.waited();
        assert!(desk.wait(PATIENCE), "what is back is not waited for");
        assert_eq!(desk.waited(), waited);
    }

    #[test]
    fn a_borrower_that_panics_gives_back() {
        let loan = Loan::new(vec![Arc::default()]);
        let desk = loan.desk();
        let borrower = std::thread::spawn(move || {
            let _held = loan;
            panic!("as a save thread might");
        });
        assert!(desk.wait(PATIENCE));
        assert!(borrower.join().is_err());
    }
}
