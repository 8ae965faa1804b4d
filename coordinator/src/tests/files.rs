use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use proto::v1;
use proto::v1::coordinator_message::Kind as Order;
use proto::v1::worker_message::Kind;

use super::cluster::{Cluster, Peer, finished, soon};

fn chunks(hash: &str, data: &[u8]) -> Vec<v1::BlobChunk> {
    let chunk = |part: &[u8]| v1::BlobChunk { blake3: hash.to_owned(), data: part.to_vec() };
    data.chunks(100_000).map(chunk).collect()
}

#[tokio::test]
async fn an_upload_is_kept_by_its_hash_and_given_back() {
    let cluster = Cluster::start().await;
    let mut client = cluster.client().await;
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let hash = blake3::hash(&data).to_hex().to_string();
    let ask = || v1::BlobHashes { blake3: vec![hash.clone()] };
    let missing = client.find_missing_blobs(ask()).await.unwrap().into_inner();
    assert_eq!(missing, ask());
    client.upload_blob(tokio_stream::iter(chunks(&hash, &data))).await.unwrap();
    let missing = client.find_missing_blobs(ask()).await.unwrap().into_inner();
    assert!(missing.blake3.is_empty());
    let mut stream = cluster.worker_client().await.get_blob(ask()).await.unwrap().into_inner();
    let mut back = Vec::new();
    while let Some(chunk) = soon("a blob's chunk", stream.message()).await.unwrap() {
        back.extend(chunk.data);
    }
    assert!(back == data);
    cluster.stop().await;
}

#[tokio::test]
async fn an_upload_that_is_not_what_it_says_leaves_nothing() {
    let cluster = Cluster::start().await;
    let mut client = cluster.client().await;
    let hash = "0".repeat(64);
    let status = client.upload_blob(tokio_stream::iter(chunks(&hash, b"data"))).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    let status =
        client.upload_blob(tokio_stream::iter(chunks("../escape", b"data"))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let large = vec![0; 1 << 20];
    let endless =
        (0..70).map(move |_| v1::BlobChunk { blake3: "0".repeat(64), data: large.clone() });
    let status = client.upload_blob(tokio_stream::iter(endless)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let folder = cluster.stop().await;
    assert!(super::cluster::files_below(&folder.path().join("blobs")).is_empty());
}

#[test]
fn uploads_that_no_job_names_go_after_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = crate::blobs::Blobs::open(folder.path()).unwrap();
    let day = std::time::Duration::from_secs(25 * 3600);
    let mut named = std::collections::BTreeSet::new();
    for (data, is_named, is_old) in [
        ("named", true, true),
        ("young", false, false),
        ("old", false, true),
        ("wanted again", false, true),
    ] {
        let hash = blake3::hash(data.as_bytes()).to_hex().to_string();
        let mut upload = blobs.begin(crate::blobs::Hash::parse(&hash).unwrap()).unwrap();
        upload.write(data.as_bytes()).unwrap();
        let hash = upload.finish().unwrap();
        if is_old {
            let file = std::fs::File::options().write(true).open(blobs.path(&hash)).unwrap();
            file.set_modified(std::time::SystemTime::now() - day).unwrap();
        }
        if is_named {
            named.insert(hash.as_str().to_owned());
        }
    }
    let hash_of =
        |data: &str| crate::blobs::Hash::parse(&blake3::hash(data.as_bytes()).to_hex()).unwrap();
    assert!(blobs.hold(&hash_of("wanted again")), "a submit is about to name it");
    assert_eq!(blobs.collect(&named).unwrap(), 1);
    assert_eq!(super::cluster::files_below(&folder.path().join("blobs")).len(), 3);
    assert!(!blobs.hold(&hash_of("old")) && blobs.contains(&hash_of("wanted again")));
}

/// A job that ran on worker `a` and has a checkpoint.
async fn with_files(cluster: &Cluster) -> (Peer, String) {
    with_checkpoint_in(cluster, "runs/JOB/checkpoints").await
}

/// The same, with the checkpoint below this folder; `JOB` is the job's id.
async fn with_checkpoint_in(cluster: &Cluster, folder: &str) -> (Peer, String) {
    let mut a = cluster.join("a", 1).await;
    let job_id = cluster.submit("job", 1).await;
    let start = a.start_order().await;
    a.train(&start).await;
    let root = cluster.folder.path().join(folder.replace("JOB", &job_id));
    let path = root.join("step-00000007").display().to_string();
    let checkpoint = v1::Checkpoint {
        tag: "step-00000007".to_owned(),
        step: 7,
        path,
        world_size: 1,
        durable: true,
        ..Default::default()
    };
    a.say(Kind::Checkpoint(v1::CheckpointCommitted {
        job_id: job_id.clone(),
        generation: start.generation,
        checkpoint: Some(checkpoint),
    }))
    .await;
    a.end(&start, 0, finished()).await;
    (a, job_id)
}

/// Answers the next fetch order with these files.
async fn serve_fetch(cluster: &Cluster, a: &mut Peer, paths: &[&str]) -> v1::FetchOrder {
    let Order::Fetch(order) = a.next().await else { panic!("not a fetch") };
    let (sender, outgoing) = mpsc::channel(8);
    let fetch_id = order.fetch_id.clone();
    sender.send(v1::PutFilesChunk { fetch_id, ..Default::default() }).await.unwrap();
    for path in paths {
        let chunk =
            v1::FileChunk { path: (*path).to_owned(), data: path.as_bytes().to_vec(), last: true };
        let fetch_id = order.fetch_id.clone();
        let message = v1::PutFilesChunk { fetch_id, chunk: Some(chunk), error: String::new() };
        sender.send(message).await.unwrap();
    }
    drop(sender);
    // A refusal is the receiver's to tell.
    let _ = cluster.worker_client().await.put_files(ReceiverStream::new(outgoing)).await;
    order
}

async fn fetch(
    cluster: &Cluster,
    job_id: &str,
    what: &str,
    tag: &str,
) -> Result<Vec<String>, tonic::Status> {
    let request =
        v1::FetchRequest { job_id: job_id.to_owned(), what: what.to_owned(), tag: tag.to_owned() };
    let mut stream = cluster.client().await.fetch(request).await?.into_inner();
    let mut paths = Vec::new();
    while let Some(chunk) = soon("a chunk", stream.message()).await? {
        assert!(chunk.path.as_bytes().ends_with(&chunk.data));
        paths.push(chunk.path);
    }
    Ok(paths)
}

#[tokio::test]
async fn files_come_from_the_worker_that_has_them() {
    let cluster = Cluster::start().await;
    let (mut a, job_id) = with_files(&cluster).await;
    let (order, fetched) = tokio::join!(
        serve_fetch(&cluster, &mut a, &["tensorboard/events"]),
        fetch(&cluster, &job_id, "tensorboard", "")
    );
    assert_eq!(fetched.unwrap(), ["tensorboard/events"]);
    assert!(order.root.ends_with(&job_id));
    assert_eq!(order.paths, ["tensorboard"]);
    let (_, fetched) =
        tokio::join!(serve_fetch(&cluster, &mut a, &[]), fetch(&cluster, &job_id, "metrics", ""));
    assert!(fetched.unwrap().is_empty(), "an empty folder is no error");
    let (order, fetched) = tokio::join!(
        serve_fetch(&cluster, &mut a, &["checkpoints/step-00000007/manifest.json"]),
        fetch(&cluster, &job_id, "checkpoint", "latest")
    );
    assert_eq!(order.paths, ["checkpoints/step-00000007"]);
    assert_eq!(fetched.unwrap().len(), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_checkpoint_outside_of_the_run_folder_arrives_as_if_it_were_inside() {
    let cluster = Cluster::start().await;
    let (mut a, job_id) = with_checkpoint_in(&cluster, "shared/co2").await;
    let (order, fetched) = tokio::join!(
        serve_fetch(&cluster, &mut a, &["manifest.json"]),
        fetch(&cluster, &job_id, "checkpoint", "")
    );
    assert!(order.root.ends_with("shared/co2/step-00000007"), "{order:?}");
    assert_eq!(fetched.unwrap(), ["checkpoints/step-00000007/manifest.json"]);
    let serving = async {
        serve_fetch(&cluster, &mut a, &["summary.json"]).await;
        serve_fetch(&cluster, &mut a, &["manifest.json"]).await
    };
    let (_, fetched) = tokio::join!(serving, fetch(&cluster, &job_id, "all", ""));
    let all = ["summary.json", "checkpoints/step-00000007/manifest.json"];
    assert_eq!(fetched.unwrap(), all);
    cluster.stop().await;
}

#[tokio::test]
async fn a_path_that_leads_out_never_reaches_the_caller() {
    let cluster = Cluster::start().await;
    let (mut a, job_id) = with_files(&cluster).await;
    for path in ["../../.ssh/authorized_keys", "/etc/passwd", "a/../../b"] {
        let paths = [path];
        let (_, fetched) = tokio::join!(
            serve_fetch(&cluster, &mut a, &paths),
            fetch(&cluster, &job_id, "all", "")
        );
        assert_eq!(fetched.unwrap_err().code(), Code::PermissionDenied);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_worker_whose_files_nobody_wants_any_more_does_not_hold_its_stream() {
    let cluster = Cluster::start().await;
    let (mut a, job_id) = with_files(&cluster).await;
    let request = v1::FetchRequest { job_id, what: "logs".to_owned(), tag: String::new() };
    let client = cluster.client().await.fetch(request).await.unwrap();
    let Order::Fetch(order) = a.next().await else { panic!("not a fetch") };
    // It says whose files come, and then nothing.
    let (sender, outgoing) = mpsc::channel(8);
    let first = v1::PutFilesChunk { fetch_id: order.fetch_id, ..Default::default() };
    sender.send(first).await.unwrap();
    let mut worker = cluster.worker_client().await;
    let put = worker.put_files(ReceiverStream::new(outgoing));
    drop(client);
    let status = soon("the worker is let go", put).await.unwrap_err();
    assert!([Code::Cancelled, Code::NotFound].contains(&status.code()), "{status}");
    drop(sender);
    cluster.stop().await;
}

#[tokio::test]
async fn a_fetch_that_cannot_be_says_why() {
    let cluster = Cluster::start().await;
    let (a, job_id) = with_files(&cluster).await;
    let status = fetch(&cluster, &job_id, "checkpoint", "step-00000009").await.unwrap_err();
    assert!(status.message().contains("it has: step-00000007"), "{status}");
    let status = fetch(&cluster, &job_id, "wallet", "").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    drop(a);
    let gone = soon("the worker is gone", async {
        loop {
            match fetch(&cluster, &job_id, "logs", "").await {
                Err(status) => return status,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(gone.code(), Code::Unavailable, "{gone}");
    let queued = cluster.submit("queued", 9).await;
    let status = fetch(&cluster, &queued, "all", "").await.unwrap_err();
    assert!(status.message().contains("has not run yet"), "{status}");
    cluster.stop().await;
}
