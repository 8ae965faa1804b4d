//! What is told of the whys of a job.

use std::time::Duration;

use common::ids::Rank;
use common::status::{
    AttemptCause, Explanation, FailureKind, GuiltyRank, JobState, Question, TrainerEnd,
};

use super::world::{KILLED, World, failed, id, restarting};
use crate::coordinator::WorkerMessage;

/// Two ranks on two workers, training, with the usual budgets.
fn training() -> World {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(2)));
    w.train("job");
    w
}

fn explain(w: &World, job: &str) -> Explanation {
    let now = w.moment();
    w.machine.explain(&id(job), now).unwrap()
}

/// The answers to one question.
fn answers(explained: &Explanation, question: Question) -> Vec<&str> {
    let answers = explained.answers.iter().filter(|answer| answer.question == question);
    answers.map(|answer| answer.text.as_str()).collect()
}

#[test]
fn an_attempt_that_was_restarted_keeps_its_guilty_rank_and_the_lines_that_it_left() {
    let mut w = training();
    w.end("job", 1, KILLED);
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Starting);
    let explained = explain(&w, "job");
    let [first, second] = explained.attempts.as_slice() else { panic!("{explained:#?}") };
    let AttemptCause { began, ended, guilty, world_size, .. } = first;
    assert_eq!(began, "attempt 1 starts: 2 ranks: a (0), b (1)");
    assert_eq!(ended, "rank 1 on worker `b` was killed by signal 9 (SIGKILL)");
    assert_eq!(*world_size, 2);
    let expected = GuiltyRank {
        rank: Rank(1),
        worker: "b".to_owned(),
        end: Some(KILLED),
        last_lines: vec!["last line of 1".to_owned()],
    };
    assert_eq!(guilty.as_ref(), Some(&expected));
    assert_eq!((second.ended.as_str(), &second.guilty), ("", &None));
    let why = format!("attempt 2 followed attempt 1: {ended}");
    assert_eq!(answers(&explained, Question::Restarted), [why]);
    assert_eq!(answers(&explained, Question::Pending), [w.reason("job")]);
}

#[test]
fn a_lost_worker_is_told_with_what_was_known_of_it_and_a_waiting_job_with_what_others_lack() {
    let mut w = training();
    w.drop_stream("b");
    w.end("job", 0, failed(FailureKind::Communication, "rank 1 vanished"));
    w.live_on(Duration::from_secs(6));
    assert_eq!(w.state("job"), JobState::Restarting);
    let explained = explain(&w, "job");
    let lost = "rank 1 on worker `b` was lost: worker `b` gave no sign of life for 5.0 s";
    assert_eq!(explained.attempts[0].ended, lost);
    assert_eq!(answers(&explained, Question::Pending), [w.reason("job")]);
    let of_a = explained.workers.iter().find(|row| row.worker == "a").unwrap();
    assert_eq!((of_a.free_slots, of_a.lacks.as_str()), (1, ""));
}

#[test]
fn a_final_job_tells_why_it_stopped_and_a_job_that_trains_has_no_question() {
    let mut w = training();
    assert_eq!(explain(&w, "job").answers, []);
    w.end("job", 1, failed(FailureKind::NotFinite, "loss is NaN"));
    w.end("job", 0, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    let explained = explain(&w, "job");
    assert_eq!(answers(&explained, Question::Stopped), [w.reason("job")]);
    let guilty = explained.attempts[0].guilty.as_ref().unwrap();
    assert_eq!((guilty.rank, guilty.last_lines.len()), (Rank(1), 1));
    assert!(explained.workers.is_empty(), "it waits for none");
}

#[test]
fn a_story_is_told_by_one_clock() {
    let mut w = training();
    w.pass(Duration::from_secs(60));
    for (rank, end) in [(1, KILLED), (0, TrainerEnd::Stopped)] {
        let mut report = w.report("job", rank, end);
        // The workers' clocks stopped at the beginning of time.
        report.at = 7;
        let worker = w.places("job")[rank as usize].clone();
        w.say(&worker, WorkerMessage::Ended(report));
    }
    let explained = explain(&w, "job");
    assert_eq!(explained.attempts.len(), 2);
    assert!(explained.decisions.iter().any(|told| told.text.contains("SIGKILL")));
    assert!(explained.decisions.is_sorted_by_key(|told| told.at), "{:#?}", explained.decisions);
}
