use expect_test::expect;

use common::status::{FailureKind, JobState, TrainerEnd};

use super::world::{World, check, id, spec, with_batch};
use crate::coordinator::{Answer, Effect, Refusal};

#[test]
fn a_submit_is_durable_before_it_is_answered_and_before_anything_starts() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("job", Some(2)));
    check(
        &w.take(),
        &expect![[r#"
            persist submitted attempt-started(1)
            answer Submitted(JobId("job-000000"))
            -> a: start job-000000.1 of 2: 0@[0] 1@[1]
        "#]],
    );
}

#[test]
fn a_retried_submit_gives_the_same_job_and_nothing_else() {
    let mut w = World::new(&[]);
    w.submit_as(id("job"), "request".to_owned(), spec("job", Some(2)));
    w.take();
    w.submit_as(id("other"), "request".to_owned(), spec("job", Some(2)));
    check(
        &w.take(),
        &expect![[r#"
            answer Submitted(JobId("job-000000"))
        "#]],
    );
}

#[test]
fn a_taken_id_is_refused_so_that_the_shell_proposes_another() {
    let mut w = World::new(&[]);
    w.submit_as(id("job"), "one".to_owned(), spec("job", Some(2)));
    let effects = w.submit_as(id("job"), "two".to_owned(), spec("job", Some(2)));
    let refused =
        |e: &Effect| matches!(e, Effect::Answer { answer: Answer::Refused(Refusal::IdTaken), .. });
    assert!(effects.iter().any(refused) && effects.len() == 1, "{effects:?}");
}

#[test]
fn a_job_larger_than_the_cluster_waits_with_numbers_and_holds_nobody_up() {
    let mut w = World::new(&[("a", 2), ("b", 2)]);
    w.submit(spec("large", Some(5)));
    w.submit(spec("small", Some(1)));
    assert_eq!(w.state("large"), JobState::Queued);
    assert_eq!(
        w.reason("large"),
        "needs 5 ranks of 1 slot; the cluster has 4 slots on 2 workers, room for 4 such ranks"
    );
    assert_eq!(w.state("small"), JobState::Starting);
    w.join("c", 1);
    assert_eq!(
        w.reason("large"),
        "needs 5 ranks of 1 slot; 4 of 5 slots on 3 workers are idle, room for 4 such ranks"
    );
}

#[test]
fn a_job_that_has_its_turn_is_not_starved_by_smaller_ones() {
    let mut w = World::new(&[("a", 4)]);
    w.submit(spec("first", Some(3)));
    w.submit(spec("large", Some(4)));
    w.submit(spec("small", Some(1)));
    assert_eq!(w.state("large"), JobState::Queued);
    assert_eq!(w.state("small"), JobState::Queued, "one slot is idle, and it is not its turn");
    assert_eq!(w.reason("small"), "behind job `large-000000`, which has its turn");
    w.train("first");
    (0..3).for_each(|rank| w.end("first", rank, TrainerEnd::Finished));
    assert_eq!(w.state("large"), JobState::Starting);
    assert_eq!(
        w.reason("small"),
        "needs 1 rank of 1 slot; 0 of 4 slots on 1 worker are idle, room for 0 such ranks"
    );
}

#[test]
fn priority_goes_before_the_order_of_submission() {
    let mut w = World::new(&[]);
    w.submit(spec("early", Some(1)));
    let mut urgent = spec("urgent", Some(1));
    urgent.job.priority = 5;
    w.submit(urgent);
    w.join("a", 1);
    assert_eq!(w.state("urgent"), JobState::Starting);
    assert_eq!(w.state("early"), JobState::Queued);
}

#[test]
fn a_world_larger_than_the_batch_is_a_configuration_failure() {
    let mut w = World::new(&[("a", 4)]);
    w.submit(with_batch(spec("job", Some(4)), 3));
    assert_eq!(w.state("job"), JobState::Failed);
    let failure = w.machine.ledger().jobs[&id("job")].failure.clone().unwrap();
    assert_eq!(failure.kind, Some(FailureKind::Configuration));
    assert!(failure.message.contains("smaller than the world of 4"), "{}", failure.message);
}

#[test]
fn without_a_world_size_a_job_takes_all_idle_slots_up_to_its_batch() {
    let mut w = World::new(&[("a", 3), ("b", 2)]);
    w.submit(spec("all", None));
    assert_eq!(w.places("all"), ["a", "a", "a", "b", "b"]);
    w.submit(spec("next", None));
    assert_eq!(w.state("next"), JobState::Queued);
    let mut w = World::new(&[("a", 3), ("b", 2)]);
    w.submit(with_batch(spec("capped", None), 4));
    assert_eq!(w.places("capped").len(), 4);
}

#[test]
fn a_job_without_any_worker_says_so() {
    let mut w = World::new(&[]);
    w.submit(spec("job", None));
    assert_eq!(w.reason("job"), "needs at least 1 rank of 1 slot; no worker is connected");
}

#[test]
fn final_jobs_beyond_the_bound_are_forgotten_oldest_first() {
    let mut w = World::new(&[("a", 1)]);
    let max = w.machine.config().max_final_jobs;
    for number in 0..=max {
        let name = format!("job{number}");
        w.submit(spec(&name, Some(1)));
        w.train(&name);
        w.end(&name, 0, TrainerEnd::Finished);
    }
    assert_eq!(w.machine.ledger().jobs.len(), max);
    assert!(!w.machine.ledger().jobs.contains_key(&id("job0")));
    assert!(w.take().contains("forget job0-000000"));
}
