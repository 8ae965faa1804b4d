//! The decision alone, as a table: policy and history in, action and reason out.

use std::time::Duration;

use common::spec::Restart;

use crate::coordinator::past::Past;
use crate::coordinator::restart::Class::{
    self, Application, Growth, Hopeless, Infrastructure, Preemption,
};
use crate::coordinator::restart::{Action, decide};

const HOUR: u64 = 60 * 60 * 1000;

/// An attempt that trained and broke off at `step`, with a checkpoint of `saved` behind it.
fn past(class: Class, step: u64, saved: u64) -> Past<'static> {
    let signature = match class {
        Application => "exit code 3",
        Infrastructure => "signal 9",
        Preemption => "preempted",
        Growth => "grown",
        Hopeless => "a number that is not finite",
    };
    Past {
        class,
        signature,
        step: Some(step),
        saved_step: saved,
        resumed: None,
        has_trained: true,
        ended_at: 1000 * HOUR,
    }
}

/// What is decided with the usual budgets; chance takes nothing off a wait.
fn check(history: &[Past<'_>], reason: &str) {
    assert_eq!(decide(&Restart::DEFAULT, history, 0.0).reason, reason);
}

#[test]
fn a_first_fault_restarts_at_once() {
    check(
        &[past(Infrastructure, 7, 0)],
        "restarts at once: infrastructure failure 1 of 20 within 24 hours",
    );
    check(&[past(Application, 7, 0)], "restarts at once: application failure 1 of 3");
    check(&[past(Preemption, 7, 7)], "restarts at once: a preemption costs no budget");
    check(&[past(Growth, 7, 7)], "restarts at once: more ranks cost no budget");
}

#[test]
fn what_would_only_repeat_itself_is_not_tried_again() {
    let decision = decide(&Restart::DEFAULT, &[past(Hopeless, 7, 40)], 0.0);
    assert_eq!(decision.action, Action::Stop { is_news: false });
    assert_eq!(
        decision.reason,
        "not restarted: a number that is not finite would only repeat itself"
    );
}

#[test]
fn two_equal_errors_at_one_step_stop_and_unequal_ones_do_not() {
    let (first, second) = (past(Application, 50, 40), past(Application, 50, 40));
    check(
        &[first, second],
        "not restarted: it ended twice in the same way (exit code 3) at step 50",
    );
    check(
        &[first, Past { step: Some(51), ..second }],
        "restarts at once: application failure 2 of 3",
    );
    check(
        &[first, Past { signature: "exit code 4", ..second }],
        "restarts at once: application failure 2 of 3",
    );
    let unstarted = Past { step: None, has_trained: false, ..past(Application, 0, 0) };
    check(
        &[unstarted, unstarted],
        "not restarted: it ended twice in the same way (exit code 3) before its first step",
    );
    // A killed trainer is not its own doing.
    let killed = past(Infrastructure, 50, 40);
    check(&[killed, killed], "restarts at once: infrastructure failure 2 of 20 within 24 hours");
    // A preemption between them hides nothing.
    check(
        &[first, past(Preemption, 45, 40), second],
        "not restarted: it ended twice in the same way (exit code 3) at step 50",
    );
}

#[test]
fn three_attempts_without_a_newer_checkpoint_stop() {
    let faults =
        [past(Infrastructure, 7, 0), past(Infrastructure, 8, 0), past(Infrastructure, 9, 0)];
    check(&faults[..2], "restarts in 1.0 s: infrastructure failure 2 of 20 within 24 hours");
    check(&faults, "not restarted: 3 attempts in a row without a newer checkpoint");
    let mut saved = faults;
    saved[1].saved_step = 5;
    saved[2].saved_step = 5;
    check(&saved, "restarts at once: infrastructure failure 3 of 20 within 24 hours");
    // Preemptions are not the job's fault.
    let evicted = [faults[0], past(Preemption, 7, 0), past(Preemption, 7, 0), faults[1]];
    check(&evicted, "restarts in 1.0 s: infrastructure failure 2 of 20 within 24 hours");
}

#[test]
fn starts_that_fail_wait_longer_and_longer_until_their_budget_is_spent() {
    let unstarted = Past { step: None, has_trained: false, ..past(Infrastructure, 0, 0) };
    let waits: Vec<u64> = (1..=20)
        .map(|tries| match decide(&Restart::DEFAULT, &vec![unstarted; tries], 0.0).action {
            Action::Restart(wait) => wait.as_secs(),
            Action::Stop { .. } => panic!("stopped after {tries}"),
        })
        .collect();
    assert_eq!(waits[..9], [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(waits[19], 60);
    check(
        &vec![unstarted; 21],
        "not restarted: the budget of 20 restarts after infrastructure failures within 24 hours is \
         spent",
    );
    let yesterday = Past { ended_at: unstarted.ended_at - 25 * HOUR, ..unstarted };
    let mut history = vec![yesterday; 20];
    history.push(unstarted);
    let decision = decide(&Restart::DEFAULT, &history, 0.0);
    assert_eq!(decision.action, Action::Restart(Duration::from_secs(60)), "{}", decision.reason);
}

#[test]
fn chance_takes_up_to_half_off_a_wait() {
    let history = [past(Infrastructure, 7, 0), past(Infrastructure, 8, 0)];
    let wait = |chance| decide(&Restart::DEFAULT, &history, chance).action;
    assert_eq!(wait(1.0), Action::Restart(Duration::from_millis(500)));
    assert_eq!(wait(0.0), Action::Restart(Duration::from_secs(1)));
}

#[test]
fn steps_that_made_it_into_checkpoints_refill_the_budgets() {
    let mut history: Vec<Past<'_>> =
        (1..=4).map(|n| past(Application, 100 * n + 7, 100 * n)).collect();
    check(&history, "not restarted: the budget of 3 restarts after application failures is spent");
    // 500 steps after the second one.
    history[3].saved_step = 700;
    check(&history, "restarts at once: application failure 2 of 3");
}

#[test]
fn a_job_may_bound_its_preemptions_and_want_no_restarts() {
    let policy = Restart { preemption: Some(1), ..Restart::DEFAULT };
    let evicted = [past(Preemption, 7, 7), past(Preemption, 9, 9)];
    assert_eq!(decide(&policy, &evicted[..1], 0.0).action, Action::Restart(Duration::ZERO));
    assert_eq!(
        decide(&policy, &evicted, 0.0).reason,
        "not restarted: the budget of 1 restarts after preemptions is spent"
    );
    for class in [Application, Infrastructure, Preemption] {
        let decision = decide(&Restart::NEVER, &[past(class, 7, 7)], 0.0);
        assert_eq!(decision.action, Action::Stop { is_news: false }, "{}", decision.reason);
    }
}
