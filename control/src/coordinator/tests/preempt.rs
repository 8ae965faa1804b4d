use std::time::Duration;

use common::status::{JobState, TrainerEnd};

use super::world::{KILLED, World, id, restarting, spec};
use crate::coordinator::{Answer, Class, Effect, Event, PreemptOrder, Refusal, Ticket};

pub(super) fn preempt(w: &mut World, job: &str) -> Answer {
    let grace = Some(Duration::from_secs(25));
    let order = PreemptOrder { reason: "maintenance".to_owned(), grace };
    let ticket = Ticket(w.number());
    let effects = w.step(Event::Preempt { ticket, job_id: id(job), order });
    let answer = |e: &Effect| match e {
        Effect::Answer { answer, .. } => Some(answer.clone()),
        _ => None,
    };
    effects.iter().find_map(answer).expect("every question has an answer")
}

fn training() -> World {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(2)));
    w.train("job");
    w.take();
    w
}

#[test]
fn a_preempted_job_saves_within_the_grace_and_goes_on_from_there() {
    let mut w = training();
    assert!(matches!(preempt(&mut w, "job"), Answer::Preempted(attempt) if attempt.0 == 1));
    let log = w.take();
    assert!(log.contains("-> a: stop job-000000.1 gracefully: preempted: maintenance"), "{log}");
    w.live_on(Duration::from_secs(34));
    assert_eq!(w.state("job"), JobState::Running, "25 s to save, 10 s to confirm");
    w.commit("job", 41);
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Starting);
    let job = &w.machine.ledger().jobs[&id("job")];
    let over = job.attempts[0].over.as_ref().unwrap();
    assert_eq!(over.class, Class::Preemption);
    assert_eq!(over.decision, "restarts at once: a preemption costs no budget");
    assert_eq!(job.attempts[1].reason, "2 ranks: a (0), b (1); continues step-00000041");
}

#[test]
fn it_lets_those_that_wait_go_first_and_those_that_come_later_not() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(restarting("job", Some(1)));
    w.train("job");
    w.submit(spec("next", Some(1)));
    let mut low = spec("low", Some(1));
    low.job.priority = -1;
    w.submit(low);
    preempt(&mut w, "job");
    w.submit(spec("late", Some(1)));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!((w.state("job"), w.state("next")), (JobState::Restarting, JobState::Starting));
    assert!(w.reason("job").starts_with("preempted: maintenance; "), "{}", w.reason("job"));
    w.restart();
    w.tick_after(Duration::ZERO);
    w.new_life("a");
    w.join("a", 1);
    assert_eq!(w.state("next"), JobState::Failed, "it is never started again");
    assert_eq!((w.state("job"), w.state("late")), (JobState::Starting, JobState::Queued));
    assert_eq!(w.state("low"), JobState::Queued);
}

#[test]
fn its_budget_bounds_it() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    preempt(&mut w, "job");
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    assert_eq!(w.reason("job"), "preempted: maintenance");
}

#[test]
fn a_death_on_the_way_out_is_told_and_costs_nothing() {
    let mut w = training();
    preempt(&mut w, "job");
    w.end("job", 1, KILLED);
    w.end("job", 0, TrainerEnd::Stopped);
    let over = w.machine.ledger().jobs[&id("job")].attempts[0].over.clone().unwrap();
    assert_eq!(over.class, Class::Preemption);
    assert_eq!(
        over.failure.message,
        "preempted: maintenance; then rank 1 on worker `b` was killed by signal 9 (SIGKILL)"
    );
}

#[test]
fn only_a_job_that_has_slots_can_leave_them() {
    let mut w = World::new(&[("a", 1)]);
    let refused = preempt(&mut w, "job");
    assert_eq!(refused, Answer::Refused(Refusal::UnknownJob(id("job"))));
    w.submit(spec("first", Some(1)));
    w.submit(spec("job", Some(1)));
    let refused = preempt(&mut w, "job");
    assert_eq!(refused, Answer::Refused(Refusal::NotRunning(id("job"), JobState::Queued)));
    // Before training there is nothing to save.
    w.take();
    preempt(&mut w, "first");
    assert!(w.take().contains("stop first-000000.1 at once"));
    // Again: it leaves already.
    preempt(&mut w, "first");
    assert_eq!(w.take().lines().count(), 1);
}
