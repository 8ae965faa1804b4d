use common::exit::ExitCode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::coordinator_message::Kind as Say;
use proto::v1::worker_message::Kind as Heard;
use proto::v1::{Ping, Refused, StartTrainers, StopJob};

use super::coordinator::{Coordinator, eventually, welcome};
use super::script::Script;
use super::setup::{Folders, JOB, Worker, acknowledge, meet};

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinators_restart_touches_no_trainer_and_the_new_one_hears_the_whole_truth() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 3, 2)));
    let pids = meet(&mut coordinator, 3, 2).await;
    let address = coordinator.die().await;

    let mut coordinator = Coordinator::start_at(&address, []).await;
    let hello = coordinator.hello().await;
    assert_eq!(hello.running.len(), 2);
    for trainer in &hello.running {
        assert_eq!(trainer.pid, pids[&trainer.rank], "the same processes (A11)");
        assert!(trainer.is_running && trainer.peer.is_some());
        assert_eq!(trainer.generation, 3);
    }
    worker.shutdown.request("the test is over");
    coordinator.ended().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_again_until_it_is_acknowledged_also_by_the_next_life() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    let first_life = coordinator.hello().await;
    let gpus = first_life.gpus.clone().expect("whatever it has, or why it has none");
    assert!(gpus.source.contains("NVML"), "{gpus:?}");
    coordinator.say(Say::Start(folders.start(Script::Finish, 1, 1)));
    meet(&mut coordinator, 1, 1).await;
    let end = coordinator.ended().await;
    let address = coordinator.die().await;
    let mut coordinator = Coordinator::start_at(&address, []).await;
    assert_eq!(coordinator.hello().await.unacknowledged, std::slice::from_ref(&end));
    worker.stop().await;
    coordinator.rest();

    let worker = Worker::start(folders.config(&coordinator.address));
    let hello = coordinator.hello().await;
    assert_eq!(hello.unacknowledged, std::slice::from_ref(&end));
    assert_eq!(hello.uuid, first_life.uuid);
    assert_eq!(hello.incarnation, first_life.incarnation + 1);
    acknowledge(&coordinator, &[end]);
    let outcomes = folders.path("state/outcomes");
    eventually("forgotten ends", || fs_err::read_dir(&outcomes).unwrap().count() == 0).await;
    worker.stop().await;

    let worker = Worker::start(folders.config(&coordinator.address));
    assert_eq!(coordinator.hello().await.unacknowledged, []);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_between_a_hello_and_its_welcome_is_told_and_again_to_who_orders_a_stop() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.say(Say::Start(folders.start(Script::Obey, 1, 1)));
    let pids = meet(&mut coordinator, 1, 1).await;
    let address = coordinator.die().await;

    let answers = [Say::Ping(Ping {})];
    let mut coordinator = Coordinator::start_at(&address, answers).await;
    let hello = coordinator.hello().await;
    assert_eq!((hello.running.len(), hello.unacknowledged.len()), (1, 0));
    kill(Pid::from_raw(pids[&0].cast_signed()), Signal::SIGKILL).unwrap();
    let outcomes = folders.path("state/outcomes");
    eventually("a kept end", || fs_err::read_dir(&outcomes).unwrap().count() == 1).await;
    coordinator.say(Say::Welcome(welcome()));
    let end = coordinator.ended().await;
    assert_eq!((end.generation, end.rank), (1, 0));
    let reason = "this generation of the job is over".to_owned();
    let stop = StopJob { job_id: JOB.to_owned(), generation: 1, reason, ..Default::default() };
    coordinator.say(Say::Stop(stop));
    assert_eq!(coordinator.ended().await, end);
    acknowledge(&coordinator, &[end]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refused_jobs_the_newest_are_told_again() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    let refused = |heard| matches!(heard, Heard::PrepareFailed(_)).then_some(());
    for number in 0..70 {
        // Without ranks there is nothing to start.
        let job_id = format!("job-{number:06}");
        coordinator.say(Say::Start(StartTrainers { job_id, generation: 1, ..Default::default() }));
        coordinator.wait("a refusal", refused).await;
    }
    let address = coordinator.die().await;
    let mut coordinator = Coordinator::start_at(&address, []).await;
    coordinator.hello().await;
    coordinator
        .wait("a heartbeat", |heard| matches!(heard, Heard::Heartbeat(_)).then_some(()))
        .await;
    let told = coordinator.history.iter().filter_map(|heard| match heard {
        Heard::PrepareFailed(failure) => Some(failure.job_id.as_str()),
        _ => None,
    });
    let told: Vec<&str> = told.collect();
    assert_eq!((told.len(), told[0]), (64, "job-000006"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_wanted_says_why_and_one_that_must_wait_comes_back() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let refused = |is_retryable| {
        let reason = "the name `node-1` is taken".to_owned();
        Say::Refused(Refused { reason, is_retryable })
    };
    coordinator.shared.answers.lock().unwrap().extend([refused(true), refused(false)]);
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    coordinator.hello().await;
    let failure = worker.end().await.unwrap_err();
    assert_eq!(failure.code, ExitCode::Failed);
    assert!(failure.render().contains("the name `node-1` is taken"), "{}", failure.render());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_on_the_same_state_folder_is_refused() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    coordinator.hello().await;
    let second = Worker::start(folders.config(&coordinator.address));
    let failure = second.end().await.unwrap_err();
    assert_eq!(failure.code, ExitCode::Failed);
    assert!(failure.render().contains("is in use by process"), "{}", failure.render());
    assert!(failure.render().contains("--state-dir"), "{}", failure.render());
    worker.stop().await;
}
