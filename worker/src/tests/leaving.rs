use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use proto::v1::coordinator_message::Kind as Say;
use proto::v1::worker_message::Kind as Heard;
use proto::v1::{Empty, trainer_end};

use common::exit::ExitCode;

use super::coordinator::Coordinator;
use super::script::Script;
use super::setup::{Folders, Worker, meet};
use crate::config::Config;

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_worker_stops_its_trainers_first_and_says_goodbye_last() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 1, 2)));
    meet(&mut coordinator, 1, 2).await;
    worker.shutdown.request("SIGTERM");
    let withdrawing = coordinator
        .wait("a withdrawal before any end", |heard| match heard {
            Heard::TrainerEnded(end) => panic!("nobody knows why yet: {end:?}"),
            Heard::Withdrawing(withdrawing) => Some(withdrawing),
            _ => None,
        })
        .await;
    assert_eq!((withdrawing.reason.as_str(), withdrawing.grace_ms), ("SIGTERM", 5000));
    let mut ends = 0;
    let reason = coordinator
        .wait("a goodbye", |heard| match heard {
            Heard::TrainerEnded(end) => {
                let stopped = trainer_end::Kind::Stopped(Empty {});
                assert_eq!(end.end.unwrap().kind.unwrap(), stopped);
                ends += 1;
                None
            }
            Heard::Leaving(leaving) => Some(leaving.reason),
            _ => None,
        })
        .await;
    assert_eq!((ends, reason.as_str()), (2, "SIGTERM"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_gives_trainers_the_longer_grace() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 1, 1)));
    meet(&mut coordinator, 1, 1).await;
    worker.shutdown.announce("SIGUSR1");
    let withdrawing = coordinator
        .wait("a withdrawal", |heard| match heard {
            Heard::Withdrawing(withdrawing) => Some(withdrawing),
            _ => None,
        })
        .await;
    assert_eq!((withdrawing.reason.as_str(), withdrawing.grace_ms), ("SIGUSR1", 50_000));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_lent_is_left_in_time() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    // It is told when a fifth is left; trainers must be up by then, and all be over after it.
    let lent_for = Duration::from_secs(20);
    let ends_at = SystemTime::now() + lent_for;
    let config = Config { ends_at: Some(ends_at), ..folders.config(&coordinator.address) };
    let (worker, started) = (Worker::start(config), Instant::now());
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 1, 1)));
    meet(&mut coordinator, 1, 1).await;
    let withdrawing = coordinator
        .wait("a withdrawal", |heard| match heard {
            Heard::Withdrawing(withdrawing) => Some(withdrawing),
            _ => None,
        })
        .await;
    assert!(started.elapsed() > lent_for / 2, "{:?}", started.elapsed());
    assert_eq!(withdrawing.reason, crate::lifetime::REASON);
    assert_eq!(withdrawing.grace_ms, 50_000);
    assert_eq!(worker.end().await.unwrap(), ExitCode::Done);
    assert!(SystemTime::now() < ends_at, "all of it in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_end_waits_for_nobody_and_leaves_nobody() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Hang, 1, 2)));
    let pids = meet(&mut coordinator, 1, 2).await;
    let forced_at = Instant::now();
    worker.shutdown.force("a second signal");
    worker.end().await.unwrap();
    // No grace of 5 s; the goodbye and a slow disk have their deadlines.
    assert!(forced_at.elapsed() < Duration::from_secs(4), "{:?}", forced_at.elapsed());
    for pid in pids.into_values() {
        let found = kill(Pid::from_raw(pid.cast_signed()), None);
        assert_eq!(found, Err(Errno::ESRCH), "process {pid} is gone and reaped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_worker_takes_no_new_job() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Hang, 1, 1)));
    meet(&mut coordinator, 1, 1).await;
    worker.shutdown.request("SIGTERM");
    let mut other = folders.start(Script::Finish, 1, 1);
    other.job_id = "b-2".to_owned();
    // The signal and the order race; whichever wins, no trainer of the second job outlives this.
    coordinator.say(Say::Start(other));
    coordinator
        .wait("the second job's end", |heard| match heard {
            Heard::PrepareFailed(failed) if failed.job_id == "b-2" => Some(()),
            Heard::TrainerEnded(end) if end.job_id == "b-2" => Some(()),
            _ => None,
        })
        .await;
    worker.shutdown.force("enough");
    worker.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_nobody_needs_ends_by_itself() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let leave_after = Duration::from_secs(5);
    let config = folders.config(&coordinator.address);
    let began = Instant::now();
    let worker = Worker::start(Config { leave_after: Some(leave_after), ..config });
    coordinator.hello().await;
    let reason = coordinator
        .wait("a goodbye", |heard| match heard {
            Heard::Leaving(leaving) => Some(leaving.reason),
            _ => None,
        })
        .await;
    assert!(reason.contains("nothing to run for 5s"), "{reason}");
    assert!(began.elapsed() >= leave_after, "not before");
    assert_eq!(worker.end().await.unwrap(), ExitCode::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_coordinator_ends_by_itself() {
    let folders = Folders::new();
    let leave_after = Some(Duration::from_secs(1));
    // Nobody listens at the discard port of loopback.
    let config = Config { leave_after, ..folders.config("127.0.0.1:9") };
    assert_eq!(Worker::start(config).end().await.unwrap(), ExitCode::Done);
}
