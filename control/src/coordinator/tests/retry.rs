//! Jobs that break off and start again.

use std::time::Duration;

use expect_test::expect;

use common::ids::Generation;
use common::spec::Restart;
use common::status::{FailureKind, JobState, TrainerEnd, TrainerFailure, WaitReason};

use super::world::{KILLED, World, check, failed, id, restarting, state_of};
use crate::coordinator::{CancelMode, DrainOrder, Event, Withdrawal, WorkerMessage};

/// Two ranks on two workers, training, with the usual budgets.
fn training() -> World {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(2)));
    w.train("job");
    w.take();
    w
}

fn attempts(w: &World) -> usize {
    w.machine.ledger().jobs[&id("job")].attempts.len()
}

#[test]
fn a_killed_trainer_restarts_the_job_when_every_trainer_is_dead() {
    let mut w = training();
    w.commit("job", 40);
    w.take();
    w.end("job", 1, KILLED);
    assert_eq!((w.state("job"), attempts(&w)), (JobState::Running, 1), "A6: rank 0 still runs");
    w.take();
    w.end("job", 0, TrainerEnd::Stopped);
    check(
        &w.take(),
        &expect![[r#"
            persist ended(0) attempt-ended(infrastructure in 0ns) attempt-started(2)
            -> a: acknowledge end of 0
            -> a: start job-000000.2 of 2: 0@[0]
            -> b: start job-000000.2 of 2: 1@[0]
        "#]],
    );
    let job = &w.machine.ledger().jobs[&id("job")];
    let first = job.attempts[0].over.as_ref().unwrap();
    assert_eq!(
        format!("{}; {}", first.failure.message, first.decision),
        "rank 1 on worker `b` was killed by signal 9 (SIGKILL); restarts at once: infrastructure \
         failure 1 of 20 within 24 hours"
    );
    assert_eq!(first.failure.last_lines, ["last line of 1"]);
    let told = format!("{}: {}", first.failure.message, first.decision);
    assert!(job.decisions.iter().any(|decision| decision.text == told), "{:?}", job.decisions);
    assert_eq!(job.attempts[1].reason, "2 ranks: a (0), b (1); continues step-00000040");
    w.train("job");
    w.end("job", 0, TrainerEnd::Finished);
    w.end("job", 1, TrainerEnd::Finished);
    assert_eq!(w.state("job"), JobState::Succeeded);
    assert_eq!(w.machine.ledger().jobs[&id("job")].failure, None);
}

#[test]
fn a_job_without_its_worker_is_restarting_until_there_is_room_and_a_spare_is_used_at_once() {
    let mut w = training();
    w.drop_stream("b");
    w.end("job", 0, failed(FailureKind::Communication, "rank 1 vanished"));
    w.live_on(Duration::from_secs(6));
    assert_eq!(w.state("job"), JobState::Restarting);
    assert_eq!(
        w.reason("job"),
        "rank 1 on worker `b` was lost: worker `b` gave no sign of life for 5.0 s; restarts at \
         once: infrastructure failure 1 of 20 within 24 hours; needs 2 ranks of 1 slot; the cluster \
         has 1 slot on 1 worker, room for 1 such rank"
    );
    w.join("c", 1);
    assert_eq!(w.state("job"), JobState::Starting);
    assert_eq!(w.places("job"), ["a", "c"]);
}

#[test]
fn the_next_attempt_waits_for_a_trainer_that_is_not_known_to_be_dead() {
    let mut w = training();
    w.join("c", 2);
    w.end("job", 1, KILLED);
    // Worker a is alive and never confirms; there is room elsewhere.
    w.live_on(Duration::from_secs(13));
    assert_eq!(w.state("job"), JobState::Restarting, "A6");
    let reason = w.reason("job");
    let waits = "worker `a` has not confirmed that its trainers of the last attempt are dead";
    assert!(reason.ends_with(waits), "{reason}");
    let waiting = w.status("job").waiting.unwrap();
    assert_eq!(waiting.reason, WaitReason::Stragglers { worker: "a".to_owned() });
    let mut report = w.report("job", 0, TrainerEnd::Stopped);
    report.key.generation = Generation(1);
    w.say("a", WorkerMessage::Ended(report));
    assert_eq!(w.state("job"), JobState::Starting);
}

#[test]
fn a_wait_is_kept_over_the_coordinators_restart_and_a_cancel_ends_it() {
    let mut w = training();
    for _ in 0..2 {
        w.end("job", 1, KILLED);
        w.end("job", 0, TrainerEnd::Stopped);
        if w.state("job") == JobState::Starting {
            w.train("job");
        }
    }
    assert_eq!((w.state("job"), attempts(&w)), (JobState::Restarting, 2));
    w.restart();
    w.join("a", 1);
    w.join("b", 1);
    assert_eq!(w.state("job"), JobState::Restarting, "its wait is not over");
    let waiting = w.status("job").waiting.unwrap();
    let until = w.machine.ledger().jobs[&id("job")].restart_at;
    assert_eq!((waiting.reason, waiting.earliest_start), (WaitReason::Backoff, until));
    assert!(w.reason("job").ends_with("; its wait is not over"), "{}", w.reason("job"));
    w.take();
    w.live_on(Duration::from_secs(1));
    assert_eq!((w.state("job"), attempts(&w)), (JobState::Starting, 3));
    w.train("job");
    w.end("job", 0, failed(FailureKind::Engine, "oops"));
    w.end("job", 1, TrainerEnd::Stopped);
    // Its third attempt without a checkpoint.
    assert_eq!(w.state("job"), JobState::Failed);
    assert!(w.reason("job").ends_with("without a newer checkpoint"), "{}", w.reason("job"));

    let mut w = training();
    w.drop_stream("b");
    w.live_on(Duration::from_secs(6));
    w.end("job", 0, TrainerEnd::Stopped);
    w.cancel("job", CancelMode::Save);
    assert_eq!(w.state("job"), JobState::Cancelled);
    assert_eq!(w.reason("job"), "cancelled while it waited to restart");
    let first = &w.machine.ledger().jobs[&id("job")].attempts[0];
    assert_eq!(first.state, JobState::Failed, "what happened to the attempt stays");
}

#[test]
fn a_cancelled_job_is_never_restarted() {
    let mut w = training();
    w.cancel("job", CancelMode::Save);
    w.end("job", 1, KILLED);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Cancelled);
}

#[test]
fn bad_configuration_data_and_numbers_are_never_retried() {
    for kind in [FailureKind::Configuration, FailureKind::Data, FailureKind::NotFinite] {
        let mut w = training();
        w.end("job", 1, failed(kind, "no"));
        w.end("job", 0, TrainerEnd::Stopped);
        assert_eq!(w.state("job"), JobState::Failed, "{kind:?}");
        let over = w.machine.ledger().jobs[&id("job")].attempts[0].over.clone().unwrap();
        assert!(over.decision.starts_with("not restarted: "), "{}", over.decision);
    }
}

#[test]
fn too_little_memory_is_retried_until_it_ends_so_twice_at_one_step() {
    let mut w = training();
    let full = || failed(FailureKind::OutOfMemory, "killed (SIGKILL), it seems for lack of memory");
    w.end("job", 1, full());
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Starting);
    w.train("job");
    w.end("job", 1, full());
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    let stop = "not restarted: it ended twice in the same way (too little memory) at step 7";
    assert!(w.reason("job").ends_with(stop), "{}", w.reason("job"));
}

#[test]
fn an_attempt_without_a_step_of_its_own_has_none() {
    let mut w = training();
    w.progress("job", 5000, 10.0);
    let oops = |step| TrainerEnd::Failed {
        failure: TrainerFailure { kind: FailureKind::Engine, step, message: "oops".to_owned() },
    };
    w.end("job", 1, oops(Some(5000)));
    w.end("job", 0, TrainerEnd::Stopped);
    w.train("job");
    // Before its first step: that is another place.
    w.end("job", 1, oops(None));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Restarting, "{}", w.reason("job"));
    let attempts = w.status("job").attempts;
    let steps = attempts.iter().map(|attempt| attempt.last_step);
    assert_eq!(steps.collect::<Vec<_>>(), [Some(5000), None]);
}

#[test]
fn a_budget_larger_than_the_list_of_attempts_is_spent_too() {
    let mut w = World::new(&[("a", 1)]);
    let mut job = restarting("job", Some(1));
    job.restart.infrastructure = 100;
    w.submit(job);
    let mut tries = 0;
    while !w.state("job").is_final() {
        tries += 1;
        assert!(tries <= 101, "it is tried for ever");
        // It cannot even start, so nothing but this budget bounds it.
        w.end("job", 0, failed(FailureKind::Start, "no"));
        w.live_on(Duration::from_secs(61));
    }
    assert_eq!(tries, 101);
    let spent = "the budget of 100 restarts after infrastructure failures within 24 hours is spent";
    assert!(w.reason("job").ends_with(spent), "{}", w.reason("job"));
    assert_eq!(attempts(&w), 64);
}

#[test]
fn preemptions_do_not_hide_the_errors_before_them() {
    let mut w = World::new(&[("a", 1)]);
    let mut job = restarting("job", Some(1));
    job.restart.without_progress = 300;
    w.submit(job);
    let fail = |w: &mut World, code| {
        w.train("job");
        w.end("job", 0, TrainerEnd::Exited { code });
        // Its backoff is a minute at the most.
        for _ in 0..130 {
            if w.state("job") == JobState::Restarting {
                w.live_on(Duration::from_millis(500));
            }
        }
    };
    (1..=3).for_each(|code| fail(&mut w, code));
    for _ in 0..70 {
        w.train("job");
        let withdrawal =
            Withdrawal { reason: "SIGTERM".to_owned(), grace: Duration::from_secs(30) };
        w.say("a", WorkerMessage::Withdrawing(withdrawal));
        w.end("job", 0, TrainerEnd::Stopped);
        w.join("a", 1);
        assert_eq!(w.state("job"), JobState::Starting, "{}", w.reason("job"));
    }
    fail(&mut w, 4);
    let spent = "the budget of 3 restarts after application failures is spent";
    assert!(w.reason("job").ends_with(spent), "{}", w.reason("job"));
}

#[test]
fn a_worker_that_is_told_to_leave_costs_no_budget() {
    let mut w = training();
    w.join("c", 1);
    let grace = Duration::from_secs(30);
    let withdrawal = Withdrawal { reason: "SIGTERM".to_owned(), grace };
    w.say("b", WorkerMessage::Withdrawing(withdrawal));
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Starting);
    assert_eq!(w.places("job"), ["a", "c"]);
    let over = w.machine.ledger().jobs[&id("job")].attempts[0].over.clone().unwrap();
    assert_eq!(over.decision, "restarts at once: a preemption costs no budget");
}

#[test]
fn a_job_that_waits_lets_others_run_and_keeps_its_place() {
    let mut w = World::new(&[("a", 1)]);
    let slow = Restart { backoff: Duration::from_secs(30), ..Restart::DEFAULT };
    let mut job = restarting("job", Some(1));
    job.restart = slow;
    w.submit(job);
    for _ in 0..2 {
        w.train("job");
        w.end("job", 0, KILLED);
    }
    assert_eq!(w.state("job"), JobState::Restarting);
    w.submit(restarting("other", Some(1)));
    assert_eq!(w.state("other"), JobState::Starting);
    w.submit(restarting("third", Some(1)));
    w.train("other");
    w.live_on(Duration::from_secs(31));
    assert_eq!(w.state("job"), JobState::Restarting);
    w.end("other", 0, TrainerEnd::Finished);
    assert_eq!((w.state("job"), w.state("third")), (JobState::Starting, JobState::Queued));
}

#[test]
fn a_job_that_has_rested_says_what_it_waits_for_now() {
    let mut w = World::new(&[("a", 2)]);
    let mut job = restarting("job", Some(1));
    job.restart.backoff = Duration::from_secs(30);
    w.submit(job);
    for _ in 0..2 {
        w.train("job");
        w.end("job", 0, KILLED);
    }
    w.submit(restarting("running", Some(2)));
    w.train("running");
    let mut first = restarting("first", Some(2));
    first.job.priority = 5;
    w.submit(first);
    assert!(w.reason("job").ends_with("; its wait is not over"), "{}", w.reason("job"));
    w.live_on(Duration::from_secs(31));
    let waits = "; behind job `first-000000`, which has its turn";
    assert!(w.reason("job").ends_with(waits), "{}", w.reason("job"));
}

/// A job of one rank that trains on `a` and is killed there.
fn killed_on_a(w: &mut World, name: &str) {
    w.submit(restarting(name, Some(1)));
    assert_eq!(w.places(name), ["a"]);
    w.train(name);
    w.end(name, 0, KILLED);
}

#[test]
fn an_attempt_does_not_go_back_to_the_worker_that_broke_it_off() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    killed_on_a(&mut w, "job");
    assert_eq!(w.places("job"), ["b"]);
    assert_eq!(state_of(&w, "a"), "ready", "once is no habit");
    // Where there is no other, it does.
    let mut w = World::new(&[("a", 1)]);
    killed_on_a(&mut w, "job");
    assert_eq!((w.places("job"), w.state("job")), (vec!["a".to_owned()], JobState::Starting));
}

#[test]
fn a_job_of_any_number_of_ranks_does_not_lose_half_of_them_to_one_fault() {
    let mut w = World::new(&[("a", 2), ("b", 2)]);
    w.submit(restarting("job", None));
    w.train("job");
    w.end("job", 0, KILLED);
    (1..4).for_each(|rank| w.end("job", rank, TrainerEnd::Stopped));
    assert_eq!(w.places("job"), ["a", "a", "b", "b"]);
}

#[test]
fn a_worker_at_whose_fault_two_jobs_broke_off_is_used_only_where_nothing_else_would_do() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    killed_on_a(&mut w, "job");
    w.train("job");
    w.end("job", 0, TrainerEnd::Finished);
    killed_on_a(&mut w, "second");
    assert_eq!(state_of(&w, "a"), "excluded");
    // Also after a restart of the coordinator and of the worker.
    w.restart();
    w.new_life("a");
    w.join("a", 1);
    w.join("b", 1);
    assert_eq!(state_of(&w, "a"), "excluded");
    w.submit(restarting("third", Some(1)));
    assert_eq!(w.state("third"), JobState::Queued, "it waits for b rather than go to a");
    w.submit(restarting("wide", Some(2)));
    w.cancel("third", CancelMode::Now);
    let report = w.report("second", 0, TrainerEnd::Finished);
    w.say("b", WorkerMessage::Ended(report));
    assert_eq!(w.places("wide"), ["a", "b"], "nothing else would do");
    w.end("wide", 0, TrainerEnd::Finished);
    w.end("wide", 1, TrainerEnd::Finished);
    w.pass(Duration::from_secs(24 * 60 * 60));
    w.join("a", 1);
    assert_eq!(state_of(&w, "a"), "ready");
}

#[test]
fn a_job_that_fails_everywhere_excludes_nobody() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(1)));
    // It makes progress in between, so its budget is that for the infrastructure.
    for step in 1..=8 {
        w.train("job");
        w.commit("job", 10 * step);
        w.end("job", 0, KILLED);
        assert_eq!(w.state("job"), JobState::Starting, "{}", w.reason("job"));
    }
    assert_eq!((state_of(&w, "a"), state_of(&w, "b")), ("ready".to_owned(), "ready".to_owned()));
}

#[test]
fn the_end_of_an_exclusion_is_noticed() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    killed_on_a(&mut w, "job");
    w.train("job");
    w.end("job", 0, TrainerEnd::Finished);
    killed_on_a(&mut w, "second");
    w.train("second");
    w.submit(restarting("third", Some(1)));
    let day = Duration::from_secs(24 * 60 * 60);
    for (past, state) in [(day / 2, "excluded"), (day / 2 + Duration::from_secs(1), "ready")] {
        // Workers give signs of life all the while.
        let end = w.now + past;
        while w.now < end {
            w.now = end.min(w.now + Duration::from_secs(4));
            for worker in ["a", "b"] {
                w.say(worker, WorkerMessage::Heartbeat);
            }
            w.step(Event::Tick);
        }
        assert_eq!(state_of(&w, "a"), state);
    }
    assert_eq!(w.places("third"), ["a"]);
}

#[test]
fn a_checkpoint_that_is_reported_late_moves_the_job_that_waits() {
    let mut w = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
    w.submit(restarting("other", Some(1)));
    w.submit(restarting("job", Some(2)));
    assert_eq!(w.places("job"), ["b", "c"]);
    w.train("job");
    w.end("job", 0, failed(FailureKind::Engine, "oops"));
    w.drop_stream("c");
    w.live_on(Duration::from_secs(6));
    assert_eq!(w.state("job"), JobState::Restarting, "one slot is idle");
    w.commit_on("job", 40, Some("c"));
    w.new_life("c");
    w.join("c", 1);
    assert_eq!(w.places("job"), ["c", "b"], "rank 0 is where the checkpoint lies");
}

#[test]
fn an_excluded_worker_can_be_allowed_again() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    for job in ["first", "second"] {
        w.submit(restarting(job, Some(1)));
        w.train(job);
        w.end(job, 0, KILLED);
        w.train(job);
        w.end(job, 0, TrainerEnd::Finished);
    }
    assert_eq!(state_of(&w, "a"), "excluded");
    w.take();
    w.drain("a", DrainOrder::Allow);
    assert_eq!(w.take(), "persist allowed(a)\nanswer Drained(Some(\"ready\"))\n");
    w.submit(restarting("third", Some(1)));
    assert_eq!(w.places("third"), ["a"]);
    // There is nothing left to forgive.
    w.drain("a", DrainOrder::Allow);
    assert_eq!(w.take().lines().filter(|line| line.contains("allowed")).count(), 0);
    w.restart();
    w.join("a", 1);
    assert_eq!(state_of(&w, "a"), "ready");
}

#[test]
fn an_attempt_continues_where_its_checkpoint_lies() {
    let mut w = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
    w.submit(restarting("other", Some(1)));
    w.submit(restarting("job", Some(2)));
    assert_eq!(w.places("job"), ["b", "c"]);
    w.train("job");
    w.commit_on("job", 40, Some("c"));
    w.train("other");
    w.end("other", 0, TrainerEnd::Finished);
    w.end("job", 0, failed(FailureKind::Engine, "oops"));
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.places("job")[0], "c");
    let attempt = |w: &World| w.machine.ledger().jobs[&id("job")].attempt().unwrap().reason.clone();
    assert_eq!(attempt(&w), "2 ranks: c (0), a (1); continues step-00000040");
    w.train("job");
    w.drop_stream("c");
    w.end("job", 1, failed(FailureKind::Communication, "rank 0 vanished"));
    w.live_on(Duration::from_secs(7));
    assert_eq!(
        attempt(&w),
        "2 ranks: a (0), b (1); continues step-00000040 if it can read that: worker `c` has it and is \
         not here"
    );
}
