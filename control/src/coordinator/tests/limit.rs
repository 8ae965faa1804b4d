//! `job.time-limit`.

use std::time::Duration;

use common::spec::JobSpec;
use common::status::{JobState, TrainerEnd};

use super::preempt::preempt;
use super::world::{KILLED, World, id, restarting, spec};

fn limited(seconds: u64, mut spec: JobSpec) -> JobSpec {
    spec.job.time_limit = Some(Duration::from_secs(seconds));
    spec
}

#[test]
fn a_job_whose_time_is_over_saves_leaves_and_is_not_started_again() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(limited(60, restarting("job", Some(1))));
    w.train("job");
    w.live_on(Duration::from_secs(59));
    w.take();
    assert_eq!(w.state("job"), JobState::Running);
    w.live_on(Duration::from_secs(2));
    let log = w.take();
    assert!(
        log.contains("-> a: stop job-000000.1 gracefully: its time limit of 1m is over"),
        "{log}"
    );
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!((w.state("job"), w.reason("job").as_str()), {
        (JobState::Failed, "its time limit of 1m is over")
    });
}

#[test]
fn all_attempts_count_and_a_restart_of_the_coordinator_gives_no_time() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(limited(60, restarting("job", Some(1))));
    w.train("job");
    w.live_on(Duration::from_secs(30));
    w.end("job", 0, KILLED);
    assert_eq!(w.places("job"), ["b"]);
    w.train("job");
    w.live_on(Duration::from_secs(20));
    w.restart();
    let mut hello = w.hello("b", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    w.live_on(Duration::from_secs(8));
    assert_eq!(w.state("job"), JobState::Running);
    w.live_on(Duration::from_secs(3));
    assert_eq!(w.reason("job"), "its time limit of 1m is over");
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    assert_eq!(w.machine.ledger().jobs[&id("job")].attempts.len(), 2);
}

#[test]
fn a_limit_is_a_promise_to_those_who_wait() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(limited(600, spec("job", Some(1))));
    w.train("job");
    w.submit(spec("head", Some(1)));
    let waiting = w.status("head").waiting.unwrap();
    assert_eq!(waiting.earliest_start, Some(w.now.as_millis() as u64 + 600_000));
    w.progress("job", 10, 100.0);
    w.live_on(Duration::from_secs(6));
    w.progress("job", 11, 94.0);
    let waiting = w.status("head").waiting.unwrap();
    assert_eq!(waiting.earliest_start, Some(w.now.as_millis() as u64 + 94_000));
}

#[test]
fn no_limit_is_too_long() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(limited(u64::MAX, spec("job", Some(1))));
    w.train("job");
    w.live_on(Duration::from_secs(60));
    w.restart();
    assert_eq!(w.state("job"), JobState::Running);
}

#[test]
fn attempts_that_are_not_remembered_count() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(limited(140, restarting("job", Some(1))));
    let mut attempts = 0;
    while w.state("job") == JobState::Starting {
        attempts += 1;
        assert!(attempts <= 75, "it runs for ever");
        w.train("job");
        w.live_on(Duration::from_secs(2));
        preempt(&mut w, "job");
        w.end("job", 0, TrainerEnd::Stopped);
    }
    assert_eq!(w.state("job"), JobState::Failed);
    assert!((69..=71).contains(&attempts), "{attempts} attempts of 2 s");
}

#[test]
fn a_job_whose_time_runs_out_while_it_makes_room_does_not_come_back() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(limited(60, restarting("job", Some(1))));
    w.train("job");
    w.live_on(Duration::from_secs(55));
    preempt(&mut w, "job");
    w.live_on(Duration::from_secs(10));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    let why = "preempted: maintenance; not restarted: its time limit is over";
    assert_eq!(w.reason("job"), why);
}
