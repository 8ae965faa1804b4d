//! Claims about `rsctl explain` and what its neighbours take.

use expect_test::expect;

use common::ids::{AttemptId, Rank};
use common::status::{
    Answer, AttemptCause, Decision, Explanation, GuiltyRank, JobState, Question, TrainerEnd,
    WorkerLack, explanation,
};

use crate::commands::logs::{Since, since};
use crate::render::explain::render;
use crate::tests::statuses::{NOW, running};

fn cause(attempt: u32, state: JobState) -> AttemptCause {
    AttemptCause {
        attempt: AttemptId(attempt),
        state,
        world_size: 2,
        began: format!("attempt {attempt} starts: 2 ranks: node-a (0), node-b (1)"),
        started_at: NOW - 90_000,
        running_at: Some(NOW - 88_600),
        ended_at: None,
        ended: String::new(),
        guilty: None,
    }
}

#[test]
fn a_restarted_job_with_a_straggler_is_explained_like_this() {
    let ended = "rank 1 on worker `node-b` was killed by signal 9 (SIGKILL)".to_owned();
    let first = AttemptCause {
        ended_at: Some(NOW - 50_000),
        ended: ended.clone(),
        guilty: Some(GuiltyRank {
            rank: Rank(1),
            worker: "node-b".to_owned(),
            end: Some(TrainerEnd::Killed { signal: 9, core_dumped: false }),
            last_lines: vec!["step 120 loss 0.0421".to_owned()],
        }),
        ..cause(1, JobState::Failed)
    };
    let second =
        AttemptCause { started_at: NOW - 49_000, running_at: None, ..cause(2, JobState::Running) };
    let pace = explanation::pace(vec![
        (Rank(0), "node-a".to_owned(), 0.010, 0.0155),
        (Rank(1), "node-b".to_owned(), 0.025, 0.0005),
        (Rank(2), "node-a".to_owned(), 0.010, 0.0155),
    ]);
    let restarted = Answer {
        question: Question::Restarted,
        text: format!("attempt 2 followed attempt 1: {ended}"),
    };
    let explained = Explanation {
        row: running().row,
        answers: [restarted].into_iter().chain(explanation::slow(&pace)).collect(),
        workers: Vec::new(),
        attempts: vec![first, second],
        pace,
        decisions: vec![Decision { at: NOW - 50_100, attempt: AttemptId(1), text: ended }],
    };
    expect![[r#"
        co2-lstm-ab12cd is running
        why restarted: attempt 2 followed attempt 1: rank 1 on worker `node-b` was killed by signal 9 (SIGKILL)
        why slow: rank 1 on worker `node-b` is a straggler, score 0.40: it computes 25.0 ms a step, 2.50 times the median; the others wait 15.5 ms a step for their peers

        attempt 1: failed after 40s on 2 ranks
          began: attempt 1 starts: 2 ranks: node-a (0), node-b (1)
          trained: from 1.4s after that on
          ended: rank 1 on worker `node-b` was killed by signal 9 (SIGKILL)
          first: rank 1 on node-b was killed by signal 9 (SIGKILL)
            | step 120 loss 0.0421

        attempt 2: running on 2 ranks
          began: attempt 2 starts: 2 ranks: node-a (0), node-b (1)

        RANK  WORKER  COMPUTES    WAITS  SCORE
           0  node-a   10.0 ms  15.5 ms  1.00
           1  node-b   25.0 ms   0.5 ms  0.40 straggler
           2  node-a   10.0 ms  15.5 ms  1.00

        decisions:
          2023-11-14T22:14:09.900Z  rank 1 on worker `node-b` was killed by signal 9 (SIGKILL)
    "#]].assert_eq(&render(&explained));
}

#[test]
fn a_waiting_job_is_explained_worker_by_worker() {
    let mut row = running().row;
    row.state = JobState::Queued;
    let text = "needs 4 ranks of 1 slot; 1 of 6 slots on 2 workers are idle".to_owned();
    let lack = |worker: &str, free_slots, lacks: &str| WorkerLack {
        worker: worker.to_owned(),
        state: "ready".to_owned(),
        device: "cpu".to_owned(),
        slots: 3,
        free_slots,
        lacks: lacks.to_owned(),
        jobs: vec!["other-ab12cd".parse().unwrap()],
    };
    let explained = Explanation {
        row,
        answers: vec![Answer { question: Question::Pending, text }],
        workers: vec![
            lack("node-a", 1, ""),
            lack("node-b", 0, "0 of 3 slots free, a rank takes 1"),
        ],
        attempts: Vec::new(),
        pace: Vec::new(),
        decisions: Vec::new(),
    };
    expect![[r#"
        co2-lstm-ab12cd is queued
        why pending: needs 4 ranks of 1 slot; 1 of 6 slots on 2 workers are idle

        WORKER  DEVICE  SLOTS  FREE  LACKS                              TAKEN BY
        node-a  cpu         3     1  -                                  other-ab12cd
        node-b  cpu         3     0  0 of 3 slots free, a rank takes 1  other-ab12cd
    "#]]
    .assert_eq(&render(&explained));
}

#[test]
fn since_takes_durations_and_times() {
    assert_eq!(since("10m"), Ok(Since::Ago(std::time::Duration::from_secs(600))));
    assert_eq!(since("1970-01-01T00:00:01Z"), Ok(Since::At(1000)));
    assert_eq!(since("1970-01-01 00:01:00"), Ok(Since::At(60_000)));
    assert!(since("yesterday").unwrap_err().contains("10m"));
}
