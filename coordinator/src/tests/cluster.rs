//! A coordinator in this process, and peers that speak its protocol.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use proto::v1;
use proto::v1::coordinator_client::CoordinatorClient;
use proto::v1::coordinator_message::Kind as Order;
use proto::v1::worker_link_client::WorkerLinkClient;
use proto::v1::worker_message::Kind;
use service::shutdown::Shutdown;

use crate::daemon::{Coordinator, Error};
use crate::settings::Settings;

/// Far above what anything here takes; a wait that ends in it is a failure.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Many in each lease that tests give.
const HEARTBEAT: Duration = Duration::from_millis(200);

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

pub(super) struct Cluster {
    pub(super) folder: TempDir,
    pub(super) address: String,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), Error>>,
}

pub(super) fn settings(folder: &Path) -> Settings {
    Settings {
        listen: "127.0.0.1:0".to_owned(),
        data_dir: folder.to_owned(),
        ..Settings::default()
    }
}

impl Cluster {
    pub(super) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(super) async fn start_in(folder: TempDir) -> Self {
        let coordinator = Coordinator::build(&settings(folder.path())).await.unwrap();
        Self::run(folder, coordinator)
    }

    pub(super) fn run(folder: TempDir, coordinator: Coordinator) -> Self {
        let address = coordinator.address().to_string();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let running =
            service::tasks::spawn(service::tasks::Kind::Finish, "coordinator", async move {
                coordinator.run(stop).await
            });
        Self { folder, address, shutdown, running }
    }

    pub(super) async fn stop(self) -> TempDir {
        self.shutdown.request("test");
        soon("the coordinator stops", self.running).await.unwrap().unwrap();
        self.folder
    }

    /// Stops and starts again on the same data folder.
    pub(super) async fn restart(self) -> Self {
        let folder = self.stop().await;
        Self::start_in(folder).await
    }

    pub(super) async fn channel(&self) -> Channel {
        let timeouts = service::transport::Timeouts::default();
        service::transport::connect(&self.address, &timeouts).await.unwrap()
    }

    pub(super) async fn client(&self) -> CoordinatorClient<Channel> {
        CoordinatorClient::new(self.channel().await)
    }

    pub(super) async fn worker_client(&self) -> WorkerLinkClient<Channel> {
        WorkerLinkClient::new(self.channel().await)
    }

    /// Joins a worker and waits for its welcome. It lives until it is dropped, however long a disk
    /// takes meanwhile.
    pub(super) async fn join(&self, name: &str, slots: u32) -> Peer {
        let mut peer = self.say_hello(hello(name, slots)).await;
        match peer.next().await {
            Order::Welcome(_) => {}
            other => panic!("no welcome: {other:?}"),
        }
        peer.beat();
        peer
    }

    pub(super) async fn say_hello(&self, hello: v1::WorkerHello) -> Peer {
        let (outgoing, messages) = mpsc::channel(64);
        let name = hello.name.clone();
        outgoing.send(message(Kind::Hello(hello))).await.unwrap();
        let mut client = self.worker_client().await;
        let stream = client.control(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Peer { name, outgoing, stream }
    }

    pub(super) async fn submit(&self, name: &str, world: u32) -> String {
        let request = submit_request(name, world, self.folder.path());
        self.client().await.submit(request).await.unwrap().into_inner().job_id
    }

    /// Submits a job that starts again when its infrastructure fails.
    pub(super) async fn submit_restarting(&self, name: &str, world: u32) -> String {
        let mut request = submit_request(name, world, self.folder.path());
        let mut spec: serde_json::Value = serde_json::from_str(&request.spec_json).unwrap();
        spec["restart"]["infrastructure"] = 20.into();
        request.spec_json = spec.to_string();
        self.client().await.submit(request).await.unwrap().into_inner().job_id
    }

    pub(super) async fn status(&self, job_id: &str) -> v1::JobStatus {
        let request = v1::JobRequest { job_id: job_id.to_owned() };
        self.client().await.get_job(request).await.unwrap().into_inner()
    }

    /// Follows a job until its state is `state`.
    pub(super) async fn wait_for(&self, job_id: &str, state: &str) -> v1::JobStatus {
        let request = v1::JobRequest { job_id: job_id.to_owned() };
        let mut updates = self.client().await.watch_job(request).await.unwrap().into_inner();
        let waiting = async {
            let (mut seen, mut why) = (String::new(), String::new());
            while let Some(status) = updates.message().await.unwrap() {
                let row = status.row.as_ref().unwrap();
                (seen, why) = (row.state.clone(), row.reason.clone());
                if seen == state {
                    return status;
                }
            }
            panic!("{job_id} ended as {seen}, not {state}: {why}");
        };
        soon(&format!("{job_id} is {state}"), waiting).await
    }
}

pub(super) fn message(kind: Kind) -> v1::WorkerMessage {
    v1::WorkerMessage { kind: Some(kind) }
}

pub(super) fn hello(name: &str, slots: u32) -> v1::WorkerHello {
    v1::WorkerHello {
        uuid: uuid(name),
        incarnation: 1,
        name: name.to_owned(),
        advertise: "127.0.0.1".to_owned(),
        slots,
        device: "cpu".to_owned(),
        memory_bytes: 1 << 30,
        version: "0.1.0".to_owned(),
        hostname: "host".to_owned(),
        running: vec![],
        unacknowledged: vec![],
        withdrawing: None,
        libtorch: String::new(),
        gpus: None,
        allows_commands: false,
        allocation: String::new(),
    }
}

pub(super) fn uuid(name: &str) -> String {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    uuid::Uuid::from_bytes(bytes).to_string()
}

pub(super) fn spec_json(name: &str, world: u32, output_dir: &Path) -> String {
    let json = serde_json::json!({
        "job": {"name": name, "seed": 1, "priority": 0, "output-dir": output_dir,
                "collective-timeout": "30s"},
        "resources": {"world-size": world, "device": "auto", "threads-per-rank": 1,
                      "transport": "auto"},
        "model": {"kind": "lstm", "hidden-size": 8, "num-layers": 1, "dropout": 0.0,
                  "head-dropout": 0.0, "bidirectional": false},
        "data": {"source": {"kind": "sine", "samples": 64, "validation-samples": 16, "noise": 0.1},
                 "window": 5, "horizon": 1, "shuffle": true, "drop-last": true},
        "training": {"epochs": 1, "validate": "never",
            "batch": {"batch-size": {"value": 32, "origin": "test"}, "mismatch": "adapt"},
            "optimizer": {"learning-rate": 0.001, "weight-decay": 0.0, "rule":
                {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "bias-correction": true}},
            "schedule": {"kind": "constant"}, "gradient-clipping": 1.0,
            "precision": {"asked": "fp32", "effective": "fp32"}},
        "zero": {"stage": 0, "overlap-comm": false, "reduce-bucket-size": 1},
        "checkpoint": {"keep-last": 2, "keep-best": 1, "async": false, "resume": "never",
                       "layout": "auto"},
        "monitor": {"tensorboard": false, "csv": false},
        "restart": {"application": 0, "infrastructure": 0, "preemption": 0}
    });
    json.to_string()
}

pub(super) fn submit_request(name: &str, world: u32, folder: &Path) -> v1::SubmitRequest {
    v1::SubmitRequest {
        spec_json: spec_json(name, world, &folder.join("runs")),
        job_toml: "[job]".to_owned(),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    }
}

/// A worker's control stream.
pub(super) struct Peer {
    pub(super) name: String,
    outgoing: mpsc::Sender<v1::WorkerMessage>,
    stream: Streaming<v1::CoordinatorMessage>,
}

impl Peer {
    pub(super) async fn say(&self, kind: Kind) {
        self.outgoing.send(message(kind)).await.unwrap();
    }

    /// Sends heartbeats for as long as the peer and its stream live.
    fn beat(&self) {
        // Our stream ends when the last sender is dropped, and that is the peer's to do.
        let outgoing = self.outgoing.downgrade();
        service::tasks::spawn(service::tasks::Kind::Finish, "heartbeats", async move {
            let heartbeat = || message(Kind::Heartbeat(v1::Heartbeat::default()));
            while let Some(sender) = outgoing.upgrade()
                && sender.send(heartbeat()).await.is_ok()
            {
                drop(sender);
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
    }

    pub(super) async fn next(&mut self) -> Order {
        let message = soon("a message from the coordinator", self.stream.message()).await.unwrap();
        message.expect("the stream has not ended").kind.unwrap()
    }

    /// Whether the coordinator ends the stream.
    pub(super) async fn is_ended(&mut self) -> bool {
        soon("the end of the stream", async {
            loop {
                match self.stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return true,
                }
            }
        })
        .await
    }

    pub(super) async fn start_order(&mut self) -> v1::StartTrainers {
        match self.next().await {
            Order::Start(order) => order,
            other => panic!("not a start: {other:?}"),
        }
    }

    /// Reports the ranks of an order as listening, takes the table, reports them as connected.
    pub(super) async fn train(&mut self, order: &v1::StartTrainers) -> v1::RankTable {
        for ranks in &order.ranks {
            self.say(ready(order, ranks.rank, &self.name)).await;
        }
        let table = match self.next().await {
            Order::RankTable(table) => table,
            other => panic!("not a rank table: {other:?}"),
        };
        for ranks in &order.ranks {
            let running = v1::TrainerRunning {
                job_id: order.job_id.clone(),
                generation: order.generation,
                rank: ranks.rank,
            };
            self.say(Kind::TrainerRunning(running)).await;
        }
        table
    }

    /// Ends a rank and waits until its end is acknowledged.
    pub(super) async fn end(&mut self, order: &v1::StartTrainers, rank: u32, end: v1::TrainerEnd) {
        self.say(Kind::TrainerEnded(ended(order, rank, end))).await;
        loop {
            if let Order::Ends(acknowledged) = self.next().await {
                assert_eq!(acknowledged.ends[0].rank, rank);
                return;
            }
        }
    }
}

pub(super) fn ready(order: &v1::StartTrainers, rank: u32, worker: &str) -> Kind {
    Kind::TrainerReady(v1::TrainerReady {
        job_id: order.job_id.clone(),
        generation: order.generation,
        peer: Some(v1::Peer {
            rank,
            address: format!("127.0.0.1:{}", 4000 + rank),
            unix_name: String::new(),
            worker: worker.to_owned(),
            // As if every job were on GPUs; it is opaque on its way.
            nccl_id: if rank == 0 { vec![9; 128] } else { Vec::new() },
        }),
        pid: 100 + rank,
        libtorch: "2.11.0, AVX2".to_owned(),
    })
}

pub(super) fn ended(order: &v1::StartTrainers, rank: u32, end: v1::TrainerEnd) -> v1::TrainerEnded {
    v1::TrainerEnded {
        job_id: order.job_id.clone(),
        generation: order.generation,
        rank,
        end: Some(end),
        last_lines: vec![format!("last line of rank {rank}")],
        summary_json: String::new(),
        time_ms: 1,
    }
}

pub(super) fn finished() -> v1::TrainerEnd {
    v1::TrainerEnd { kind: Some(v1::trainer_end::Kind::Finished(v1::Empty {})) }
}

pub(super) fn killed() -> v1::TrainerEnd {
    let killed = v1::trainer_end::Killed { signal: 9, core_dumped: false };
    v1::TrainerEnd { kind: Some(v1::trainer_end::Kind::Killed(killed)) }
}

/// Every file below a folder, for tests that look for leftovers.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}
