use std::time::Duration;

use expect_test::{Expect, expect};

use common::position::{Operation, Phase, Position};
use common::status::{Failure, FailureKind, JobState, TrainerEnd};

use super::world::{World, check, id, key, spec};
use crate::coordinator::{RankPosition, WorkerMessage};

/// So many ranks on a worker each, training, with a known pace.
fn training(ranks: u32) -> World {
    let names = ["a", "b", "c"];
    let workers: Vec<(&str, u32)> =
        names.into_iter().take(ranks as usize).map(|name| (name, 1)).collect();
    let mut w = World::new(&workers);
    w.submit(spec("job", Some(ranks)));
    w.train("job");
    w.take();
    w
}

/// In a collective of the training's channel.
fn inside(step: u64, sequence: u64) -> Position {
    operating(step, (0, sequence), true)
}

/// Past a collective, in data.
fn after(step: u64, sequence: u64) -> Position {
    Position { phase: Phase::Data, ..operating(step, (0, sequence), false) }
}

fn operating(step: u64, (channel, sequence): (u32, u64), is_inside: bool) -> Position {
    let name = "all_reduce of 400 bytes".to_owned();
    Position {
        step,
        phase: Phase::Reduce,
        beat: step,
        slow_step: Duration::from_millis(200),
        operations: vec![Operation { channel, sequence, name, is_inside }],
        ..Position::default()
    }
}

/// Everybody tells where it is, once a second.
fn tell(w: &mut World, seconds: u64, positions: &[Position]) {
    for _ in 0..seconds {
        for (rank, position) in (0..).zip(positions) {
            bring(w, rank, position, Duration::ZERO);
        }
        w.live_on(Duration::from_secs(1));
    }
}

fn bring(w: &mut World, rank: u32, position: &Position, age: Duration) {
    let worker = w.places("job")[rank as usize].clone();
    let key = key("job", w.generation("job"), rank);
    let told = RankPosition { key, position: position.clone(), age };
    w.say(&worker, WorkerMessage::Positions(vec![told]));
}

fn show(w: &mut World, rank: u32) {
    let worker = w.places("job")[rank as usize].clone();
    let key = key("job", w.generation("job"), rank);
    let lines = vec!["thread `training`:".to_owned(), "  engine::data::fetch".to_owned()];
    w.say(&worker, WorkerMessage::Stacks { key, lines });
}

/// Ends the ranks as a stop ends them; the failure that remains.
fn failure(w: &mut World) -> Failure {
    for rank in 0..w.places("job").len() as u32 {
        w.end("job", rank, TrainerEnd::Stopped);
    }
    assert_eq!(w.state("job"), JobState::Failed);
    w.machine.ledger().jobs[&id("job")].failure.clone().unwrap()
}

/// What is said of ranks that stand still like this.
fn verdict(positions: &[Position], expect: &Expect) {
    let mut w = training(positions.len() as u32);
    tell(&mut w, 40, positions);
    let failure = failure(&mut w);
    assert_eq!(failure.kind, Some(FailureKind::Hang));
    expect.assert_eq(&failure.message);
}

#[test]
fn the_rank_that_the_others_wait_for_is_named_with_its_stack() {
    let mut w = training(2);
    tell(&mut w, 29, &[inside(5, 10), after(5, 9)]);
    assert!(!w.take().contains("show stacks"), "30 s are not over");
    tell(&mut w, 2, &[inside(5, 10), after(5, 9)]);
    check(
        &w.take(),
        &expect![[r#"
            -> b: show stacks of job-000000: 1
        "#]],
    );
    show(&mut w, 1);
    check(
        &w.take(),
        &expect![[r#"
            persist stop-decided
            -> a: stop job-000000.1 at once: no progress for 30 s: rank 1 on worker `b` is at step 5 (data), after operation 9, and 1 other rank waits for it in operation 10 (all_reduce of 400 bytes) of channel 0
            -> b: stop job-000000.1 at once: no progress for 30 s: rank 1 on worker `b` is at step 5 (data), after operation 9, and 1 other rank waits for it in operation 10 (all_reduce of 400 bytes) of channel 0
        "#]],
    );
    let failure = failure(&mut w);
    assert_eq!((failure.rank.unwrap().0, failure.worker.as_deref()), (1, Some("b")));
    let lines = ["rank 1: thread `training`:", "rank 1:   engine::data::fetch"];
    assert_eq!(failure.last_lines, lines);
}

#[test]
fn a_sum_between_gpus_tells_who_did_not_come_to_it() {
    let far = operating(5, (2, 7), true);
    let stuck = Position { phase: Phase::Forward, ..operating(5, (2, 6), false) };
    verdict(
        &[far.clone(), stuck, far],
        &expect![
            "no progress for 30 s: rank 1 on worker `b` is at step 5 (forward), after operation 6, and 2 other ranks wait for it in operation 7 (all_reduce of 400 bytes) of channel 2"
        ],
    );
}

#[test]
fn a_stack_that_does_not_come_holds_nobody_up() {
    let mut w = training(2);
    tell(&mut w, 36, &[inside(5, 10), after(5, 9)]);
    let lines = failure(&mut w).last_lines;
    assert_eq!(lines, ["rank 1: no stack: its worker did not tell within 5s"]);
}

#[test]
fn stacks_that_come_after_a_sleep_of_the_coordinator_count() {
    let mut w = training(2);
    tell(&mut w, 31, &[inside(5, 10), after(5, 9)]);
    w.pass(Duration::from_secs(60));
    w.step(crate::coordinator::Event::Tick);
    show(&mut w, 1);
    let lines = failure(&mut w).last_lines;
    assert_eq!(lines[0], "rank 1: thread `training`:");
}

#[test]
fn a_sleep_of_the_coordinator_is_no_standstill() {
    let mut w = training(1);
    tell(&mut w, 20, &[after(5, 9)]);
    w.pass(Duration::from_secs(60));
    w.step(crate::coordinator::Event::Tick);
    w.take();
    // The same again, as it was sent before the sleep.
    tell(&mut w, 8, &[after(5, 9)]);
    assert!(!w.take().contains("show stacks"));
    tell(&mut w, 4, &[after(5, 9)]);
    assert!(w.take().contains("show stacks"), "one that hangs is still found");
}

#[test]
fn what_hangs_is_told_from_where_the_ranks_are() {
    // One is inside an operation that the others have left: it was stopped there.
    verdict(
        &[inside(5, 10), inside(5, 9)],
        &expect![
            "no progress for 30 s: rank 1 on worker `b` is at step 5 (reduce), inside operation 9 (all_reduce of 400 bytes), and 1 other rank waits for it in operation 10 (all_reduce of 400 bytes) of channel 0"
        ],
    );
    // Two went past the one that reads.
    verdict(
        &[inside(5, 10), after(5, 9), inside(5, 10)],
        &expect![
            "no progress for 30 s: rank 1 on worker `b` is at step 5 (data), after operation 9, and 2 other ranks wait for it in operation 10 (all_reduce of 400 bytes) of channel 0"
        ],
    );
    // One is in another operation of the same number.
    let mut other = inside(5, 10);
    other.operations[0].name = "barrier of 0 bytes".to_owned();
    verdict(
        &[inside(5, 10), other, inside(5, 10)],
        &expect![
            "no progress for 30 s: rank 1 on worker `b` is at step 5 (reduce), inside operation 10 (barrier of 0 bytes), and 2 others in operation 10 (all_reduce of 400 bytes) of channel 0"
        ],
    );
    // All wait for bytes that do not come.
    verdict(
        &[inside(5, 10), inside(5, 10)],
        &expect![
            "no progress for 30 s: every rank waits in operation 10 (all_reduce of 400 bytes) of channel 0: it is what lies between them, not one of them"
        ],
    );
    // Nobody waits for anybody.
    verdict(
        &[after(5, 9)],
        &expect![
            "no progress for 30 s: rank 0 on worker `a` is at step 5 (data), after operation 9"
        ],
    );
}

#[test]
fn a_rank_that_was_stopped_in_the_same_operation_is_known_by_its_silence() {
    let mut w = training(2);
    for second in 0..36 {
        bring(&mut w, 0, &inside(5, 10), Duration::ZERO);
        bring(&mut w, 1, &inside(5, 10), Duration::from_secs(second));
        w.live_on(Duration::from_secs(1));
    }
    assert_eq!(failure(&mut w).rank.unwrap().0, 1);
}

#[test]
fn whatever_gets_done_is_progress() {
    let mut w = training(2);
    for beat in 0..100 {
        let validating = Position { beat, phase: Phase::Validate, ..after(5, 9) };
        tell(&mut w, 1, &[validating, inside(5, 10)]);
    }
    assert_eq!(w.take(), "");
}

#[test]
fn slow_steps_have_three_times_their_length() {
    let mut w = training(1);
    let slow = Position { slow_step: Duration::from_secs(60), ..after(5, 9) };
    tell(&mut w, 179, std::slice::from_ref(&slow));
    assert_eq!(w.take(), "");
    tell(&mut w, 3, &[slow]);
    assert!(w.take().contains("show stacks"));
}

#[test]
fn before_the_first_step_and_in_a_save_there_is_more_patience() {
    for phase in [Phase::Prepare, Phase::Save] {
        let mut w = training(1);
        let slow = Position { phase, slow_step: Duration::ZERO, ..after(0, 9) };
        tell(&mut w, 299, std::slice::from_ref(&slow));
        assert_eq!(w.take(), "");
        tell(&mut w, 3, &[slow]);
        assert!(w.take().contains("show stacks"));
    }
}

#[test]
fn beside_a_silent_rank_nothing_excuses_anybody() {
    let preparing = Position { phase: Phase::Prepare, ..Position::default() };
    let saving = Position { phase: Phase::Save, ..operating(5, (1, 3), true) };
    for (first, second) in [(inside(5, 10), preparing), (saving.clone(), saving)] {
        let mut w = training(2);
        for age in 0..40 {
            bring(&mut w, 0, &first, Duration::ZERO);
            bring(&mut w, 1, &second, Duration::from_secs(age));
            w.live_on(Duration::from_secs(1));
        }
        assert_eq!(failure(&mut w).rank.unwrap().0, 1);
    }
}

#[test]
fn a_rank_that_goes_on_while_its_stack_is_awaited_was_no_hang() {
    let mut w = training(2);
    tell(&mut w, 31, &[inside(5, 10), after(5, 9)]);
    assert!(w.take().contains("show stacks"));
    tell(&mut w, 1, &[inside(6, 11), inside(6, 11)]);
    show(&mut w, 1);
    tell(&mut w, 10, &[inside(6, 11), inside(6, 11)]);
    assert_eq!(w.take(), "");
}

#[test]
fn ranks_that_are_out_of_reach_are_not_judged() {
    let mut w = training(2);
    tell(&mut w, 10, &[inside(5, 10), after(5, 9)]);
    for _ in 0..60 {
        bring(&mut w, 0, &inside(5, 10), Duration::ZERO);
        w.live_on(Duration::from_secs(1));
    }
    assert_eq!(w.take(), "", "the worker of rank 1 says nothing of it");
}

#[test]
fn a_position_from_elsewhere_or_of_another_generation_changes_nothing() {
    let mut w = training(2);
    tell(&mut w, 20, &[inside(5, 10), after(5, 9)]);
    for (worker, generation, rank) in [("a", 1, 1), ("b", 0, 1), ("b", 2, 1)] {
        let key = key("job", generation, rank);
        let told = RankPosition { key, position: after(9, 90), age: Duration::ZERO };
        w.say(worker, WorkerMessage::Positions(vec![told]));
    }
    tell(&mut w, 11, &[inside(5, 10), after(5, 9)]);
    assert!(w.take().contains("-> b: show stacks"), "A4");
}
