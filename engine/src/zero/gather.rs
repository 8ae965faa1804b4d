//! Stage 3: weights that are whole only while their unit computes. Before a unit's forward and
//! again before its backward the ranks gather them; afterwards the memory is given back.
//!
//! Promise: gathers start as the itinerary says, whatever a rank has to compute; one that has no
//! sample in a pass walks through it all the same (A7). Refusal: plans nothing (`itinerary`), sums
//! nothing (`reducer`).
#![expect(unsafe_code, reason = "lends the weights' memory to communicators")]

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::Error;
use crate::zero::itinerary::{Direction, Route, Visit};
use crate::zero::link::Underway;
use crate::zero::reducer::Reducer;
use crate::zero::weights::Weights;

/// What the units of a model go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journey {
    /// Forward alone.
    Evaluation,
    /// Forward and backward.
    Training,
}

#[derive(Debug)]
pub(crate) struct Gatherer {
    // Dropped before the weights: its drop waits until nobody writes to them.
    arriving: Vec<Arrival>,
    weights: Rc<RefCell<Weights>>,
    reducer: Rc<RefCell<Reducer>>,
    evaluation: Vec<Visit>,
    training: Vec<Visit>,
    journey: Journey,
    /// The visit that comes next.
    next: usize,
    /// Buckets that go as the visit under way ends.
    leaving: Vec<usize>,
    /// For messages.
    step: u64,
}

/// A bucket on its way from the other ranks.
#[derive(Debug)]
struct Arrival {
    bucket: usize,
    underway: Underway,
}

impl Gatherer {
    pub(crate) fn new(
        route: Route<'_>,
        weights: Rc<RefCell<Weights>>,
        reducer: Rc<RefCell<Reducer>>,
    ) -> Self {
        Self {
            arriving: Vec::new(),
            weights,
            reducer,
            evaluation: route.evaluation(),
            training: route.training(),
            journey: Journey::Evaluation,
            next: 0,
            leaving: Vec::new(),
            step: 0,
        }
    }

    /// Before the first unit. `step` is for messages.
    pub(crate) fn begin(&mut self, journey: Journey, step: u64) {
        (self.journey, self.next, self.step) = (journey, 0, step);
    }

    /// Before a unit computes: afterwards its weights are here. What the unit before left is gone.
    pub(crate) fn begin_visit(&mut self, unit: usize, direction: Direction) -> Result<(), Error> {
        self.end_visit()?;
        if direction == Direction::Backward {
            // Later units have had their backward: what is missing of them will not come. Said
            // now, so that sums and gathers reach the wire in one order on every rank.
            self.reducer.borrow_mut().pass_over(unit);
        }
        let visit = self.visits().get(self.next).cloned();
        let visit = visit.expect("a pass visits the units that are planned and no more");
        assert_eq!((visit.unit, visit.direction), (unit, direction), "units come as planned");
        self.next += 1;
        for &bucket in &visit.fetch {
            self.start(bucket)?;
        }
        for &bucket in &visit.needs {
            self.land(bucket)?;
            self.weights.borrow_mut().publish_bucket(bucket)?;
        }
        self.leaving = visit.frees;
        Ok(())
    }

    /// After a unit has computed. Ending twice changes nothing.
    pub(crate) fn end_visit(&mut self) -> Result<(), Error> {
        let mut weights = self.weights.borrow_mut();
        Ok(self.leaving.drain(..).try_for_each(|bucket| weights.dismiss(bucket))?)
    }

    /// After the last unit: makes the visits that this rank has had no reason to make.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        while let Some(&Visit { unit, direction, .. }) = self.visits().get(self.next) {
            self.begin_visit(unit, direction)?;
        }
        self.end_visit()?;
        assert!(self.arriving.is_empty(), "an itinerary uses what it fetches");
        Ok(())
    }

    fn visits(&self) -> &[Visit] {
        match self.journey {
            Journey::Evaluation => &self.evaluation,
            Journey::Training => &self.training,
        }
    }

    fn start(&mut self, bucket: usize) -> Result<(), Error> {
        let mut weights = self.weights.borrow_mut();
        let whole = weights.admit(bucket).map_err(Error::zero(OPERATION, self.step))?;
        // SAFETY: the bucket's memory stays until `dismiss`, which comes after `land`, or until the
        // last owner of `weights` is gone, after `arriving`. Nobody touches it before it has
        // landed: units compute after their weights have, and we read masters alone.
        let started = unsafe { self.reducer.borrow_mut().link.start_all_gather(whole) };
        let underway = started.map_err(Error::zero(OPERATION, self.step))?;
        self.arriving.extend(underway.map(|underway| Arrival { bucket, underway }));
        Ok(())
    }

    fn land(&mut self, bucket: usize) -> Result<(), Error> {
        let Some(at) = self.arriving.iter().position(|arrival| arrival.bucket == bucket) else {
            return Ok(());
        };
        let Arrival { underway, .. } = self.arriving.remove(at);
        underway.wait().map_err(Error::zero(OPERATION, self.step))
    }
}

const OPERATION: &str = "gather a unit's parameters";
