use std::time::Duration;

use expect_test::expect;

use common::status::{JobState, TrainerEnd};

use super::world::{KILLED, World, check, spec};
use crate::coordinator::CancelMode;

#[test]
fn queued_jobs_are_queued_again_in_their_order() {
    let mut w = World::new(&[]);
    w.submit(spec("first", Some(1)));
    w.submit(spec("second", Some(1)));
    w.restart();
    w.join("a", 1);
    assert_eq!(w.state("first"), JobState::Starting);
    assert_eq!(w.state("second"), JobState::Queued);
}

#[test]
fn a_running_job_goes_on_when_its_workers_come_back() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.take();
    w.restart();
    w.tick_after(Duration::from_secs(20));
    for (rank, name) in [(0, "a"), (1, "b")] {
        let mut hello = w.hello(name, 1);
        hello.running = w.running_trainers("job", &[rank]);
        w.send_hello(hello);
    }
    // A11: no trainer dies, none is started, nothing is stopped.
    check(
        &w.take(),
        &expect![[r#"
            persist started(2)
            -> a: welcome
            -> b: welcome
        "#]],
    );
    assert_eq!(w.state("job"), JobState::Running);
    w.end("job", 0, TrainerEnd::Finished);
    w.end("job", 1, TrainerEnd::Finished);
    assert_eq!(w.state("job"), JobState::Succeeded);
}

#[test]
fn a_worker_that_does_not_come_back_fails_its_jobs() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.restart();
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    w.live_on(Duration::from_secs(29));
    assert_eq!(w.state("job"), JobState::Running);
    w.take();
    w.live_on(Duration::from_secs(2));
    assert!(w.take().contains("-> a: stop job-000000.1 at once: rank 1 on worker `b` was lost"));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(
        w.reason("job"),
        "rank 1 on worker `b` was lost: worker `b` gave no sign of life for 30.0 s"
    );
}

#[test]
fn ends_that_were_not_acknowledged_are_applied() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.restart();
    w.take();
    let mut hello = w.hello("a", 2);
    hello.unacknowledged =
        vec![w.report("job", 0, TrainerEnd::Finished), w.report("job", 1, TrainerEnd::Finished)];
    w.send_hello(hello);
    check(
        &w.take(),
        &expect![[r#"
            persist ended(0) ended(1) job-ended(succeeded: finished)
            -> a: welcome
            -> a: acknowledge end of 0
            -> a: acknowledge end of 1
        "#]],
    );
}

#[test]
fn ends_of_a_past_life_are_applied_before_the_rest_is_lost() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.restart();
    w.new_life("a");
    let mut hello = w.hello("a", 2);
    hello.unacknowledged = vec![w.report("job", 1, KILLED)];
    w.send_hello(hello);
    assert_eq!(w.reason("job"), "rank 1 on worker `a` was killed by signal 9 (SIGKILL)");
}

#[test]
fn a_rendezvous_goes_on_from_what_the_workers_tell() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.ready("job", 0);
    w.restart();
    w.take();
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    hello.running[0].is_running = false;
    w.send_hello(hello);
    // The order for rank 1 was lost with the last life.
    w.join("b", 1);
    w.ready("job", 1);
    check(
        &w.take(),
        &expect![[r#"
            -> a: welcome
            -> b: welcome
            -> b: start job-000000.1 of 2: 1@[0]
            -> a: rank table job-000000.1 of 2
            -> b: rank table job-000000.1 of 2
        "#]],
    );
}

#[test]
fn a_cancel_survives_the_restart() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.cancel("job", CancelMode::Save);
    w.restart();
    w.take();
    assert_eq!(w.state("job"), JobState::Cancelling);
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    assert!(w.take().contains("-> a: stop job-000000.1 gracefully: cancelled"));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Cancelled);
}

#[test]
fn a_decided_stop_survives_the_restart() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.end("job", 1, KILLED);
    w.restart();
    w.take();
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    assert!(w.take().contains("-> a: stop job-000000.1 at once"));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.reason("job"), "rank 1 on worker `b` was killed by signal 9 (SIGKILL)");
}

#[test]
fn a_wrongly_stopped_slot_is_not_given_away_before_its_worker_is_back() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.restart();
    w.submit(spec("next", Some(1)));
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    assert_eq!(w.state("next"), JobState::Queued, "A6: the slot is taken");
}
