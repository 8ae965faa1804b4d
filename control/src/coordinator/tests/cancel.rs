use std::time::Duration;

use expect_test::expect;

use common::status::{JobState, TrainerEnd};

use super::world::{KILLED, World, check, id, spec};
use crate::coordinator::{Answer, CancelMode, Effect, Refusal};

#[test]
fn a_queued_job_is_cancelled_at_once() {
    let mut w = World::new(&[]);
    w.submit(spec("job", Some(1)));
    w.take();
    w.cancel("job", CancelMode::Save);
    check(
        &w.take(),
        &expect![[r#"
            persist cancel-asked job-ended(cancelled: cancelled while it was queued)
            answer Cancelling(Cancelled)
        "#]],
    );
    w.join("a", 1);
    assert_eq!(w.state("job"), JobState::Cancelled, "it must not start any more");
}

#[test]
fn a_running_job_saves_and_leaves() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.take();
    w.cancel("job", CancelMode::Save);
    assert_eq!(w.state("job"), JobState::Cancelling);
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    check(
        &w.take(),
        &expect![[r#"
            persist cancel-asked stop-decided
            -> a: stop job-000000.1 gracefully: cancelled
            answer Cancelling(Cancelling)
            persist ended(0)
            -> a: acknowledge end of 0
            persist ended(1) job-ended(cancelled: cancelled)
            -> a: acknowledge end of 1
        "#]],
    );
    assert_eq!(w.machine.ledger().jobs[&id("job")].failure, None);
}

#[test]
fn a_second_cancel_can_only_hurry() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.cancel("job", CancelMode::Save);
    w.take();
    w.cancel("job", CancelMode::Now);
    w.cancel("job", CancelMode::Save);
    check(
        &w.take(),
        &expect![[r#"
            persist cancel-asked stop-decided
            -> a: stop job-000000.1 at once: cancelled
            answer Cancelling(Cancelling)
            answer Cancelling(Cancelling)
        "#]],
    );
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.reason("job"), "cancelled at once");
}

#[test]
fn a_cancelled_job_that_fails_while_it_saves_says_so() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.cancel("job", CancelMode::Save);
    w.end("job", 0, KILLED);
    assert_eq!(w.state("job"), JobState::Cancelled);
    assert_eq!(w.reason("job"), "cancelled; rank 0 on worker `a` was killed by signal 9 (SIGKILL)");
}

#[test]
fn a_starting_job_has_nothing_to_save() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.take();
    w.cancel("job", CancelMode::Save);
    assert!(w.take().contains("-> a: stop job-000000.1 at once: cancelled"));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Cancelled);
}

#[test]
fn a_job_that_finishes_first_has_succeeded() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.cancel("job", CancelMode::Save);
    w.end("job", 0, TrainerEnd::Finished);
    assert_eq!(w.state("job"), JobState::Succeeded);
    assert_eq!(w.reason("job"), "finished before the cancel reached it");
}

#[test]
fn a_final_job_stays_what_it_is() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.end("job", 0, TrainerEnd::Finished);
    w.take();
    w.cancel("job", CancelMode::Now);
    assert_eq!(w.take(), "answer Cancelling(Succeeded)\n");
}

#[test]
fn an_unknown_job_cannot_be_cancelled() {
    let mut w = World::new(&[]);
    let effects = w.cancel("nobody", CancelMode::Save);
    let refusal = Refusal::UnknownJob(id("nobody"));
    assert!(
        matches!(&effects[..], [Effect::Answer { answer: Answer::Refused(r), .. }] if *r == refusal)
    );
}

#[test]
fn a_cancelled_job_whose_worker_is_silent_ends_with_the_lease() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.drop_stream("a");
    w.cancel("job", CancelMode::Save);
    assert_eq!(w.state("job"), JobState::Cancelling);
    w.tick_after(Duration::from_secs(6));
    assert_eq!(w.state("job"), JobState::Cancelled);
}

#[test]
fn a_cancel_reaches_a_worker_that_was_away() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.drop_stream("a");
    w.cancel("job", CancelMode::Save);
    w.take();
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    check(
        &w.take(),
        &expect![[r#"
            -> a: welcome
            -> a: stop job-000000.1 gracefully: cancelled
        "#]],
    );
}
