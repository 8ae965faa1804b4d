use proto::v1;
use proto::v1::coordinator_message::Kind as Order;

use super::cluster::{Cluster, ended, finished, hello, settings};
use crate::daemon::{Coordinator, Error};

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let cluster = Cluster::start().await;
    let queued = cluster.submit("queued", 4).await;
    let cancelled = cluster.submit("cancelled", 4).await;
    let request = v1::CancelRequest { job_id: cancelled.clone(), now: true };
    cluster.client().await.cancel_job(request).await.unwrap();
    let cluster = cluster.restart().await;
    assert_eq!(cluster.status(&queued).await.row.unwrap().state, "queued");
    assert_eq!(cluster.status(&cancelled).await.row.unwrap().state, "cancelled");
    let info = cluster.client().await.get_info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.incarnation, info.address), (2, cluster.address.clone()));
    cluster.stop().await;
}

#[tokio::test]
async fn a_running_job_goes_on_and_ends_that_were_not_acknowledged_count() {
    let cluster = Cluster::start().await;
    let mut a = cluster.join("a", 2).await;
    let job_id = cluster.submit("job", 2).await;
    let start = a.start_order().await;
    a.train(&start).await;
    cluster.wait_for(&job_id, "running").await;
    let cluster = cluster.restart().await;
    assert!(a.is_ended().await, "streams are closed cleanly");
    assert_eq!(cluster.status(&job_id).await.row.unwrap().state, "running");
    let mut truth = hello("a", 2);
    truth.running = vec![v1::RunningTrainer {
        job_id: job_id.clone(),
        generation: start.generation,
        rank: 0,
        pid: 100,
        peer: None,
        is_running: true,
        libtorch: String::new(),
    }];
    truth.unacknowledged = vec![ended(&start, 1, finished())];
    let mut a = cluster.say_hello(truth).await;
    assert!(matches!(a.next().await, Order::Welcome(w) if w.coordinator_incarnation == 2));
    assert!(matches!(a.next().await, Order::Ends(ends) if ends.ends[0].rank == 1));
    a.end(&start, 0, finished()).await;
    cluster.wait_for(&job_id, "succeeded").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_data_folder_and_a_port_have_one_owner() {
    let cluster = Cluster::start().await;
    let error = Coordinator::build(&settings(cluster.folder.path())).await.unwrap_err();
    assert!(matches!(error, Error::Lock(_)), "{error}");
    assert!(error.to_string().contains("is in use by process"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let taken = crate::Settings { listen: cluster.address.clone(), ..settings(other.path()) };
    let error = Coordinator::build(&taken).await.unwrap_err();
    let failure = service::exit::Failure::from(error);
    assert_eq!(failure.code, common::exit::ExitCode::Failed);
    let text = failure.render();
    assert!(text.contains(&cluster.address) && text.contains("hint:"), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_damaged_store_comes_up_with_what_is_left() {
    let cluster = Cluster::start().await;
    let job_id = cluster.submit("job", 4).await;
    // A clean stop leaves a snapshot.
    let folder = cluster.stop().await;
    let db = folder.path().join("store/sled/db");
    fs_err::write(&db, b"garbage").unwrap();
    let coordinator = Coordinator::build(&settings(folder.path())).await.unwrap();
    drop(coordinator);
    let store = fs_err::read_dir(folder.path().join("store")).unwrap();
    let names: Vec<String> = store.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("damaged-")), "{names:?}");
    let cluster = Cluster::start_in(folder).await;
    assert_eq!(cluster.status(&job_id).await.row.unwrap().state, "queued");
    cluster.stop().await;
}
