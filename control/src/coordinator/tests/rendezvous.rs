use std::time::Duration;

use expect_test::expect;

use common::ids::Generation;
use common::status::{CheckpointRow, FailureKind, JobState, Live, TrainerEnd};

use super::world::{KILLED, World, check, id, key, peer, restarting, spec, whole};
use crate::coordinator::{NcclId, Peer, WorkerMessage};

#[test]
fn the_rank_table_goes_to_every_node_once_when_all_ranks_listen() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.take();
    w.ready("job", 1);
    assert_eq!(w.take(), "");
    assert_eq!(w.reason("job"), "2 ranks: a (0), b (1); waiting for these ranks to start: 0 (a)");
    w.ready("job", 0);
    w.running("job", 0);
    w.running("job", 1);
    check(
        &w.take(),
        &expect![[r#"
            -> a: rank table job-000000.1 of 2
            -> b: rank table job-000000.1 of 2
            persist attempt-running
        "#]],
    );
    assert_eq!(w.state("job"), JobState::Running);
    assert_eq!(w.reason("job"), "2 ranks: a (0), b (1)");
}

#[test]
fn every_node_learns_where_nccl_meets_and_an_older_attempts_place_is_forgotten() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.take();
    w.ready("job", 1);
    let ready = |generation: u64, id: &[u8]| {
        let (key, libtorch) = (key("job", generation, 0), String::new());
        let peer = Peer { nccl_id: NcclId(id.to_vec()), ..peer(0, "a") };
        WorkerMessage::TrainerReady { key, peer, pid: 100, libtorch }
    };
    let now = w.generation("job");
    w.say("a", ready(now - 1, &[1, 1]));
    assert_eq!(w.take(), "", "a stale generation changes nothing (A4)");
    w.say("a", ready(now, &[7, 8]));
    check(
        &w.take(),
        &expect![[r#"
            -> a: rank table job-000000.1 of 2, NCCL [[7, 8]]
            -> b: rank table job-000000.1 of 2, NCCL [[7, 8]]
        "#]],
    );
    assert_eq!(format!("{:?}", NcclId(vec![7, 8])), "NcclId(..)", "logs are read by more people");
}

#[test]
fn ranks_that_do_not_start_in_time_are_named() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.ready("job", 0);
    w.take();
    w.live_on(Duration::from_secs(31));
    check(
        &w.take(),
        &expect![[r#"
            persist stop-decided
            -> a: stop job-000000.1 at once: rendezvous: 1 of 2 ranks did not start within 30 s: 1 (worker `b`)
            -> b: stop job-000000.1 at once: rendezvous: 1 of 2 ranks did not start within 30 s: 1 (worker `b`)
        "#]],
    );
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(w.state("job"), JobState::Failed);
    let failure = w.machine.ledger().jobs[&id("job")].failure.clone().unwrap();
    assert_eq!(failure.kind, Some(FailureKind::Start));
    assert!(failure.message.ends_with("1 (worker `b`)"), "{}", failure.message);
}

#[test]
fn ranks_that_do_not_connect_in_time_are_named() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("job", Some(2)));
    w.ready("job", 0);
    w.ready("job", 1);
    w.running("job", 1);
    w.live_on(Duration::from_secs(61));
    w.end("job", 0, TrainerEnd::Stopped);
    w.end("job", 1, TrainerEnd::Stopped);
    assert_eq!(
        w.reason("job"),
        "rendezvous: 1 of 2 ranks did not connect to their peers within 60 s: 0 (worker `a`)"
    );
}

#[test]
fn a_job_whose_ranks_all_finish_has_succeeded() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    w.take();
    w.end("job", 1, TrainerEnd::Finished);
    w.end("job", 0, TrainerEnd::Finished);
    check(
        &w.take(),
        &expect![[r#"
            persist ended(1)
            -> a: acknowledge end of 1
            persist ended(0) job-ended(succeeded: finished)
            -> a: acknowledge end of 0
        "#]],
    );
    let job = &w.machine.ledger().jobs[&id("job")];
    assert_eq!(job.step, 40, "of the summary");
    assert!(job.summary.is_some());
}

#[test]
fn a_stale_generation_changes_nothing() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.take();
    let stale = key("job", 0, 0);
    let (job_id, generation) = (id("job"), Generation(0));
    let checkpoint = CheckpointRow {
        tag: "step-00000001".to_owned(),
        step: 1,
        path: "/c".to_owned(),
        world_size: 1,
        zero_stage: 0,
        loss: None,
        val_loss: None,
        bytes: 1,
        durable: true,
        pinned: false,
        worker: None,
    };
    let before = w.machine.ledger().clone();
    for message in [
        WorkerMessage::TrainerReady {
            key: stale.clone(),
            peer: peer(0, "a"),
            pid: 1,
            libtorch: String::new(),
        },
        WorkerMessage::TrainerRunning { key: stale.clone() },
        WorkerMessage::Progress { job_id: job_id.clone(), generation, live: Live::default() },
        WorkerMessage::Notes { job_id: job_id.clone(), generation, notes: vec!["n".to_owned()] },
        WorkerMessage::Checkpoint {
            job_id: job_id.clone(),
            generation,
            checkpoint,
            removed: vec![],
            found: None,
        },
        WorkerMessage::PrepareFailed {
            job_id,
            generation,
            is_configuration: true,
            message: "m".to_owned(),
        },
    ] {
        w.say("a", message);
        assert_eq!(w.take(), "");
    }
    let mut report = w.report("job", 0, TrainerEnd::Finished);
    report.key = stale;
    w.say("a", WorkerMessage::Ended(report));
    assert_eq!(w.take(), "-> a: acknowledge end of 0\n", "or the worker would report it for ever");
    assert_eq!(*w.machine.ledger(), before);
}

#[test]
fn only_the_worker_that_holds_a_rank_speaks_for_it() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    assert_eq!(w.places("job"), ["a"]);
    let report = w.report("job", 0, TrainerEnd::Finished);
    w.say("b", WorkerMessage::Ended(report));
    assert_eq!(w.state("job"), JobState::Running);
}

fn tell_checkpoint(w: &mut World, step: u64, removed: &[&str], found: Option<&[&str]>) {
    let checkpoint = whole("job", step);
    let tags = |all: &[&str]| all.iter().map(|tag| (*tag).to_owned()).collect();
    let (removed, found) = (tags(removed), found.map(tags));
    let (job_id, generation) = (id("job"), Generation(w.generation("job")));
    w.say("a", WorkerMessage::Checkpoint { job_id, generation, checkpoint, removed, found });
}

#[test]
fn what_an_attempt_finds_at_its_start_corrects_the_catalogue() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    tell_checkpoint(&mut w, 10, &[], None);
    // Step 20 was committed and step 10 removed when a kill cut it off.
    tell_checkpoint(&mut w, 20, &[], Some(&["step-00000020"]));
    tell_checkpoint(&mut w, 30, &[], None);
    // The worker tells all again after a lost stream.
    tell_checkpoint(&mut w, 20, &[], Some(&["step-00000020"]));
    let rows = w.machine.checkpoints(&id("job")).unwrap();
    let steps: Vec<u64> = rows.iter().map(|row| row.step).collect();
    assert_eq!(steps, [20, 30]);
}

#[test]
fn what_another_worker_saved_and_removed_leaves_where_the_root_is_shared() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(restarting("job", Some(1)));
    w.train("job");
    w.commit_on("job", 10, Some("a"));
    // Steps 20 and 30 were committed and 10 removed, and nobody heard of it.
    w.end("job", 0, KILLED);
    w.drop_stream("a");
    w.live_on(Duration::from_secs(6));
    assert_eq!(w.places("job"), ["b"]);
    let all = vec!["step-00000020".to_owned(), "step-00000030".to_owned()];
    for (step, found) in [(20, vec![]), (30, all)] {
        let checkpoint = CheckpointRow { worker: Some("b".to_owned()), ..whole("job", step) };
        let (job_id, generation) = (id("job"), Generation(w.generation("job")));
        let (removed, found) = (Vec::new(), Some(found));
        w.say("b", WorkerMessage::Checkpoint { job_id, generation, checkpoint, removed, found });
    }
    let rows = w.machine.checkpoints(&id("job")).unwrap();
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [20, 30]);
}

#[test]
fn what_is_found_beyond_the_step_that_an_attempt_goes_on_from_is_of_an_ended_history() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    // Step 30 cannot be read: this attempt goes on from step 20, and soon saves by itself.
    tell_checkpoint(&mut w, 20, &[], Some(&[]));
    tell_checkpoint(&mut w, 30, &[], Some(&["step-00000020", "step-00000030"]));
    tell_checkpoint(&mut w, 22, &[], None);
    let live = Live { step: 22, resumed_at_step: Some(20), ..Live::default() };
    let (job_id, generation) = (id("job"), Generation(w.generation("job")));
    w.say("a", WorkerMessage::Progress { job_id, generation, live });
    let rows = w.machine.checkpoints(&id("job")).unwrap();
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [20, 22]);
}

#[test]
fn checkpoints_are_catalogued_and_removed_ones_leave() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    w.train("job");
    tell_checkpoint(&mut w, 10, &[], None);
    tell_checkpoint(&mut w, 20, &[], None);
    w.end("job", 0, TrainerEnd::Finished);
    // The last commit may be reported after the end.
    tell_checkpoint(&mut w, 30, &["step-00000010"], None);
    let rows = w.machine.checkpoints(&id("job")).unwrap();
    let tags: Vec<&str> = rows.iter().map(|row| row.tag.as_str()).collect();
    assert_eq!(tags, ["step-00000020", "step-00000030"]);
    assert_eq!(
        w.machine.ledger().jobs[&id("job")].latest_checkpoint().unwrap().path,
        whole("job", 30).path
    );
}

#[test]
fn what_is_told_again_after_a_reconnect_is_no_second_event() {
    let mut w = World::new(&[("a", 1)]);
    w.submit(spec("job", Some(1)));
    let note = |w: &mut World, notes: &[&str]| {
        let notes = notes.iter().map(|&note| note.to_owned()).collect();
        let (job_id, generation) = (id("job"), Generation(1));
        w.say("a", WorkerMessage::Notes { job_id, generation, notes });
    };
    // Saved before anybody said where the attempt goes on.
    tell_checkpoint(&mut w, 5, &[], Some(&["step-00000005"]));
    tell_checkpoint(&mut w, 10, &[], None);
    w.train("job");
    tell_checkpoint(&mut w, 20, &[], None);
    tell_checkpoint(&mut w, 30, &["step-00000010"], None);
    note(&mut w, &["one", "two"]);
    let told = w.machine.ledger().clone();
    w.take();
    tell_checkpoint(&mut w, 5, &[], Some(&["step-00000005"]));
    tell_checkpoint(&mut w, 20, &[], None);
    tell_checkpoint(&mut w, 30, &["step-00000010"], None);
    note(&mut w, &["one", "two"]);
    assert_eq!(w.take(), "");
    assert_eq!(*w.machine.ledger(), told);
    // What is new among it still counts.
    tell_checkpoint(&mut w, 30, &["step-00000020"], None);
    note(&mut w, &["two", "three"]);
    assert_eq!(w.take(), "persist checkpoint\npersist notes\n");
    assert_eq!(w.machine.ledger().jobs[&id("job")].notes, ["one", "two", "three"]);
}

#[test]
fn a_rank_that_is_behind_does_not_take_the_jobs_step_back() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(spec("job", Some(2)));
    w.train("job");
    let (job_id, generation) = (id("job"), Generation(1));
    let live = Live { step: 694, ..Live::default() };
    w.say("b", WorkerMessage::Progress { job_id, generation, live });
    w.progress("job", 687, 1.0);
    assert_eq!(w.status("job").row.step, 694);
    w.progress("job", 695, 1.0);
    assert_eq!(w.status("job").row.step, 695);
}
