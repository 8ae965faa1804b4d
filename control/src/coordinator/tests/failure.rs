use std::time::Duration;

use expect_test::expect;

use common::ids::Generation;
use common::status::{FailureKind, JobState, TrainerEnd};

use super::world::{KILLED, World, check, failed, id, spec};
use crate::coordinator::{CancelMode, WorkerMessage};

fn failure(w: &World) -> (Option<u32>, String) {
    let failure = w.machine.ledger().jobs[&id("job")].failure.clone().unwrap();
    (failure.rank.map(|rank| rank.0), failure.message)
}

/// Two ranks on two workers, training.
fn training() -> World {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.take();
    w
}

#[test]
fn one_killed_trainer_stops_the_attempt_everywhere_and_is_named() {
    let mut w = training();
    w.end("job", 1, KILLED);
    check(
        &w.take(),
        &expect![[r#"
            persist ended(1) stop-decided
            -> b: acknowledge end of 1
            -> a: stop job-000000.1 at once: rank 1 on worker `b` was killed by signal 9 (SIGKILL)
        "#]],
    );
    w.end("job", 0, TrainerEnd::Stopped);
    check(
        &w.take(),
        &expect![[r#"
            persist ended(0) job-ended(failed: rank 1 on worker `b` was killed by signal 9 (SIGKILL))
            -> a: acknowledge end of 0
        "#]],
    );
    let failure = w.machine.ledger().jobs[&id("job")].failure.clone().unwrap();
    assert_eq!(failure.last_lines, ["last line of 1"]);
    assert_eq!(failure.worker.as_deref(), Some("b"));
}

#[test]
fn a_failed_collective_waits_for_the_real_cause() {
    let mut w = training();
    w.end("job", 0, failed(FailureKind::Communication, "rank 1 vanished"));
    assert!(!w.take().contains("stop"), "A10: a witness alone stops nothing yet");
    w.pass(Duration::from_millis(200));
    w.end("job", 1, KILLED);
    assert_eq!(w.state("job"), JobState::Failed);
    assert_eq!(
        failure(&w),
        (Some(1), "rank 1 on worker `b` was killed by signal 9 (SIGKILL)".to_owned())
    );
}

#[test]
fn a_cause_that_was_told_while_the_coordinator_slept_is_heard() {
    let mut w = training();
    w.end("job", 0, failed(FailureKind::Communication, "rank 1 vanished"));
    w.pass(Duration::from_secs(60));
    w.step(crate::coordinator::Event::Tick);
    w.end("job", 1, KILLED);
    assert_eq!(
        failure(&w),
        (Some(1), "rank 1 on worker `b` was killed by signal 9 (SIGKILL)".to_owned())
    );
    assert!(!w.take().contains("-> b: stop"));
}

#[test]
fn a_failed_collective_stops_the_attempt_when_no_cause_shows_up() {
    let mut w = training();
    w.end("job", 0, failed(FailureKind::Communication, "no answer from rank 1"));
    w.take();
    w.tick_after(Duration::from_millis(450));
    check(
        &w.take(),
        &expect![[r#"
            persist stop-decided
            -> b: stop job-000000.1 at once: rank 0 on worker `a` failed at step 7: no answer from rank 1
        "#]],
    );
    w.end("job", 1, TrainerEnd::Exited { code: 1 });
    assert_eq!(
        failure(&w),
        (Some(0), "rank 0 on worker `a` failed at step 7: no answer from rank 1".to_owned())
    );
}

#[test]
fn a_cause_that_comes_after_the_stop_still_outranks_witnesses() {
    let mut w = training();
    w.end("job", 0, failed(FailureKind::Communication, "rank 1 vanished"));
    w.tick_after(Duration::from_millis(450));
    w.end("job", 1, TrainerEnd::Killed { signal: 11, core_dumped: true });
    assert_eq!(
        failure(&w),
        (Some(1), "rank 1 on worker `b` was killed by signal 11 (SIGSEGV), core dumped".to_owned())
    );
}

#[test]
fn the_first_of_two_causes_is_named() {
    let mut w = training();
    w.end("job", 1, failed(FailureKind::NotFinite, "loss is NaN"));
    w.end("job", 0, failed(FailureKind::Engine, "aborted badly"));
    assert_eq!(
        failure(&w),
        (Some(1), "rank 1 on worker `b` failed at step 7: loss is NaN".to_owned())
    );
}

#[test]
fn a_silent_exit_and_a_panic_are_told_as_such() {
    let mut w = training();
    w.end("job", 0, TrainerEnd::Exited { code: 3 });
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(failure(&w).1, "rank 0 on worker `a` exited with code 3");
    let mut w = training();
    let (message, place) = ("index out of bounds".to_owned(), "engine/src/a.rs:3".to_owned());
    w.end("job", 0, TrainerEnd::Panicked { message, place });
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(
        failure(&w).1,
        "rank 0 on worker `a` panicked at engine/src/a.rs:3: index out of bounds"
    );
}

#[test]
fn a_trainer_that_stops_unasked_fails_the_job() {
    let mut w = training();
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, failed(FailureKind::Communication, "rank 0 vanished"));
    assert_eq!(
        failure(&w),
        (Some(0), "rank 0 on worker `a` stopped although nobody had asked it to".to_owned())
    );
}

#[test]
fn a_worker_that_cannot_prepare_fails_the_job_with_its_words() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.take();
    w.say(
        "b",
        WorkerMessage::PrepareFailed {
            job_id: id("job"),
            generation: Generation(1),
            is_configuration: true,
            message: "`/data/x.csv` does not exist".to_owned(),
        },
    );
    check(
        &w.take(),
        &expect![[r#"
            persist stop-decided ended(1)
            -> a: stop job-000000.1 at once: worker `b` cannot start the job: `/data/x.csv` does not exist
            -> b: stop job-000000.1 at once: worker `b` cannot start the job: `/data/x.csv` does not exist
        "#]],
    );
    w.end("job", 0, TrainerEnd::Stopped);
    let failure = w.machine.ledger().jobs[&id("job")].failure.clone().unwrap();
    assert_eq!(failure.kind, Some(FailureKind::Configuration));
    assert_eq!(failure.message, "worker `b` cannot start the job: `/data/x.csv` does not exist");
}

#[test]
fn a_silent_worker_loses_its_ranks_when_its_lease_ends() {
    let mut w = training();
    w.drop_stream("b");
    w.end("job", 0, failed(FailureKind::Communication, "rank 1 vanished"));
    w.live_on(Duration::from_secs(4));
    assert_eq!(w.state("job"), JobState::Running, "A10: a node's death is its lease's to tell");
    w.live_on(Duration::from_secs(2));
    assert_eq!(w.state("job"), JobState::Failed);
    assert_eq!(
        failure(&w),
        (
            Some(1),
            "rank 1 on worker `b` was lost: worker `b` gave no sign of life for 5.0 s".to_owned()
        )
    );
}

#[test]
fn a_worker_that_never_confirms_an_end_keeps_its_slots_and_the_job_ends() {
    let mut w = training();
    w.end("job", 1, KILLED);
    w.live_on(Duration::from_secs(13));
    assert_eq!(w.state("job"), JobState::Failed);
    assert_eq!(failure(&w).1, "rank 1 on worker `b` was killed by signal 9 (SIGKILL)");
    // Rank 0 is not known to be dead: its slot is not given away (A6), and it is told again.
    w.submit(spec("next", Some(2)));
    assert_eq!(w.state("next"), JobState::Queued);
    w.take();
    w.live_on(Duration::from_secs(5));
    assert!(w.take().contains("-> a: stop job-000000.1 at once: the job is failed"));
    let report = w.report("job", 0, TrainerEnd::Stopped);
    w.say("a", WorkerMessage::Ended(report));
    assert_eq!(w.state("next"), JobState::Starting);
    assert_eq!(w.state("job"), JobState::Failed);
}

fn cut_off() -> TrainerEnd {
    failed(FailureKind::CutOff, "killed in the middle of its save")
}

#[test]
fn a_save_that_a_cancel_cut_off_is_told_with_the_newest_whole_checkpoint() {
    let mut w = training();
    w.commit("job", 20);
    w.cancel("job", CancelMode::Save);
    w.end("job", 0, cut_off());
    w.end("job", 1, cut_off());
    assert_eq!(w.state("job"), JobState::Cancelled);
    assert_eq!(
        w.reason("job"),
        "cancelled; rank 0 on worker `a` was cut off at step 7: killed in the middle of its save; \
         the newest whole checkpoint is step-00000020"
    );
}

#[test]
fn a_save_that_was_cut_off_before_any_checkpoint_says_that_there_is_none() {
    let mut w = training();
    w.cancel("job", CancelMode::Save);
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, cut_off());
    assert!(w.reason("job").ends_with("; no whole checkpoint was saved"), "{}", w.reason("job"));
}
