//! Checkpoints on one worker's own disk: the next attempt goes there, or waits for it, as long as it
//! is known; elsewhere it would start at step 0.

use std::time::Duration;

use common::ids::Generation;
use common::status::{FailureKind, JobState, Live, TrainerEnd};

use super::world::{KILLED, World, failed, id, restarting, state_of};
use crate::coordinator::WorkerMessage;

fn attempt(w: &World) -> String {
    w.machine.ledger().jobs[&id("job")].attempt().unwrap().reason.clone()
}

/// Its rank 0 says where it went on, and how far it is.
fn steps(w: &mut World, from: Option<u64>, step: u64) {
    let (job_id, generation) = (id("job"), Generation(w.generation("job")));
    let live = Live { step, resumed_at_step: from, ..Live::default() };
    let worker = w.places("job")[0].clone();
    w.say(&worker, WorkerMessage::Progress { job_id, generation, live });
}

fn newest(w: &World) -> Option<(u64, Option<String>)> {
    let whole = w.machine.ledger().jobs[&id("job")].latest_checkpoint();
    whole.map(|row| (row.step, row.worker.clone()))
}

/// `job` has saved step 1000 on a, which is lost: it trains on b.
fn moved_to_b() -> World {
    let mut w = World::new(&[("a", 1)]);
    w.submit(restarting("job", Some(1)));
    w.train("job");
    w.commit_on("job", 1000, Some("a"));
    w.join("b", 1);
    w.drop_stream("a");
    w.live_on(Duration::from_secs(6));
    assert_eq!(w.places("job"), ["b"]);
    w.train("job");
    w
}

#[test]
fn the_worker_that_broke_an_attempt_off_is_used_again_where_it_alone_has_the_checkpoint() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(1)));
    w.train("job");
    w.commit_on("job", 40, Some("a"));
    w.end("job", 0, KILLED);
    assert_eq!(w.places("job"), ["a"]);
    assert_eq!(attempt(&w), "1 rank: a (0); continues step-00000040");
}

#[test]
fn an_excluded_worker_is_used_again_where_it_alone_has_the_checkpoint() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(restarting("other", Some(1)));
    w.train("other");
    w.join("b", 1);
    w.end("other", 0, KILLED);
    assert_eq!(w.places("other"), ["b"]);
    w.submit(restarting("job", Some(1)));
    w.train("job");
    w.commit_on("job", 40, Some("a"));
    w.train("other");
    w.end("other", 0, TrainerEnd::Finished);
    w.end("job", 0, KILLED);
    assert_eq!(state_of(&w, "a"), "excluded");
    assert_eq!(w.places("job"), ["a"]);
}

#[test]
fn a_job_waits_for_the_worker_that_has_its_checkpoint() {
    let mut w = World::new(&[("a", 1)]);
    let mut job = restarting("job", Some(1));
    job.restart.backoff = Duration::from_secs(30);
    w.submit(job);
    w.train("job");
    w.commit_on("job", 40, Some("a"));
    // It rests after the second failure in a row without a newer one.
    for _ in 0..3 {
        w.end("job", 0, KILLED);
        if w.state("job") == JobState::Starting {
            w.train("job");
        }
    }
    w.submit(restarting("other", Some(1)));
    w.train("other");
    w.join("b", 1);
    w.live_on(Duration::from_secs(31));
    assert_eq!(w.state("job"), JobState::Restarting, "b is idle, and has not its checkpoint");
    let reason = w.reason("job");
    let waits = "1 of 2 slots on 2 workers are idle, room for 0 such ranks; rank 0 must be on worker \
                 `a`, which has its checkpoint";
    assert!(reason.ends_with(waits), "{reason}");
    w.submit(restarting("third", Some(1)));
    assert_eq!(w.places("third"), ["b"], "b is not kept for it");
    w.end("other", 0, TrainerEnd::Finished);
    assert_eq!(w.places("job"), ["a"]);
}

#[test]
fn a_worker_whose_lease_still_runs_is_waited_for() {
    let mut w = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
    w.submit(restarting("job", Some(2)));
    assert_eq!(w.places("job"), ["a", "b"]);
    w.train("job");
    w.commit_on("job", 40, Some("a"));
    w.end("job", 0, failed(FailureKind::Engine, "oops"));
    w.drop_stream("a");
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Restarting);
    w.join("a", 1);
    assert_eq!(w.places("job")[0], "a");
    assert_eq!(w.state("job"), JobState::Starting);
}

#[test]
fn a_larger_worker_does_not_push_it_out_where_the_number_of_workers_is_bounded() {
    let mut w = World::new(&[("a", 2)]);
    let mut job = restarting("job", Some(2));
    job.resources.workers = Some(1);
    w.submit(job);
    w.join("b", 4);
    w.train("job");
    w.commit_on("job", 40, Some("a"));
    w.end("job", 0, failed(FailureKind::Engine, "oops"));
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.places("job"), ["a", "a"]);
}

#[test]
fn an_attempt_that_starts_anew_begins_a_new_history() {
    let mut w = moved_to_b();
    let reason = "1 rank: b (0); continues step-00001000 if it can read that: worker `a` has it and is \
                  not here";
    assert_eq!(attempt(&w), reason);
    steps(&mut w, None, 1);
    assert_eq!(newest(&w), None, "what lies on a is of a history that ended");
    let decisions = &w.machine.ledger().jobs[&id("job")].decisions;
    assert_eq!(decisions.last().unwrap().text, "it begins at step 0");
    w.commit_on("job", 100, Some("b"));
    // Each attempt saves, so none is idle, however far the first history had come.
    for from in [100, 200, 300, 400, 500, 600] {
        w.end("job", 0, KILLED);
        assert_eq!(w.state("job"), JobState::Starting, "{}", w.reason("job"));
        let continues = format!("1 rank: b (0); continues step-{from:08}");
        assert_eq!(attempt(&w), continues);
        w.train("job");
        steps(&mut w, Some(from), from + 1);
        w.commit_on("job", from + 100, Some("b"));
    }
}

#[test]
fn a_checkpoint_that_comes_before_the_first_progress_belongs_to_its_attempt() {
    let mut w = moved_to_b();
    w.commit_on("job", 100, Some("b"));
    steps(&mut w, None, 101);
    assert_eq!(newest(&w), Some((100, Some("b".to_owned()))));
}

#[test]
fn a_checkpoint_is_where_it_was_last_read() {
    let mut w = moved_to_b();
    // The disk was shared.
    steps(&mut w, Some(1000), 1001);
    assert_eq!(newest(&w), Some((1000, Some("b".to_owned()))));
    let decisions = &w.machine.ledger().jobs[&id("job")].decisions;
    assert_eq!(decisions.last().unwrap().text, "it goes on from step 1000");
}
