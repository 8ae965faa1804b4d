use std::time::Duration;

use expect_test::expect;

use common::status::{FailureKind, JobState, TrainerEnd};

use super::world::{KILLED, World, check, failed, spec, state_of};
use crate::coordinator::{CancelMode, Withdrawal, WorkerMessage};

const GRACE: Duration = Duration::from_secs(25);

/// Two ranks on two workers, training.
fn training() -> World {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.take();
    w
}

fn withdrawal() -> Withdrawal {
    Withdrawal { reason: "SIGTERM".to_owned(), grace: GRACE }
}

const WHY: &str = "worker `b` was told to leave (SIGTERM) while it ran rank 1";

#[test]
fn a_worker_that_is_told_to_leave_stops_its_jobs_gracefully_and_is_the_reason() {
    let mut w = training();
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    check(
        &w.take(),
        &expect![[r#"
            persist stop-decided
            -> a: stop job-000000.1 gracefully: worker `b` was told to leave (SIGTERM) while it ran rank 1
            -> b: stop job-000000.1 gracefully: worker `b` was told to leave (SIGTERM) while it ran rank 1
        "#]],
    );
    assert_eq!(state_of(&w, "b"), "draining");
    w.end("job", 1, TrainerEnd::Stopped);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!((w.state("job"), w.reason("job")), (JobState::Failed, WHY.to_owned()));
}

#[test]
fn its_grace_is_everybodys() {
    let mut w = training();
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.live_on(GRACE + Duration::from_secs(9));
    assert_eq!(w.state("job"), JobState::Running, "the grace, then 10 s to confirm");
    w.live_on(Duration::from_secs(2));
    assert_eq!(w.state("job"), JobState::Failed);
}

#[test]
fn nothing_new_starts_on_a_worker_that_is_leaving() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.submit(spec("job", None));
    assert_eq!(w.places("job"), ["a"]);
    w.submit(spec("pair", Some(2)));
    assert_eq!(w.state("pair"), JobState::Queued);
}

#[test]
fn before_training_there_is_nothing_to_save() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.take();
    w.say("a", WorkerMessage::Withdrawing(withdrawal()));
    assert!(w.take().contains("stop job-000000.1 at once"));
}

#[test]
fn what_broke_before_the_worker_left_is_still_the_reason() {
    let mut w = training();
    w.end("job", 0, failed(FailureKind::NotFinite, "loss is NaN"));
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.reason("job"), "rank 0 on worker `a` failed at step 7: loss is NaN");
}

#[test]
fn what_breaks_on_the_way_out_is_told_beside_it() {
    let mut w = training();
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.end("job", 1, KILLED);
    w.end("job", 0, TrainerEnd::Stopped);
    let killed = "rank 1 on worker `b` was killed by signal 9 (SIGKILL)";
    assert_eq!(w.reason("job"), format!("{WHY}; then {killed}"));
}

#[test]
fn a_worker_that_withdrew_while_it_was_out_of_reach_says_so_before_its_ends() {
    let mut w = training();
    w.drop_stream("b");
    let mut hello = w.hello("b", 1);
    hello.withdrawing = Some(withdrawal());
    hello.unacknowledged = vec![w.report("job", 1, TrainerEnd::Stopped)];
    w.send_hello(hello);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.reason("job"), WHY);
}

#[test]
fn a_job_that_ends_before_the_stop_reaches_it_has_succeeded() {
    let mut w = training();
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.end("job", 0, TrainerEnd::Finished);
    w.end("job", 1, TrainerEnd::Finished);
    assert_eq!(w.state("job"), JobState::Succeeded);
}

#[test]
fn a_stop_that_the_coordinators_restart_interrupts_keeps_its_reason_and_grace() {
    let mut w = training();
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.restart();
    for (worker, rank) in [("a", 0), ("b", 1)] {
        let mut hello = w.hello(worker, 1);
        hello.running = w.running_trainers("job", &[rank]);
        w.send_hello(hello);
    }
    w.live_on(GRACE);
    assert_eq!(w.state("job"), JobState::Running, "the grace counts anew");
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.reason("job"), WHY);
}

#[test]
fn a_cancel_of_a_job_that_is_already_stopping_names_both() {
    let mut w = training();
    w.say("b", WorkerMessage::Withdrawing(withdrawal()));
    w.cancel("job", CancelMode::Now);
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(
        (w.state("job"), w.reason("job")),
        (JobState::Cancelled, format!("cancelled; {WHY}"))
    );
}
