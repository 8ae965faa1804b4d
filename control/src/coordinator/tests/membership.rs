use std::time::Duration;

use expect_test::expect;

use common::ids::{Incarnation, WorkerId};
use common::status::{JobState, TrainerEnd};

use super::world::{World, check, key, spec, state_of, uuid_of};
use crate::coordinator::{CancelMode, RunningTrainer, WorkerMessage};

#[test]
fn a_newer_life_supersedes_at_once_and_its_old_trainers_are_dead() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.take();
    w.new_life("a");
    w.join("a", 1);
    check(
        &w.take(),
        &expect![[r#"
            persist worker(a) ended(0) job-ended(failed: rank 0 on worker `a` was lost: its worker was restarted, and trainers die with it)
            disconnect: a newer stream of this worker has replaced it
            -> a: welcome
        "#]],
    );
    w.submit(spec("next", Some(1)));
    assert_eq!(w.state("next"), JobState::Starting);
}

#[test]
fn an_older_life_is_refused_for_good() {
    let mut w = World::new(&[]);
    w.new_life("a");
    w.join("a", 1);
    w.take();
    let mut old = w.hello("a", 1);
    old.id.incarnation = Incarnation(1);
    w.send_hello(old);
    check(
        &w.take(),
        &expect![[r#"
            -> a: refused (for good): a newer life of this worker has joined (incarnation 2, this is 1)
        "#]],
    );
}

#[test]
fn another_worker_under_a_live_name_is_refused_once_the_holder_has_answered() {
    let mut w = World::new(&[("a", 1)]);
    let mut thief = w.hello("a", 1);
    thief.id = WorkerId { uuid: uuid_of("thief"), incarnation: Incarnation(1) };
    let holder = w.connection("a");
    w.send_hello(thief.clone());
    assert!(w.take().contains("refused (come back): the name `a` is taken; asking its holder"));
    w.pass(Duration::from_millis(100));
    w.step(crate::coordinator::Event::Worker {
        connection: holder,
        message: WorkerMessage::Heartbeat,
    });
    w.send_hello(thief);
    let log = w.take();
    assert!(log.contains("refused (for good)") && log.contains("--name"), "{log}");
}

#[test]
fn a_name_whose_holder_is_silent_is_free_when_its_lease_ends() {
    let mut w = World::new(&[("a", 1)]);
    w.drop_stream("a");
    let mut heir = w.hello("a", 1);
    heir.id = WorkerId { uuid: uuid_of("heir"), incarnation: Incarnation(1) };
    w.send_hello(heir.clone());
    assert!(w.take().contains("refused (come back)"));
    w.tick_after(Duration::from_secs(5));
    w.send_hello(heir);
    assert!(w.take().contains("-> a: welcome"));
}

#[test]
fn leases_are_longer_where_all_heartbeats_would_be_too_many() {
    let mut w = World::new(&[]);
    let names: Vec<String> = (1..=200).map(|number| format!("w{number}")).collect();
    for name in &names {
        w.join(name, 1);
    }
    w.take();
    w.tick_after(Duration::from_secs(5));
    assert_eq!(state_of(&w, "w100"), "lost", "five heartbeats each: a hundred a second");
    assert_eq!(state_of(&w, "w200"), "ready");
    w.tick_after(Duration::from_secs(5));
    assert_eq!(state_of(&w, "w200"), "lost");
    // It is one of few again.
    w.join("w200", 1);
    w.tick_after(Duration::from_secs(5));
    assert_eq!(state_of(&w, "w200"), "lost");
}

#[test]
fn a_message_from_a_replaced_stream_changes_nothing() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    let old = w.connection("a");
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    w.take();
    let report = w.report("job", 0, TrainerEnd::Finished);
    let message = WorkerMessage::Ended(report);
    w.step(crate::coordinator::Event::Worker { connection: old, message });
    w.step(crate::coordinator::Event::Dropped { connection: old });
    assert_eq!(w.take(), "");
    assert_eq!(state_of(&w, "a"), "ready");
}

#[test]
fn a_stream_that_drops_and_comes_back_within_the_lease_loses_nothing() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.drop_stream("a");
    assert_eq!(state_of(&w, "a"), "disconnected");
    w.tick_after(Duration::from_secs(4));
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    w.live_on(Duration::from_secs(10));
    assert_eq!(w.state("job"), JobState::Running);
    w.end("job", 0, TrainerEnd::Finished);
    assert_eq!(w.state("job"), JobState::Succeeded);
}

#[test]
fn an_order_that_was_lost_with_the_stream_is_given_again() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.drop_stream("a");
    w.take();
    w.join("a", 1);
    check(
        &w.take(),
        &expect![[r#"
            -> a: welcome
            -> a: start job-000000.1 of 1: 0@[0]
        "#]],
    );
    w.train("job");
}

#[test]
fn a_rank_table_that_was_lost_with_the_stream_is_sent_again() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.ready("job", 0);
    w.drop_stream("a");
    w.take();
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    hello.running[0].is_running = false;
    w.send_hello(hello);
    assert!(w.take().contains("-> a: rank table job-000000.1 of 1"));
}

#[test]
fn a_trainer_that_its_worker_forgot_is_lost() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.drop_stream("a");
    w.join("a", 1);
    assert_eq!(
        w.reason("job"),
        "rank 0 on worker `a` was lost: its worker does not know it any more"
    );
}

#[test]
fn strays_are_told_to_die_and_hold_their_worker_until_they_are_dead() {
    let mut w = World::new(&[]);
    let stray = key("stranger", 3, 0);
    let mut hello = w.hello("a", 1);
    hello.running = vec![RunningTrainer {
        key: stray.clone(),
        pid: 9,
        peer: None,
        is_running: true,
        libtorch: String::new(),
    }];
    w.send_hello(hello);
    assert!(
        w.take().contains("stop stranger-000000.3 at once: this generation of the job is over")
    );
    w.submit(spec("job", Some(1)));
    assert_eq!(w.state("job"), JobState::Queued);
    let report = crate::coordinator::EndReport {
        key: stray,
        end: TrainerEnd::Stopped,
        last_lines: vec![],
        summary: None,
        at: 0,
    };
    w.say("a", WorkerMessage::Ended(report));
    assert_eq!(w.state("job"), JobState::Starting);
}

#[test]
fn a_goodbye_frees_the_name_and_loses_what_still_ran() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.say("a", WorkerMessage::Leaving { reason: "SIGTERM".to_owned() });
    assert_eq!(w.reason("job"), "rank 0 on worker `a` was lost: its worker has left: SIGTERM");
    assert_eq!(state_of(&w, "a"), "left");
    w.tick_after(Duration::from_secs(601));
    assert_eq!(state_of(&w, "a"), "", "forgotten");
}

#[test]
fn a_coordinator_that_slept_does_not_blame_its_workers() {
    // For a minute; until just after the end of the lease, and until just before it.
    for millis in [60_000, 5_010, 4_900] {
        let mut w = World::new(&[("a", 1)]);
        w.submit(spec("job", Some(1)));
        w.train("job");
        w.pass(Duration::from_millis(millis));
        w.step(crate::coordinator::Event::Tick);
        // Heartbeats wait unread in the sockets.
        w.tick_after(Duration::from_millis(500));
        assert_eq!(w.state("job"), JobState::Running, "{millis} ms");
        w.live_on(Duration::from_secs(10));
        assert_eq!(w.state("job"), JobState::Running, "{millis} ms");
        w.drop_stream("a");
        w.tick_after(Duration::from_secs(6));
        assert_eq!(w.state("job"), JobState::Failed, "the lease still works");
    }
}

/// Nobody can be heard for so long, longer than anything is waited for.
fn sleep(w: &mut World) {
    w.pass(Duration::from_secs(600));
    w.step(crate::coordinator::Event::Tick);
}

#[test]
fn a_coordinator_that_slept_still_waits_for_what_trainers_have_to_say() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    sleep(&mut w);
    w.ready("job", 0);
    w.ready("job", 1);
    sleep(&mut w);
    assert_eq!(w.state("job"), JobState::Starting, "{}", w.reason("job"));
    w.running("job", 0);
    w.running("job", 1);
    assert_eq!(w.state("job"), JobState::Running);
    w.cancel("job", CancelMode::Save);
    sleep(&mut w);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Cancelling, "the other end is waited for");
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Cancelled);
}

#[test]
fn whichever_event_comes_first_after_a_sleep_shows_it() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.pass(Duration::from_millis(4_900));
    w.say("a", WorkerMessage::Heartbeat);
    w.tick_after(Duration::from_millis(500));
    assert_eq!(w.state("job"), JobState::Running, "b's heartbeats are not read yet");
}

#[test]
fn a_coordinator_that_is_late_again_and_again_still_finds_the_dead() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.drop_stream("a");
    // Of each three seconds it is awake for the one after which it asked to be called.
    let mut calls = 0;
    while w.state("job") == JobState::Running && calls < 20 {
        w.pass(Duration::from_secs(3));
        w.step(crate::coordinator::Event::Tick);
        calls += 1;
    }
    assert_eq!(w.state("job"), JobState::Failed, "after {calls} calls");
    assert!((5..=6).contains(&calls), "{calls}");
}
