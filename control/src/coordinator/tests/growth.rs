//! What happens while an elastic job is on its way to more ranks, or to a worker that is unfit for it.

use std::time::Duration;

use common::ids::Generation;
use common::status::{JobState, TrainerEnd};

use super::elastic::{GROW_AFTER, class, elastic, lose_c, running, stop_all};
use super::preempt::preempt;
use super::world::{World, id, restarting};
use crate::coordinator::{CancelMode, Class, WorkerMessage};

/// On workers a and b, being stopped to go on with c as well.
fn growing() -> World {
    let mut w = running(2, 3);
    lose_c(&mut w);
    w.train("job");
    w.progress("job", 41, 1000.0);
    w.new_life("c");
    w.join("c", 1);
    w.live_on(GROW_AFTER);
    assert!(w.take().contains("stop job-000000.2 gracefully: grows from 2 to 3 ranks"));
    w
}

#[test]
fn a_preemption_is_one_also_while_the_job_grows() {
    let mut w = growing();
    w.submit(restarting("next", Some(3)));
    preempt(&mut w, "job");
    let log = w.take();
    assert!(log.contains("-> a: stop job-000000.2 gracefully: preempted: maintenance"), "{log}");
    stop_all(&mut w);
    assert_eq!(class(&w, 1), Class::Preemption);
    assert_eq!((w.state("job"), w.state("next")), (JobState::Restarting, JobState::Starting));
}

#[test]
fn a_cancel_is_one_also_while_the_job_grows() {
    let mut w = growing();
    w.cancel("job", CancelMode::Save);
    stop_all(&mut w);
    assert_eq!(w.state("job"), JobState::Cancelled);
    assert!(!w.reason("job").contains("grows"), "{}", w.reason("job"));
    assert_eq!(w.status("job").failure, None);
}

#[test]
fn the_slots_for_which_it_is_stopped_are_kept_for_it() {
    let mut w = growing();
    w.submit(restarting("late", Some(1)));
    assert_eq!(w.state("late"), JobState::Queued);
    stop_all(&mut w);
    assert_eq!(w.places("job"), ["a", "b", "c"]);
}

#[test]
fn one_slot_stops_one_job() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(elastic("one", 1, 2));
    w.train("one");
    w.progress("one", 1, 1000.0);
    w.join("b", 1);
    w.submit(elastic("two", 1, 2));
    w.train("two");
    w.progress("two", 1, 1000.0);
    w.join("c", 1);
    w.take();
    w.live_on(2 * GROW_AFTER);
    w.end("one", 0, TrainerEnd::Stopped);
    assert_eq!(w.places("one"), ["a", "c"]);
    w.train("one");
    w.live_on(2 * GROW_AFTER);
    assert_eq!(w.take().matches("gracefully: grows from").count(), 1);
    assert_eq!(w.state("two"), JobState::Running);
}

/// Worker c has no such file, and the others leave.
fn refuse(w: &mut World) {
    let (job_id, generation) = (id("job"), Generation(w.generation("job")));
    let message = "no file `/data/co2.csv`".to_owned();
    w.say(
        "c",
        WorkerMessage::PrepareFailed { job_id, generation, is_configuration: true, message },
    );
    (0..2).for_each(|rank| w.end("job", rank, TrainerEnd::Stopped));
}

#[test]
fn a_worker_that_refuses_what_ran_elsewhere_is_done_without() {
    let mut w = growing();
    stop_all(&mut w);
    assert_eq!(w.places("job"), ["a", "b", "c"]);
    refuse(&mut w);
    assert_eq!(class(&w, 2), Class::Infrastructure, "{}", w.reason("job"));
    // It had lost the first attempt, too.
    w.live_on(Duration::from_secs(3));
    assert_eq!(w.places("job"), ["a", "b"], "{}", w.reason("job"));
    w.train("job");
    w.progress("job", 42, 1000.0);
    w.take();
    w.live_on(2 * GROW_AFTER);
    assert_eq!(w.take().matches("grows").count(), 0, "not there again");
}
