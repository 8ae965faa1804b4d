use std::path::PathBuf;
use std::time::Duration;

use common::spec::Resume;
use common::status::{JobState, TrainerEnd};

use super::world::{World, id, spec, state_of};
use crate::coordinator::{Answer, DrainOrder, Effect, Event, Refusal, Requeue, Ticket};

fn order() -> DrainOrder {
    DrainOrder::Drain { reason: "new kernel".to_owned(), grace: Some(Duration::from_secs(60)) }
}

fn answer(effects: &[Effect]) -> Answer {
    let answer = |e: &Effect| match e {
        Effect::Answer { answer, .. } => Some(answer.clone()),
        _ => None,
    };
    effects.iter().find_map(answer).expect("every question has an answer")
}

#[test]
fn a_drained_worker_gives_its_jobs_up_gracefully_and_takes_no_new_ones() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    w.take();
    let effects = w.drain("a", order());
    assert_eq!(answer(&effects), Answer::Drained(Some("draining")));
    let log = w.take();
    assert!(log.starts_with("persist drained(a) stop-decided\n"), "{log}");
    assert!(log.contains("-> a: stop job-000000.1 gracefully"), "{log}");
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(state_of(&w, "a"), "drained");
    w.submit(spec("next", Some(1)));
    assert_eq!(w.places("next"), ["b"]);
    w.submit(spec("pair", Some(2)));
    assert_eq!(
        w.reason("pair"),
        "needs 2 ranks of 1 slot; the cluster has 1 slot on 1 worker, room for 1 such rank; 1 worker \
         is drained"
    );
    w.drain("b", order());
    let reason = w.reason("pair");
    let all = "needs 2 ranks of 1 slot; no worker is in service; 2 workers are drained";
    assert_eq!(reason, all);
}

#[test]
fn a_requeued_job_goes_where_its_checkpoint_lies() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("other", Some(1)));
    w.submit(spec("job", Some(1)));
    assert_eq!(w.places("job"), ["b"]);
    w.train("job");
    w.commit_on("job", 20, Some("b"));
    w.cancel("job", crate::coordinator::CancelMode::Save);
    w.end("job", 0, TrainerEnd::Stopped);
    w.train("other");
    w.end("other", 0, TrainerEnd::Finished);
    let again = answer(&requeue(&mut w, "job", false));
    let Answer::Submitted(job_id) = again else { panic!("{again:?}") };
    let placed = &w.machine.ledger().jobs[&job_id].attempts[0].ranks[0];
    assert_eq!(placed.worker_name, "b", "a is idle too, and first by name");
}

#[test]
fn a_drain_outlives_the_coordinator_and_the_worker_and_ends_with_undo() {
    let mut w = World::new(&[("a", 1)]);
    w.drain("a", order());
    w.restart();
    w.new_life("a");
    w.join("a", 1);
    w.submit(spec("job", Some(1)));
    assert_eq!((w.state("job"), state_of(&w, "a")), (JobState::Queued, "drained".to_owned()));
    let effects = w.drain("a", DrainOrder::Undo);
    assert_eq!(answer(&effects), Answer::Drained(Some("ready")));
    assert_eq!(w.state("job"), JobState::Starting);
}

#[test]
fn a_drain_of_nobody_is_refused() {
    let mut w = World::new(&[("a", 1)]);
    let effects = w.drain("b", order());
    assert_eq!(answer(&effects), Answer::Refused(Refusal::UnknownWorker("b".to_owned())));
}

fn requeue(w: &mut World, ended: &str, from_start: bool) -> Vec<Effect> {
    let ticket = Ticket(w.number());
    let name = format!("again{}", ticket.0);
    let requeue = Requeue { job_id: id(&name), request_id: name, from_start, knows_secret: false };
    w.step(Event::Requeue { ticket, ended: id(ended), requeue })
}

fn resume(w: &World, answer: &Answer) -> Resume {
    let Answer::Submitted(job_id) = answer else { panic!("{answer:?}") };
    w.machine.ledger().jobs[job_id].submission.spec.checkpoint.resume.clone()
}

#[test]
fn a_requeued_job_goes_on_from_the_newest_checkpoint_where_that_makes_sense() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    let effects = requeue(&mut w, "job", false);
    let refusal = Refusal::NotEnded(id("job"), JobState::Starting);
    assert_eq!(answer(&effects), Answer::Refused(refusal));
    w.train("job");
    w.commit("job", 20);
    w.cancel("job", crate::coordinator::CancelMode::Save);
    w.end("job", 0, TrainerEnd::Stopped);
    let again = answer(&requeue(&mut w, "job", false));
    let Answer::Submitted(job_id) = &again else { panic!("{again:?}") };
    assert_eq!(
        w.machine.ledger().jobs[job_id].decisions[0].text,
        "submitted as job `job-000000` was, to go on from its step-00000020"
    );
    let path = PathBuf::from("/runs/job-000000/checkpoints/step-00000020");
    assert_eq!(resume(&w, &again), Resume::Path(path));
    let anew = answer(&requeue(&mut w, "job", true));
    assert_eq!(resume(&w, &anew), Resume::Never, "as the job file says");
}
