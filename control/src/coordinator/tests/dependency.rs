use common::status::{JobState, TrainerEnd};

use super::world::{KILLED, World, id, spec};
use crate::coordinator::{After, Answer, CancelMode, Condition, Effect, Group, Refusal};

fn after(job: &str, condition: Condition) -> Vec<After> {
    vec![After { job_id: id(job), condition }]
}

fn group(max_running: u32) -> Option<Group> {
    Some(Group { name: "sweep".to_owned(), max_running: Some(max_running) })
}

#[test]
fn a_job_starts_when_the_one_before_it_has_succeeded() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("first", Some(1)));
    w.submit_with(spec("second", Some(1)), None, after("first", Condition::Ok));
    w.train("first");
    assert_eq!(w.state("second"), JobState::Queued);
    assert_eq!(w.reason("second"), "runs after job `first-000000`");
    w.end("first", 0, TrainerEnd::Finished);
    assert_eq!(w.state("second"), JobState::Starting);
}

#[test]
fn a_failure_ends_those_that_needed_success_and_frees_those_that_did_not() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("first", Some(1)));
    w.submit_with(spec("strict", Some(1)), None, after("first", Condition::Ok));
    w.submit_with(spec("chained", Some(1)), None, after("strict", Condition::Ok));
    w.submit_with(spec("tidy", Some(1)), None, after("chained", Condition::Any));
    w.train("first");
    w.end("first", 0, KILLED);
    let states = ["first", "strict", "chained", "tidy"].map(|job| w.state(job));
    let (failed, cancelled) = (JobState::Failed, JobState::Cancelled);
    assert_eq!(states, [failed, cancelled, cancelled, JobState::Starting]);
    assert_eq!(
        w.reason("strict"),
        "it was to run after job `first-000000` had succeeded, and that one is failed"
    );
}

#[test]
fn a_job_after_one_that_has_ended_is_settled_at_once() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("first", Some(1)));
    w.cancel("first", CancelMode::Now);
    w.end("first", 0, TrainerEnd::Stopped);
    w.submit_with(spec("ok", Some(1)), None, after("first", Condition::Ok));
    w.submit_with(spec("any", Some(1)), None, after("first", Condition::Any));
    assert_eq!((w.state("ok"), w.state("any")), (JobState::Cancelled, JobState::Starting));
}

#[test]
fn a_job_after_an_unknown_one_is_refused() {
    let mut w = World::new(&[]);
    let effects = w.submit_with(spec("job", Some(1)), None, after("nobody", Condition::Any));
    let is_refused = |e: &Effect| {
        let refusal = Refusal::UnknownJob(id("nobody"));
        matches!(e, Effect::Answer { answer: Answer::Refused(r), .. } if *r == refusal)
    };
    assert!(effects.len() == 1 && effects.iter().all(is_refused), "{effects:?}");
}

#[test]
fn who_waits_for_whom_survives_the_coordinators_restart() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("first", Some(9)));
    w.submit_with(spec("second", Some(1)), None, after("first", Condition::Any));
    w.restart();
    w.join("a", 1);
    assert_eq!(w.state("second"), JobState::Queued);
    w.cancel("second", CancelMode::Save);
    assert_eq!(w.state("second"), JobState::Cancelled);
    w.submit_with(spec("third", Some(1)), None, after("first", Condition::Any));
    w.cancel("first", CancelMode::Save);
    assert_eq!(w.state("third"), JobState::Starting);
}

#[test]
fn a_group_runs_as_many_jobs_as_it_may_and_holds_nobody_else_up() {
    let mut w = World::new(&[("a", 4)]);
    for number in 0..4 {
        w.submit_with(spec(&format!("s{number}"), Some(1)), group(2), Vec::new());
    }
    w.submit(spec("other", Some(1)));
    let states = |w: &World| ["s0", "s1", "s2", "s3", "other"].map(|job| w.state(job));
    let (starting, queued) = (JobState::Starting, JobState::Queued);
    assert_eq!(states(&w), [starting, starting, queued, queued, starting]);
    assert_eq!(w.reason("s2"), "group `sweep` runs 2 jobs, and 2 may run at once");
    w.train("s0");
    w.end("s0", 0, TrainerEnd::Finished);
    assert_eq!(states(&w)[2..], [starting, queued, starting]);
}

#[test]
fn what_a_submit_asked_of_the_queue_is_told_first() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("first", Some(1)));
    w.submit_with(spec("second", Some(1)), group(2), after("first", Condition::Any));
    let jobs = &w.machine.ledger().jobs;
    assert_eq!(
        jobs[&id("second")].decisions[0].text,
        "submitted in group `sweep`, of which 2 may run at once; to run after job `first-000000` has \
         ended"
    );
    assert!(jobs[&id("first")].decisions[0].text.starts_with("attempt 1 starts: "));
}

#[test]
fn a_store_from_before_groups_and_drains_is_read() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    let ledger = serde_json::to_value(w.machine.ledger()).unwrap();
    assert_eq!(ledger.get("drained"), None);
    let submission = &ledger["jobs"][id("job").as_str()]["submission"];
    for new in ["group", "after", "origin"] {
        assert_eq!(submission.get(new), None, "it is written as it was before, so that is read");
    }
    w.restart();
}
