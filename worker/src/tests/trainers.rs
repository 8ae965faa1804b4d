use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::coordinator_message::Kind as Say;
use proto::v1::worker_message::Kind as Heard;
use proto::v1::{Empty, FetchOrder, StopJob, TrainerEnd, trainer_end};

use super::coordinator::{Coordinator, eventually};
use super::script::{LIBTORCH, OBEYED, Script};
use super::setup::{Folders, JOB, SLOTS, Worker, acknowledge, csv, hand_out_table, meet, start};
use crate::config::Config;
use crate::libtorch::Libtorch;

fn kind(end: Option<TrainerEnd>) -> trainer_end::Kind {
    end.unwrap().kind.unwrap()
}

fn stop(generation: u64, gracefully: bool, grace_ms: u64) -> Say {
    let (job_id, reason) = (JOB.to_owned(), "a test".to_owned());
    Say::Stop(StopJob { job_id, generation, reason, gracefully, grace_ms })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_end_and_everything_about_it_is_told() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    let hello = coordinator.hello().await;
    assert_eq!((hello.slots, hello.advertise.as_str()), (SLOTS, "127.0.0.1"));
    coordinator.say(Say::Start(folders.start(Script::Finish, 1, 2)));
    meet(&mut coordinator, 1, 2).await;
    let told = |heard: &Heard| match heard {
        Heard::TrainerReady(ready) => Some(ready.libtorch.clone()),
        _ => None,
    };
    let libtorch: Vec<String> = coordinator.history.iter().filter_map(told).collect();
    assert_eq!(libtorch, [LIBTORCH, LIBTORCH]);
    let mut ends = vec![coordinator.ended().await, coordinator.ended().await];
    ends.sort_by_key(|end| end.rank);
    for (rank, end) in (0..).zip(&ends) {
        assert_eq!(kind(end.end.clone()), trainer_end::Kind::Finished(Empty {}));
        assert_eq!(end.summary_json, format!("{{\"steps\":{rank}}}"));
        assert!(end.last_lines.contains(&format!("hello from rank {rank}")), "{end:?}");
        let log = folders.run_dir().join(format!("logs/rank-{rank}.log"));
        let line = format!("hello from rank {rank}\n");
        let is_there = || fs_err::read_to_string(&log).is_ok_and(|text| text.contains(&line));
        eventually("its line in the log, which no end waits for", is_there).await;
    }
    let count = |is: fn(&Heard) -> bool| coordinator.history.iter().filter(|h| is(h)).count();
    assert_eq!(count(|heard| matches!(heard, Heard::Notes(_))), 2);
    assert_eq!(count(|heard| matches!(heard, Heard::Progress(_))), 2);
    assert_eq!(fs_err::read_to_string(folders.run_dir().join("job.toml")).unwrap(), "x = 1");
    let shared = std::sync::Arc::clone(&coordinator.shared);
    let points = move || {
        let bulk = shared.bulk.lock().unwrap();
        let jobs = bulk.iter().flat_map(|batch| &batch.jobs);
        jobs.flat_map(|job| &job.metrics)
            .map(|series| (series.rank, series.points[0].step))
            .collect()
    };
    eventually("the metrics of both ranks", || {
        let mut points: Vec<(u32, u64)> = points();
        points.sort_unstable();
        points == [(0, 5), (1, 5)]
    })
    .await;
    let outcomes = folders.path("state/outcomes");
    eventually("durable ends", || fs_err::read_dir(&outcomes).unwrap().count() == 2).await;
    acknowledge(&coordinator, &ends);
    eventually("forgotten ends", || fs_err::read_dir(&outcomes).unwrap().count() == 0).await;
    worker.stop().await;
}

async fn end_of(script: Script) -> proto::v1::TrainerEnded {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(script, 1, 1)));
    if script != Script::Stillborn {
        hand_out_table(&mut coordinator, 1, 1).await;
    }
    let end = coordinator.ended().await;
    worker.stop().await;
    end
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_is_told_for_what_it_is() {
    let failed = kind(end_of(Script::Fail).await.end);
    let trainer_end::Kind::Failed(failure) = failed else { panic!("{failed:?}") };
    assert_eq!((failure.step, failure.message.as_str()), (Some(3), "line 7: not a number"));
    let panicked = end_of(Script::Panic).await;
    let trainer_end::Kind::Panicked(panic) = kind(panicked.end.clone()) else {
        panic!("{panicked:?}")
    };
    assert_eq!(panic.message, "no room");
    assert!(panic.place.contains("script.rs"), "{panic:?}");
    assert_eq!(kind(end_of(Script::Exit7).await.end), trainer_end::Kind::Exited(7));
    assert_eq!(kind(end_of(Script::Stillborn).await.end), trainer_end::Kind::Exited(3));
    let killed = trainer_end::Killed { signal: 9, core_dumped: false };
    let end = kind(end_of(Script::KillItself).await.end);
    assert_eq!(end, trainer_end::Kind::Killed(killed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_trainer_is_known_within_a_moment() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    // The promise is 250 ms (A10); the best of a few, and twice that, as this machine may have
    // other work.
    let within = Duration::from_millis(500);
    let mut best = Duration::MAX;
    for generation in 1..=5 {
        coordinator.say(Say::Start(folders.start(Script::Hang, generation, 1)));
        let pids = meet(&mut coordinator, generation, 1).await;
        let killed_at = Instant::now();
        kill(Pid::from_raw(pids[&0].cast_signed()), Signal::SIGKILL).unwrap();
        let end = coordinator.ended().await;
        best = best.min(killed_at.elapsed());
        acknowledge(&coordinator, &[end]);
        if best < within {
            break;
        }
    }
    assert!(best < within, "{best:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_obeyed_or_enforced() {
    let stopped = trainer_end::Kind::Stopped(Empty {});
    for (script, order, at_least_ms) in [
        (Script::Obey, stop(1, true, 10_000), 0),
        (Script::Obey, stop(1, false, 0), 0),
        (Script::Hang, stop(1, false, 0), 2000),
    ] {
        let folders = Folders::new();
        let mut coordinator = Coordinator::start().await;
        let worker = Worker::start(folders.config(&coordinator.address));
        coordinator.hello().await;
        coordinator.say(Say::Start(folders.start(script, 1, 1)));
        meet(&mut coordinator, 1, 1).await;
        let asked_at = Instant::now();
        coordinator.say(stop(0, false, 0));
        coordinator.say(order);
        let end = coordinator.ended().await;
        let took = asked_at.elapsed();
        // One that had to be killed says nothing.
        assert_eq!(end.summary_json, if script == Script::Obey { OBEYED } else { "" });
        assert_eq!(kind(end.end), stopped);
        let least = Duration::from_millis(at_least_ms);
        // Far less than the first one's grace.
        assert!(took >= least && took < least + Duration::from_secs(8), "{script:?}: {took:?}");
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_that_outlasts_its_grace_is_told_as_cut_off() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Hang, 1, 1)));
    meet(&mut coordinator, 1, 1).await;
    coordinator.say(stop(1, true, 200));
    let end = kind(coordinator.ended().await.end);
    let trainer_end::Kind::Failed(failure) = end else { panic!("{end:?}") };
    assert_eq!(failure.kind(), proto::v1::FailureKind::CutOff);
    assert!(failure.message.contains("its save after 200ms"), "{failure:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_and_repeated_orders_change_nothing() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 5, 1)));
    meet(&mut coordinator, 5, 1).await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 5, 1)));
    coordinator.say(Say::Start(folders.start(Script::Fail, 4, 1)));
    coordinator.say(stop(4, false, 0));
    coordinator.say(stop(6, false, 0));
    coordinator.rest();
    let alive = |heard| matches!(heard, Heard::Heartbeat(_)).then_some(());
    coordinator.wait("a heartbeat", alive).await;
    coordinator.wait("another", alive).await;
    let others: Vec<_> =
        coordinator.rest().into_iter().filter(|h| alive(h.clone()).is_none()).collect();
    assert_eq!(others, [], "A4");
    coordinator.say(stop(5, true, 10_000));
    assert_eq!(coordinator.ended().await.generation, 5);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_input_is_told_before_anything_starts() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    let mut spec = folders.spec(Script::Finish);
    spec.data.source = csv("/nonexistent/co2.csv".into());
    coordinator.say(Say::Start(start(&spec, 1, 1)));
    let failed = coordinator
        .wait("a refusal", |heard| match heard {
            Heard::PrepareFailed(failed) => Some(failed),
            _ => None,
        })
        .await;
    assert!(failed.is_configuration);
    for part in ["data.path", "/nonexistent/co2.csv", "node-1", "No such file"] {
        assert!(failed.message.contains(part), "{part} in {}", failed.message);
    }
    assert!(!folders.run_dir().exists());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_libtorch_nothing_starts_and_the_reason_says_where_it_was_looked_for() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let libtorch = Libtorch::Missing("no PyTorch 2.11.0".to_owned());
    let config = Config { libtorch, ..folders.config(&coordinator.address) };
    let worker = Worker::start(config);
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Finish, 1, 1)));
    let failed = coordinator
        .wait("a refusal", |heard| match heard {
            Heard::PrepareFailed(failed) => Some(failed),
            _ => None,
        })
        .await;
    assert!(!failed.is_configuration, "another node may have one");
    let said = "worker `node-1` has no libtorch for its trainers: no PyTorch 2.11.0";
    assert_eq!(failed.message, said);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_do_not_exist_or_are_taken_twice_are_refused() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    let mut beyond = folders.start(Script::Finish, 1, 1);
    beyond.ranks[0].slots = vec![SLOTS];
    let mut twice = folders.start(Script::Finish, 2, 2);
    twice.ranks[1].slots = vec![0];
    for (order, part) in [(beyond, "wants slot 4"), (twice, "given to two ranks")] {
        coordinator.say(Say::Start(order));
        let message = coordinator
            .wait("a refusal", |heard| match heard {
                Heard::PrepareFailed(failed) => Some(failed.message),
                _ => None,
            })
            .await;
        assert!(message.contains(part), "{message}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_fetched_checked_and_put_in_its_place() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    *coordinator.shared.blob.lock().unwrap() = b"1,2,3".to_vec();
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    let mut spec = folders.spec(Script::PrintData);
    spec.data.source = csv("/home/user/co2.csv".into());
    let mut order = start(&spec, 1, 1);
    let hash = blake3::hash(b"1,2,3").to_hex().to_string();
    order.uploads.insert("/home/user/co2.csv".to_owned(), hash);
    coordinator.say(Say::Start(order.clone()));
    meet(&mut coordinator, 1, 1).await;
    let end = coordinator.ended().await;
    assert!(end.last_lines.contains(&"data: 1,2,3".to_owned()), "{end:?}");

    let wrong = blake3::hash(b"something else").to_hex().to_string();
    order.uploads.insert("/home/user/co2.csv".to_owned(), wrong);
    order.generation = 2;
    coordinator.say(Say::Start(order));
    let failed = coordinator
        .wait("a refusal", |heard| match heard {
            Heard::PrepareFailed(failed) => Some(failed),
            _ => None,
        })
        .await;
    assert!(failed.message.contains("arrived damaged"), "{}", failed.message);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_run_are_sent_and_others_are_not() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    fs_err::create_dir_all(folders.run_dir()).unwrap();
    fs_err::write(folders.run_dir().join("summary.json"), "{}").unwrap();
    let fetch = |path: &str| {
        Say::Fetch(FetchOrder {
            fetch_id: path.to_owned(),
            job_id: JOB.to_owned(),
            root: folders.run_dir().to_string_lossy().into_owned(),
            paths: vec![path.to_owned()],
        })
    };
    let shared = std::sync::Arc::clone(&coordinator.shared);
    let count = move || shared.files.lock().unwrap().len();
    coordinator.say(fetch("summary.json"));
    eventually("a file", || count() == 1).await;
    coordinator.say(fetch("../../state/identity.json"));
    eventually("an answer", || count() == 2).await;
    let files = std::mem::take(&mut *coordinator.shared.files.lock().unwrap());
    assert_eq!(files[0].chunk.as_ref().unwrap().data, b"{}");
    assert_eq!(files[1].chunk, None);
    assert!(files[1].error.contains("leads out of the folder"), "{}", files[1].error);
    worker.stop().await;
}
