use std::time::Duration;

use expect_test::expect;

use common::ids::Generation;
use common::status::{FailureKind, JobState, TrainerEnd, WaitReason};

use super::world::{KILLED, World, check, failed, id, restarting, spec};
use crate::coordinator::{CancelMode, Event, Requeue, Ticket, WorkerMessage};

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

/// Rank 1 was killed and rank 0, on `a`, is not confirmed dead when the coordinator restarts.
fn restarted_with_a_straggler() -> World {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(2)));
    w.train("job");
    w.end("job", 1, KILLED);
    w.live_on(Duration::from_secs(13));
    assert_eq!(w.state("job"), JobState::Restarting);
    w.restart();
    w
}

#[test]
fn a_job_between_two_attempts_waits_for_the_workers_of_the_last_one() {
    let mut w = restarted_with_a_straggler();
    w.join("c", 2);
    w.join("b", 1);
    w.live_on(Duration::from_millis(500));
    assert_eq!(w.state("job"), JobState::Restarting, "A6: a may run rank 0");
    let waits = WaitReason::Stragglers { worker: "a".to_owned() };
    assert_eq!(w.status("job").waiting.unwrap().reason, waits);
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.take();
    w.send_hello(hello);
    assert!(w.take().contains("-> a: stop job-000000.1 at once"));
    assert_eq!(w.state("job"), JobState::Restarting);
    let mut report = w.report("job", 0, TrainerEnd::Stopped);
    report.key.generation = Generation(1);
    w.say("a", WorkerMessage::Ended(report));
    assert_eq!(w.state("job"), JobState::Starting);
}

#[test]
fn a_job_between_two_attempts_waits_no_longer_than_the_grace() {
    let mut w = restarted_with_a_straggler();
    w.join("b", 1);
    w.join("c", 1);
    w.live_on(Duration::from_secs(29));
    assert_eq!(w.state("job"), JobState::Restarting);
    w.live_on(Duration::from_secs(2));
    assert_eq!(
        (w.state("job"), w.places("job")),
        (JobState::Starting, vec!["b".into(), "c".into()])
    );
}

#[test]
fn a_job_that_takes_all_slots_does_not_go_on_with_those_of_the_first_worker_that_is_back() {
    let mut w = World::new(&[("a", 1), ("b", 3)]);
    let mut job = restarting("job", None);
    job.restart.backoff = Duration::from_secs(30);
    w.submit(job);
    for _ in 0..2 {
        w.train("job");
        let end = failed(FailureKind::Communication, "a peer vanished");
        (0..4).for_each(|rank| w.end("job", rank, end.clone()));
    }
    assert_eq!(w.state("job"), JobState::Restarting);
    w.pass(Duration::from_secs(31));
    w.restart();
    w.join("a", 1);
    assert_eq!(w.state("job"), JobState::Restarting);
    w.join("b", 3);
    assert_eq!(w.places("job").len(), 4);
}

#[test]
fn a_requeued_job_waits_for_the_worker_that_has_its_checkpoint() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.commit_on("job", 20, Some("a"));
    w.cancel("job", CancelMode::Save);
    w.end("job", 0, TrainerEnd::Stopped);
    w.drop_stream("a");
    w.tick_after(Duration::from_secs(6));
    let (job_id, request_id) = (id("again"), "again".to_owned());
    let requeue = Requeue { job_id, request_id, from_start: false, knows_secret: false };
    let ticket = Ticket(w.number());
    w.step(Event::Requeue { ticket, ended: id("job"), requeue });
    w.restart();
    w.join("b", 1);
    assert_eq!(w.state("again"), JobState::Queued);
    w.join("a", 1);
    assert_eq!(w.places("again"), ["a"]);
}
