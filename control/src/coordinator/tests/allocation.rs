//! Jobs with an allocation of SLURM to themselves.

use std::time::Duration;

use common::status::{JobState, TrainerEnd, WaitReason};
use expect_test::expect;

use super::world::{KILLED, World, check, restarting, spec};
use crate::coordinator::{
    AllocationNews, CancelMode, Effect, PreemptOrder, Record, Withdrawal, WorkerMessage,
};

fn accepted(slurm_job: u64) -> AllocationNews {
    AllocationNews::Accepted { slurm_job }
}

fn seen(state: &str, reason: &str, nodes: &str) -> AllocationNews {
    let owned = str::to_owned;
    AllocationNews::Seen { state: owned(state), reason: owned(reason), nodes: owned(nodes) }
}

fn gone(state: &str) -> AllocationNews {
    AllocationNews::Gone { state: state.to_owned() }
}

/// A job of two ranks on two nodes whose allocation runs, before its workers join.
fn allocated() -> World {
    let mut w = World::new(&[("other", 4)]);
    w.submit_to_slurm(restarting("job", Some(2)), 2);
    w.slurm("job", 1, accepted(17));
    w.slurm("job", 1, seen("RUNNING", "", "n[1-2]"));
    w.take();
    w
}

/// It trains there.
fn training() -> World {
    let mut w = allocated();
    w.join_of("n1-17", 1, "job", 1);
    w.join_of("n2-17", 1, "job", 1);
    w.train("job");
    w.take();
    w
}

/// What is wanted of SLURM: name, number, and whether it is to be given back.
fn orders(w: &World) -> Vec<String> {
    let order = |order: &crate::coordinator::AllocationOrder| {
        let verb = if order.wanted.is_some() { "want" } else { "give back" };
        format!("{verb} {} {:?}", order.name, order.slurm_job)
    };
    w.machine.allocations().iter().map(order).collect()
}

#[test]
fn it_is_durable_that_nodes_are_wanted_before_slurm_is_asked_and_until_they_are_back() {
    let mut w = World::new(&[("other", 4)]);
    w.submit_to_slurm(spec("job", Some(2)), 2);
    assert_eq!(w.reason("job"), "SLURM is asked for 2 nodes");
    w.slurm("job", 1, accepted(17));
    assert_eq!(w.reason("job"), "SLURM job 17 is in SLURM's queue");
    w.slurm("job", 1, seen("PENDING", "Priority", ""));
    assert_eq!(w.reason("job"), "SLURM job 17 is PENDING (Priority)");
    w.slurm("job", 1, seen("RUNNING", "", "n[1-2]"));
    w.join_of("n1-17", 1, "job", 1);
    assert_eq!(w.reason("job"), "SLURM job 17 runs on n[1-2]: 1 of 2 workers joined");
    let waiting = w.status("job").waiting.unwrap();
    assert!(
        matches!(waiting.reason, WaitReason::Allocation { slurm_job: Some(17), .. }),
        "{waiting:?}"
    );
    w.join_of("n2-17", 1, "job", 1);
    w.train("job");
    w.end("job", 0, TrainerEnd::Finished);
    w.end("job", 1, TrainerEnd::Finished);
    assert_eq!(w.state("job"), JobState::Succeeded);
    assert_eq!(orders(&w), ["give back job-000000.1 Some(17)"]);
    w.slurm("job", 1, gone("COMPLETED"));
    assert!(orders(&w).is_empty());
    check(
        &w.take(),
        &expect![[r#"
        persist submitted allocation-asked(job-000000.1)
        answer Submitted(JobId("job-000000"))
        slurm: want job-000000.1 (?)
        persist allocation-accepted(job-000000.1: 17)
        slurm: want job-000000.1 (17)
        persist worker(n1-17)
        -> n1-17: welcome
        persist worker(n2-17) attempt-started(1)
        -> n2-17: welcome
        -> n1-17: start job-000000.1 of 2: 0@[0]
        -> n2-17: start job-000000.1 of 2: 1@[0]
        -> n1-17: rank table job-000000.1 of 2
        -> n2-17: rank table job-000000.1 of 2
        persist attempt-running
        persist ended(0)
        -> n1-17: acknowledge end of 0
        persist ended(1) job-ended(succeeded: finished) allocation-released(job-000000.1: the job has ended)
        -> n2-17: acknowledge end of 1
        slurm: give back job-000000.1 (17)
        persist allocation-ended(job-000000.1: SLURM job 17 COMPLETED)
        slurm: 
    "#]],
    );
}

#[test]
fn other_jobs_do_not_run_on_its_nodes_and_it_not_on_theirs() {
    let mut w = allocated();
    w.submit(spec("large", Some(5)));
    w.join_of("n1-17", 8, "job", 1);
    assert_eq!(w.state("large"), JobState::Queued, "{}", w.reason("large"));
    assert_eq!(w.state("job"), JobState::Queued);
    w.join_of("n2-17", 8, "job", 1);
    let places = w.places("job");
    assert!(places.iter().all(|place| place.ends_with("-17")), "{places:?}");
}

#[test]
fn slurms_refusal_ends_the_job_in_slurms_words() {
    let mut w = World::new(&[]);
    w.submit_to_slurm(spec("job", Some(2)), 2);
    let words = "sbatch: error: invalid partition specified: nowhere".to_owned();
    w.slurm("job", 1, AllocationNews::Refused { words });
    assert_eq!(w.state("job"), JobState::Failed);
    assert!(
        w.reason("job").contains("invalid partition specified: nowhere"),
        "{}",
        w.reason("job")
    );
    assert!(orders(&w).is_empty());
}

#[test]
fn a_slurm_that_cannot_be_asked_is_told_and_waited_for() {
    let mut w = World::new(&[]);
    w.submit_to_slurm(spec("job", Some(2)), 2);
    let words = "Unable to contact slurm controller".to_owned();
    w.slurm("job", 1, AllocationNews::Delayed { words });
    assert_eq!(w.state("job"), JobState::Queued);
    assert!(w.reason("job").contains("Unable to contact slurm controller"), "{}", w.reason("job"));
    w.slurm("job", 1, accepted(3));
    w.slurm("job", 1, seen("PENDING", "PartitionNodeLimit", ""));
    assert!(w.reason("job").contains("the partition never gives this"), "{}", w.reason("job"));
}

#[test]
fn a_cancel_from_outside_cancels_a_job_that_has_not_started() {
    let mut w = World::new(&[]);
    w.submit_to_slurm(restarting("job", Some(2)), 2);
    w.slurm("job", 1, accepted(17));
    w.slurm("job", 1, gone("CANCELLED"));
    assert_eq!(w.state("job"), JobState::Cancelled);
    assert!(w.reason("job").contains("SLURM job 17 CANCELLED before the job had started"));
}

#[test]
fn a_cancelled_job_gives_its_allocation_back_also_one_whose_number_comes_later() {
    let mut w = World::new(&[]);
    w.submit_to_slurm(spec("job", Some(2)), 2);
    w.cancel("job", CancelMode::Save);
    assert_eq!(w.state("job"), JobState::Cancelled);
    assert_eq!(orders(&w), ["give back job-000000.1 None"]);
    w.slurm("job", 1, accepted(17));
    assert_eq!(orders(&w), ["give back job-000000.1 Some(17)"]);
    w.restart();
    assert_eq!(orders(&w), ["give back job-000000.1 Some(17)"]);
    w.slurm("job", 1, gone("CANCELLED"));
    assert!(orders(&w).is_empty());
}

#[test]
fn a_coordinator_that_comes_back_asks_for_nothing_twice() {
    let mut w = World::new(&[]);
    w.submit_to_slurm(restarting("job", Some(2)), 2);
    let effects = w.restart();
    let is_asked = |record: &Record| matches!(record, Record::AllocationAsked { .. });
    let asks = effects
        .iter()
        .any(|effect| matches!(effect, Effect::Persist(records) if records.iter().any(is_asked)));
    assert!(!asks, "{effects:#?}");
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Allocations(orders) if orders.len() == 1))
    );
    w.slurm("job", 1, accepted(17));
    w.slurm("job", 1, seen("RUNNING", "", "n[1-2]"));
    w.join_of("n1-17", 1, "job", 1);
    w.restart();
    w.slurm("job", 1, seen("RUNNING", "", "n[1-2]"));
    w.join_of("n2-17", 1, "job", 1);
    assert_eq!(w.state("job"), JobState::Queued);
    w.join_of("n1-17", 1, "job", 1);
    assert_eq!(w.places("job"), ["n1-17", "n2-17"]);
}

#[test]
fn an_attempt_that_breaks_off_goes_on_in_the_same_allocation_and_without_it_in_a_new_one() {
    let mut w = training();
    w.end("job", 1, KILLED);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.generation("job"), 2, "{}", w.reason("job"));
    assert_eq!(w.places("job"), ["n1-17", "n2-17"]);
    // SLURM takes the nodes.
    w.train("job");
    w.commit("job", 10);
    for worker in ["n1-17", "n2-17"] {
        w.say(worker, WorkerMessage::Leaving { reason: "SIGTERM".to_owned() });
    }
    assert_eq!(w.state("job"), JobState::Restarting);
    assert_eq!(orders(&w), ["want job-000000.1 Some(17)"]);
    w.slurm("job", 1, gone("NODE_FAIL"));
    assert_eq!(orders(&w), ["want job-000000.2 None"]);
    w.slurm("job", 2, accepted(18));
    w.slurm("job", 2, seen("RUNNING", "", "n[3-4]"));
    w.join_of("n3-18", 1, "job", 2);
    w.join_of("n4-18", 1, "job", 2);
    assert_eq!(w.places("job"), ["n3-18", "n4-18"]);
}

#[test]
fn a_job_that_makes_room_gives_its_nodes_away() {
    let mut w = training();
    let grace = Duration::from_secs(1);
    let withdrawal = Withdrawal { reason: "notice".to_owned(), grace };
    w.say("n1-17", WorkerMessage::Withdrawing(withdrawal));
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(orders(&w), ["give back job-000000.1 Some(17)", "want job-000000.2 None"]);
    let ticket = crate::coordinator::Ticket(0);
    let order = PreemptOrder { reason: "room".to_owned(), grace: None };
    let job_id = super::world::id("job");
    w.step(crate::coordinator::Event::Preempt { ticket, job_id, order });
    assert_eq!(orders(&w).len(), 2, "it has no slots to leave");
}

#[test]
fn allocations_on_which_the_job_cannot_start_are_tried_a_few_times() {
    let mut w = World::new(&[]);
    w.submit_to_slurm(spec("job", Some(2)), 2);
    for number in 1..=3 {
        let wanted = format!("want job-000000.{number} None");
        w.tick_after(Duration::from_secs(31));
        assert_eq!(orders(&w), [wanted]);
        w.slurm("job", number, accepted(16 + u64::from(number)));
        w.slurm("job", number, gone("FAILED (NonZeroExitCode)"));
    }
    assert_eq!(w.state("job"), JobState::Failed);
    let reason = w.reason("job");
    assert!(
        reason.contains("3 allocations in a row") && reason.contains("SLURM job 19 FAILED"),
        "{reason}"
    );
    assert!(reason.contains("/runs/.slurm"), "{reason}");
}

#[test]
fn nodes_whose_workers_do_not_come_are_not_waited_for_for_ever() {
    let mut w = allocated();
    w.join_of("n1-17", 1, "job", 1);
    for _ in 0..121 {
        w.live_on(Duration::from_secs(1));
    }
    assert_eq!(orders(&w)[0], "give back job-000000.1 Some(17)");
    assert_eq!(w.state("job"), JobState::Queued);
    w.live_on(Duration::from_secs(11));
    assert_eq!(orders(&w)[1], "want job-000000.2 None");
    // One node that is large enough takes it.
    w.slurm("job", 2, accepted(18));
    w.slurm("job", 2, seen("RUNNING", "", "n[1-2]"));
    w.join_of("n1-18", 2, "job", 2);
    w.live_on(Duration::from_secs(121));
    assert_eq!(w.places("job"), ["n1-18", "n1-18"]);
}

#[test]
fn jobs_beyond_the_bound_wait_until_an_allocation_is_over() {
    let mut w = World::new(&[]);
    for name in ["a", "b", "c", "d"] {
        w.submit_to_slurm(spec(name, Some(1)), 1);
    }
    assert_eq!(orders(&w).len(), 3);
    assert!(w.reason("d").contains("3 allocations of jobs are the bound"), "{}", w.reason("d"));
    w.slurm("a", 1, accepted(1));
    w.cancel("a", CancelMode::Now);
    assert_eq!(orders(&w).len(), 3, "it has not gone back yet");
    w.slurm("a", 1, gone("CANCELLED"));
    assert_eq!(orders(&w).last().unwrap(), "want d-000000.1 None");
}

#[test]
fn a_worker_of_an_allocation_that_is_over_is_sent_away() {
    let mut w = allocated();
    w.slurm("job", 1, gone("TIMEOUT"));
    w.take();
    w.join_of("n1-17", 1, "job", 1);
    let told = w.take();
    assert!(told.contains("refused (for good): allocation job-000000.1 is over"), "{told}");
}
