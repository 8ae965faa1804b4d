//! Jobs whose world changes while their batch stays.

use std::time::Duration;

use common::spec::{BatchMismatch, JobSpec};
use common::status::{FailureKind, JobState, Question, TrainerEnd};

use super::world::{KILLED, World, failed, id, restarting, with_batch};
use crate::coordinator::{Class, DrainOrder};

pub(super) const GROW_AFTER: Duration = Duration::from_secs(20);

pub(super) fn elastic(name: &str, least: u32, most: u32) -> JobSpec {
    let mut spec = with_batch(restarting(name, None), 48);
    spec.resources.min_ranks = Some(least);
    spec.resources.max_ranks = Some(most);
    spec.restart.grow_after = GROW_AFTER;
    spec
}

pub(super) fn running(least: u32, most: u32) -> World {
    let mut w = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
    w.submit(elastic("job", least, most));
    w.train("job");
    w
}

/// Worker c is killed and does not come back.
pub(super) fn lose_c(w: &mut World) {
    w.drop_stream("c");
    for rank in 0..2 {
        w.end("job", rank, failed(FailureKind::Communication, "rank 2 vanished"));
    }
    w.live_on(Duration::from_secs(6));
}

fn world_why(w: &World) -> String {
    let now = w.moment();
    let explained = w.machine.explain(&id("job"), now).unwrap();
    let answer = explained.answers.into_iter().find(|a| a.question == Question::World);
    answer.map(|answer| answer.text).unwrap_or_default()
}

pub(super) fn class(w: &World, attempt: usize) -> Class {
    w.machine.ledger().jobs[&id("job")].attempts[attempt].over.as_ref().unwrap().class
}

pub(super) fn stop_all(w: &mut World) {
    let ranks = w.places("job").len() as u32;
    (0..ranks).for_each(|rank| w.end("job", rank, TrainerEnd::Stopped));
}

#[test]
fn a_job_goes_on_with_fewer_ranks_and_grows_back_when_the_worker_returns() {
    let mut w = running(2, 3);
    assert_eq!(w.reason("job"), "3 ranks: a (0), b (1), c (2); as many as it may have");
    assert_eq!(world_why(&w), "3 ranks of 2 to 3: as many as it may have");
    w.commit("job", 40);
    lose_c(&mut w);
    assert_eq!((w.state("job"), w.places("job").len()), (JobState::Starting, 2));
    w.train("job");
    assert_eq!(
        w.reason("job"),
        "2 ranks: a (0), b (1); it may have 2 to 3, and no more fit now; continues step-00000040"
    );
    w.progress("job", 41, 1000.0);

    w.new_life("c");
    w.join("c", 1);
    assert_eq!(w.state("job"), JobState::Running, "it has not trained for long enough");
    let later = "3 would fit, once it has trained for 20s (restart.grow-after)";
    assert!(w.reason("job").ends_with(later), "{}", w.reason("job"));
    assert_eq!(world_why(&w), format!("2 ranks of 2 to 3: {later}"));
    w.take();
    w.live_on(GROW_AFTER);
    let log = w.take();
    let why = "grows from 2 to 3 ranks: slots of worker `c` are idle";
    assert!(log.contains(&format!("-> a: stop job-000000.2 gracefully: {why}")), "{log}");
    w.commit("job", 77);
    stop_all(&mut w);
    assert_eq!((w.state("job"), w.places("job").len()), (JobState::Starting, 3));
    assert_eq!((class(&w, 0), class(&w, 1)), (Class::Infrastructure, Class::Growth));
    let over = w.machine.ledger().jobs[&id("job")].attempts[1].over.clone().unwrap();
    assert_eq!(over.decision, "restarts at once: more ranks cost no budget");
    w.train("job");
    assert!(w.reason("job").ends_with("; continues step-00000077"), "{}", w.reason("job"));
}

#[test]
fn fewer_than_the_least_wait() {
    let mut w = running(3, 3);
    lose_c(&mut w);
    assert_eq!(w.state("job"), JobState::Restarting);
    let mut w = World::new(&[("a", 1)]);
    w.submit(elastic("job", 2, 3));
    assert_eq!(
        w.reason("job"),
        "needs at least 2 ranks of 1 slot; the cluster has 1 slot on 1 worker, room for 1 such rank"
    );
    w.join("b", 1);
    assert_eq!((w.state("job"), w.places("job").len()), (JobState::Starting, 2));
}

#[test]
fn where_the_batch_must_be_cut_evenly_only_such_worlds_count() {
    let strict = |least| {
        let mut spec = elastic("job", least, 5);
        let origin = "test".to_owned();
        spec.training.batch.micro_batch_size = Some(common::spec::Sourced { value: 8, origin });
        spec.training.batch.mismatch = BatchMismatch::Error;
        spec
    };
    // 48 is 8 times 1, 2 or 3 ranks, and not 4 or 5.
    let mut w = World::new(&[("a", 4)]);
    w.submit(strict(1));
    assert_eq!(w.places("job").len(), 3);
    let mut w = World::new(&[("a", 4)]);
    w.submit(strict(4));
    assert_eq!(w.state("job"), JobState::Failed);
    assert!(w.reason("job").contains("not a multiple"), "{}", w.reason("job"));
}

#[test]
fn the_queue_comes_first() {
    let mut w = running(2, 3);
    lose_c(&mut w);
    w.train("job");
    w.progress("job", 41, 1000.0);
    w.submit(restarting("next", Some(1)));
    assert_eq!(w.state("next"), JobState::Queued);
    w.new_life("c");
    w.join("c", 1);
    assert_eq!(w.places("next"), ["c"]);
    w.train("next");
    w.live_on(2 * GROW_AFTER);
    assert_eq!(w.state("job"), JobState::Running);
    // Slots that are kept for a job are not idle either.
    let mut wide = restarting("wide", Some(3));
    wide.job.priority = 1;
    w.submit(wide);
    w.end("next", 0, TrainerEnd::Finished);
    w.live_on(GROW_AFTER);
    assert_eq!((w.state("job"), w.state("wide")), (JobState::Running, JobState::Queued));
}

#[test]
fn a_run_that_ends_soon_does_not_grow() {
    let mut w = running(2, 3);
    lose_c(&mut w);
    w.pass(Duration::from_secs(3));
    w.train("job");
    // Its start took 4 s, and a third of 17 s is less than twice that.
    w.progress("job", 41, 37.0);
    w.new_life("c");
    w.join("c", 1);
    w.live_on(GROW_AFTER);
    assert_eq!(w.state("job"), JobState::Running);
    let why = "3 would fit, but the run ends too soon for a restart to pay";
    assert!(w.reason("job").ends_with(why), "{}", w.reason("job"));
    w.progress("job", 42, 1000.0);
    w.drain("a", DrainOrder::Undo);
    assert!(w.take().contains("stop job-000000.2 gracefully: grows from 2 to 3 ranks"));
}

#[test]
fn what_breaks_while_it_grows_is_charged() {
    let mut w = running(2, 3);
    lose_c(&mut w);
    w.train("job");
    w.progress("job", 41, 1000.0);
    w.new_life("c");
    w.join("c", 1);
    w.live_on(GROW_AFTER);
    w.end("job", 1, KILLED);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(class(&w, 1), Class::Infrastructure);
    w.live_on(Duration::from_secs(2));
    // A first fault costs no rank.
    assert_eq!(w.places("job"), ["a", "b", "c"]);
}

#[test]
fn a_coordinators_restart_forgets_nothing_but_the_time() {
    let mut w = running(2, 3);
    lose_c(&mut w);
    w.train("job");
    w.restart();
    for (worker, rank) in [("a", 0), ("b", 1)] {
        let mut hello = w.hello(worker, 1);
        hello.running = w.running_trainers("job", &[rank]);
        w.send_hello(hello);
    }
    w.new_life("c");
    w.join("c", 1);
    w.progress("job", 41, 1000.0);
    w.live_on(GROW_AFTER - Duration::from_secs(1));
    assert!(!w.take().contains("stop job-000000.2"));
    w.live_on(Duration::from_secs(2));
    assert!(w.take().contains("stop job-000000.2 gracefully: grows from 2 to 3 ranks"));
}

#[test]
fn a_job_of_a_fixed_world_and_one_without_bounds_do_not_grow() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(restarting("job", None));
    w.train("job");
    w.progress("job", 1, 1000.0);
    w.join("b", 2);
    w.live_on(2 * GROW_AFTER);
    assert_eq!((w.state("job"), w.places("job").len()), (JobState::Running, 1));
    assert_eq!(world_why(&w), "");
}
