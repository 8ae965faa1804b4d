//! Where the time goes, told by the recorded moments.

use std::time::Duration;

use common::ids::Generation;
use common::status::{FailureKind, JobState, Live, TimeSplit, TrainerEnd};

use super::world::{KILLED, World, failed, id, restarting};
use crate::coordinator::WorkerMessage;

/// `from`: the step of the checkpoint that the attempt continued from.
fn progress(w: &mut World, from: Option<u64>, step: u64) {
    let (job_id, generation) = (id("job"), Generation(w.generation("job")));
    let live = Live { step, resumed_at_step: from, ..Live::default() };
    let worker = w.places("job")[0].clone();
    w.say(&worker, WorkerMessage::Progress { job_id, generation, live });
}

fn split(w: &World) -> TimeSplit {
    let now = w.moment();
    w.machine.status(&id("job"), now).unwrap().time.unwrap()
}

#[test]
fn lost_time_is_told_by_what_it_was_lost_to() {
    let mut w = World::new(&[]);
    let pass = |w: &mut World, seconds| w.live_on(Duration::from_secs(seconds));
    w.submit(restarting("job", Some(1)));
    pass(&mut w, 5);
    w.join("a", 1);
    pass(&mut w, 1);
    w.train("job");
    pass(&mut w, 2);
    // A quick rank has made steps before it is first heard.
    progress(&mut w, None, 2);
    pass(&mut w, 20);
    progress(&mut w, None, 20);
    w.commit("job", 15);
    pass(&mut w, 4);
    // Known dead at once, 4 s after the last step.
    w.end("job", 0, KILLED);
    pass(&mut w, 3);
    w.train("job");
    pass(&mut w, 1);
    progress(&mut w, Some(15), 17);
    pass(&mut w, 10);
    assert_eq!(
        split(&w),
        TimeSplit {
            // 20 s and 10 s of steps, without the 5 steps that were made twice.
            productive_seconds: 25.0,
            queue_seconds: 5.0,
            start_seconds: 3.0,
            detect_seconds: 4.0,
            restart_seconds: 3.0,
            reload_seconds: 1.0,
            recompute_seconds: 5.0,
        }
    );
    progress(&mut w, Some(15), 25);
    w.end("job", 0, TrainerEnd::Finished);
    pass(&mut w, 100);
    assert_eq!(split(&w).productive_seconds, 25.0, "an end stops the clock");
    assert!((split(&w).goodput() - 25.0 / 46.0).abs() < 1e-9);
}

/// A job that trains on `a` and made 20 steps in 20 s, of which 15 were saved.
fn trained() -> World {
    let mut w = World::new(&[("a", 1)]);
    w.submit(restarting("job", Some(1)));
    w.train("job");
    progress(&mut w, None, 1);
    w.live_on(Duration::from_secs(20));
    progress(&mut w, None, 20);
    w.commit("job", 15);
    w
}

#[test]
fn steps_are_made_again_by_the_next_attempt_that_gets_so_far() {
    let mut w = trained();
    w.end("job", 0, KILLED);
    // The next one breaks off before it is ready.
    w.train("job");
    w.end("job", 0, KILLED);
    w.train("job");
    progress(&mut w, Some(15), 16);
    assert_eq!((split(&w).recompute_seconds, split(&w).productive_seconds), (5.0, 15.0));
}

#[test]
fn steps_that_a_restarted_coordinator_did_not_hear_are_no_detection() {
    let mut w = trained();
    w.restart();
    let mut hello = w.hello("a", 1);
    hello.running = w.running_trainers("job", &[0]);
    w.send_hello(hello);
    w.live_on(Duration::from_secs(10));
    w.end("job", 0, KILLED);
    assert_eq!((split(&w).detect_seconds, split(&w).productive_seconds), (0.0, 30.0));
}

#[test]
fn after_the_last_attempt_nothing_restarts() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(2)));
    w.train("job");
    progress(&mut w, None, 1);
    w.end("job", 0, failed(FailureKind::NotFinite, "NaN"));
    w.live_on(Duration::from_secs(4));
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    assert_eq!((split(&w).detect_seconds, split(&w).restart_seconds), (4.0, 0.0));
}
