//! The machine's clock is set while jobs run. What is waited for goes by the time since the start; the
//! clock is for people, and for what outlives the coordinator.

use std::time::Duration;

use common::status::{JobState, TrainerEnd};

use super::world::{KILLED, World, id, restarting, state_of};

const YEAR: i64 = 365 * 24 * 60 * 60 * 1000;

/// No wait between two attempts is longer.
const MAX_BACKOFF: Duration = Duration::from_secs(61);

/// Two ranks on two workers, training, ten years after the epoch.
fn training() -> World {
    let mut w = World::new(&[]);
    w.clock = 10 * YEAR;
    w.join("a", 1);
    w.join("b", 1);
    w.submit(restarting("job", Some(2)));
    w.train("job");
    w
}

#[test]
fn a_clock_that_is_set_ends_no_lease_and_no_job() {
    for jump in [YEAR, -YEAR] {
        let mut w = training();
        w.progress("job", 1, 100.0);
        w.clock += jump;
        w.live_on(Duration::from_secs(20));
        assert_eq!((w.state("job"), w.generation("job")), (JobState::Running, 1), "{jump}");
        assert_eq!(state_of(&w, "a"), "ready", "{jump}");
        w.end("job", 0, TrainerEnd::Finished);
        w.end("job", 1, TrainerEnd::Finished);
        assert_eq!(w.state("job"), JobState::Succeeded, "{jump}");
        let split = w.machine.status(&id("job"), w.moment()).unwrap().time.unwrap();
        assert!(
            split.productive_seconds.is_finite() && split.productive_seconds >= 0.0,
            "{split:?}"
        );
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_wait_longer_also_over_a_restart() {
    let mut w = training();
    for _ in 0..2 {
        w.end("job", 1, KILLED);
        w.end("job", 0, TrainerEnd::Stopped);
        if w.state("job") == JobState::Starting {
            w.train("job");
        }
    }
    assert_eq!(w.state("job"), JobState::Restarting);
    w.clock -= YEAR;
    w.restart();
    w.join("a", 1);
    w.join("b", 1);
    assert_eq!(w.state("job"), JobState::Restarting, "its wait is not over");
    w.live_on(MAX_BACKOFF);
    assert_eq!(w.state("job"), JobState::Starting, "{}", w.reason("job"));
}

#[test]
fn a_clock_that_is_set_back_excludes_nobody_for_years() {
    let mut w = World::new(&[]);
    w.clock = 10 * YEAR;
    w.join("a", 1);
    w.join("b", 1);
    for job in ["first", "second"] {
        w.submit(restarting(job, Some(1)));
        w.train(job);
        w.end(job, 0, KILLED);
        w.train(job);
        w.end(job, 0, TrainerEnd::Finished);
    }
    assert_eq!(state_of(&w, "a"), "excluded");
    w.clock -= YEAR;
    w.live_on(Duration::from_secs(1));
    assert_eq!(state_of(&w, "a"), "ready");
}
