//! A rank in this process, its worker played by the test at the other end of a real socket, the
//! engine for real.

use std::pin::Pin;
use std::sync::Mutex;

use common::spec::JobSpec;
use proto::v1::trainer_link_server::{TrainerLink, TrainerLinkServer};
use proto::v1::{Assignment, Empty, Peer};
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::*;

/// No wait takes longer, unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

const JOB: &str = "a-1";

/// The worker's end.
struct Worker {
    commands: mpsc::Sender<WorkerCommand>,
    heard: mpsc::Receiver<TrainerMessage>,
    socket: UnixStream,
    rank: JoinHandle<Result<ExitCode, Error>>,
    _folder: tempfile::TempDir,
}

type Ends = (mpsc::Sender<TrainerMessage>, mpsc::Receiver<WorkerCommand>);

struct Server(Mutex<Option<Ends>>);

#[tonic::async_trait]
impl TrainerLink for Server {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<WorkerCommand, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<TrainerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (heard, commands) = self.0.lock().unwrap().take().expect("one session");
        let mut messages = request.into_inner();
        // As the worker does: our side ends after the trainer's has.
        let (relayed, outgoing) = mpsc::channel(16);
        tasks::spawn(tasks::Kind::Finish, "heard", async move {
            let mut commands = ReceiverStream::new(commands);
            loop {
                tokio::select! {
                    message = messages.message() => match message {
                        Ok(Some(message)) => {
                            // The test may have heard enough.
                            let _ = heard.send(message).await;
                        }
                        Ok(None) | Err(_) => return,
                    },
                    Some(command) = commands.next() => {
                        // A rank that has left reads no more.
                        let _ = relayed.send(Ok(command)).await;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl Worker {
    /// A rank of a world of `world`, with `change` made to a small job.
    fn start(world: u32, change: impl FnOnce(&mut JobSpec)) -> Self {
        Self::start_on(None, world, change)
    }

    fn start_on(gpu: Option<u32>, world: u32, change: impl FnOnce(&mut JobSpec)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spec: JobSpec = convert::spec(SPEC).unwrap();
        folder.path().clone_into(&mut spec.job.output_dir);
        change(&mut spec);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (commands, outgoing) = mpsc::channel(16);
        let (sender, heard) = mpsc::channel(1000);
        let router = transport::server()
            .add_service(TrainerLinkServer::new(Server(Mutex::new(Some((sender, outgoing))))));
        let socket = ours.try_clone().unwrap();
        tasks::spawn(tasks::Kind::Finish, "worker", transport::serve_stream(ours, router));
        let rank = tasks::spawn(tasks::Kind::Finish, "rank", run(theirs));
        let worker = Self { commands, heard, socket, rank, _folder: folder };
        worker.say(Command::Assignment(Assignment {
            job_id: JOB.to_owned(),
            generation: 1,
            attempt: 1,
            rank: 0,
            world,
            run_dir: spec.job.output_dir.to_string_lossy().into_owned(),
            spec_json: convert::spec_json(&spec),
            advertise: "127.0.0.1".to_owned(),
            slots: vec![0],
            worker: "node-1".to_owned(),
            cores: Vec::new(),
            cuda_device: gpu,
            listen: String::new(),
            port_range: String::new(),
            is_bound: false,
        }));
        worker
    }

    fn say(&self, kind: Command) {
        self.commands.try_send(WorkerCommand { kind: Some(kind) }).unwrap();
    }

    async fn wait<T>(&mut self, what: &str, pick: impl Fn(Kind) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let heard = self.heard.recv().await.unwrap_or_else(|| panic!("ended: {what}"));
                if let Some(picked) = pick(heard.kind.unwrap()) {
                    return picked;
                }
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    /// The rank listens, so it gets a table of itself.
    async fn hand_out_table(&mut self, token: Vec<u8>) {
        let listening = self.listening().await;
        self.say_table(listening, token);
    }

    async fn listening(&mut self) -> Listening {
        self.wait("listening", |kind| match kind {
            Kind::Listening(listening) => Some(listening),
            _ => None,
        })
        .await
    }

    fn say_table(&self, Listening { address, nccl_id, .. }: Listening, token: Vec<u8>) {
        let own = Peer { rank: 0, address, nccl_id, ..Peer::default() };
        let job_id = JOB.to_owned();
        self.say(Command::RankTable(RankTable { job_id, generation: 1, token, peers: vec![own] }));
    }

    async fn trains(&mut self) {
        self.wait("progress", |kind| matches!(kind, Kind::Progress(_)).then_some(())).await;
    }

    async fn end(self) -> Result<ExitCode, Error> {
        timeout(PATIENCE, self.rank).await.expect("the rank ends in time").unwrap()
    }
}

fn endless(spec: &mut JobSpec) {
    spec.training.epochs = 1_000_000;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_trains_reports_and_leaves() {
    let mut worker = Worker::start(1, |_| {});
    let libtorch = worker
        .wait("what it computes with", |kind| match kind {
            Kind::Hello(hello) => Some(hello.libtorch),
            _ => None,
        })
        .await;
    assert!(libtorch.starts_with("2."), "{libtorch}");
    worker.hand_out_table(vec![7; 16]).await;
    worker.wait("running", |kind| (kind == Kind::Running(Empty {})).then_some(())).await;
    worker.trains().await;
    let summary = worker
        .wait("the last word", |kind| match kind {
            Kind::Finished(finished) => Some(finished.summary_json),
            Kind::Failed(failure) => panic!("{failure:?}"),
            _ => None,
        })
        .await;
    assert_eq!(convert::summary(&summary).unwrap().unwrap().steps, 4);
    assert_eq!(worker.end().await.unwrap(), ExitCode::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_saves_and_leaves() {
    let mut worker = Worker::start(1, endless);
    worker.hand_out_table(vec![7; 16]).await;
    worker.trains().await;
    worker.say(Command::StopGracefully(Empty {}));
    worker.wait("a checkpoint", |kind| matches!(kind, Kind::Checkpoint(_)).then_some(())).await;
    worker.wait("the last word", |kind| matches!(kind, Kind::Stopped(_)).then_some(())).await;
    assert_eq!(worker.end().await.unwrap(), ExitCode::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_the_rank_table_is_obeyed_at_once() {
    for stop in [Command::StopGracefully(Empty {}), Command::Abort("a test".to_owned())] {
        let mut worker = Worker::start(2, |_| {});
        worker.wait("listening", |kind| matches!(kind, Kind::Listening(_)).then_some(())).await;
        worker.say(stop);
        worker.wait("the last word", |kind| matches!(kind, Kind::Stopped(_)).then_some(())).await;
        assert_eq!(worker.end().await.unwrap(), ExitCode::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_cannot_begin_says_why() {
    let mut worker = Worker::start(1, |_| {});
    worker.hand_out_table(vec![7; 3]).await;
    let failure = worker
        .wait("the last word", |kind| match kind {
            Kind::Failed(failure) => Some(failure),
            _ => None,
        })
        .await;
    assert!(failure.message.contains("`token`"), "{failure:?}");
    assert_eq!(worker.end().await.unwrap(), ExitCode::Failed);

    let mut worker = Worker::start(1, |spec| {
        spec.training.freeze = vec!["no.such.*".to_owned()];
    });
    worker.hand_out_table(vec![7; 16]).await;
    let failure = worker
        .wait("the last word", |kind| match kind {
            Kind::Failed(failure) => Some(failure),
            _ => None,
        })
        .await;
    assert_eq!(failure.kind(), proto::v1::FailureKind::Configuration);
    assert!(failure.message.contains("no.such.*"), "{failure:?}");
    assert_eq!(worker.end().await.unwrap(), ExitCode::BadConfiguration);
}

/// Neither trains on the CPU instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_rank_for_a_gpu_that_it_cannot_have_says_what_is_missing() {
    let on_gpus = |spec: &mut JobSpec| spec.resources.device = common::spec::Device::Cuda;
    let failed = |kind| match kind {
        Kind::Failed(failure) => Some(failure),
        _ => None,
    };
    let mut worker = Worker::start(1, on_gpus);
    let listening = worker.listening().await;
    // None where NCCL is not installed.
    assert!([0, 128].contains(&listening.nccl_id.len()), "{listening:?}");
    worker.say_table(listening, vec![7; 16]);
    let failure = worker.wait("the last word", failed).await;
    assert_eq!(failure.kind(), proto::v1::FailureKind::Start);
    assert!(failure.message.contains("was given no GPU"), "{failure:?}");
    assert_eq!(worker.end().await.unwrap(), ExitCode::Failed);

    // The libtorch of this test is for CPUs: refused before any peer hears of the rank.
    let mut worker = Worker::start_on(Some(0), 1, on_gpus);
    let failure = worker.wait("the last word", failed).await;
    assert_eq!(failure.kind(), proto::v1::FailureKind::Start);
    assert!(failure.message.contains("libtorch has no CUDA"), "{failure:?}");
    assert_eq!(worker.end().await.unwrap(), ExitCode::Failed);

    let mut worker = Worker::start(1, on_gpus);
    let listening = worker.listening().await;
    worker.say_table(Listening { nccl_id: vec![1; 3], ..listening }, vec![7; 16]);
    let failure = worker.wait("the last word", failed).await;
    assert!(failure.message.contains("rank 0 gives 3 bytes as NCCL's id"), "{failure:?}");
    assert_eq!(worker.end().await.unwrap(), ExitCode::Failed);
}

/// While it waits: a process that ends while libtorch computes must not run destructors, and a test
/// process does. The tests with real processes kill workers of ranks that train.
#[tokio::test(flavor = "multi_thread")]
async fn a_rank_does_not_outlive_its_worker() {
    let mut worker = Worker::start(2, |_| {});
    worker.wait("listening", |kind| matches!(kind, Kind::Listening(_)).then_some(())).await;
    worker.socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(worker.end().await, Err(Error::WorkerGone)));
}

#[test]
fn only_a_departure_is_no_failure_of_a_rank_that_was_told_to_stop() {
    use collectives::{Error as Collective, OpKind};
    let (op, sequence) = (OpKind::AllReduce, 8);
    let kind = |asked, source| {
        let operation = "reduce gradients";
        let error = engine::Error::Communication { operation, step: 3, source };
        judge_error(asked, &RankError::Engine(error)).kind
    };
    let lost = || Collective::PeerLost { rank: 1, worker: "b".to_owned(), op, sequence };
    let aborted = || Collective::Aborted { by: None, reason: "x".to_owned(), op, sequence };
    let late = || {
        let after = Duration::from_secs(60);
        Collective::Timeout { op, sequence, waiting_for: vec![1], after }
    };
    let corrupt = || Collective::Corrupt { rank: 1, op, sequence };
    for asked in [Asked::Stop, Asked::Abort] {
        assert!(matches!(kind(asked, lost()), Kind::Stopped(_)));
        assert!(matches!(kind(asked, aborted()), Kind::Stopped(_)));
        assert!(matches!(kind(asked, late()), Kind::Failed(_)), "a stuck peer is a failure");
        assert!(matches!(kind(asked, corrupt()), Kind::Failed(_)));
    }
    assert!(matches!(kind(Asked::Nothing, lost()), Kind::Failed(_)));
}

pub(crate) const SPEC: &str = r#"{
    "job": {
        "name": "a", "seed": 1, "priority": 0, "output-dir": "/set-above",
        "collective-timeout": "60s"
    },
    "resources": { "device": "cpu", "threads-per-rank": 1, "transport": "auto" },
    "model": {
        "kind": "lstm", "hidden-size": 32, "num-layers": 1, "dropout": 0.0, "head-dropout": 0.0,
        "bidirectional": false
    },
    "data": {
        "source": { "kind": "sine", "samples": 128, "validation-samples": 32, "noise": 0.1 },
        "window": 10, "horizon": 1, "shuffle": true, "drop-last": true
    },
    "training": {
        "epochs": 1, "validate": { "every-epochs": 1 },
        "batch": {
            "batch-size": { "value": 32, "origin": "a test" }, "mismatch": "adapt"
        },
        "optimizer": {
            "learning-rate": 0.001, "weight-decay": 0.0,
            "rule": { "kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "bias-correction": true }
        },
        "schedule": { "kind": "constant" }, "gradient-clipping": 0.0,
        "precision": { "asked": "fp32", "effective": "fp32" }
    },
    "zero": {
        "stage": 0, "overlap-comm": false, "reduce-bucket-size": 500000
    },
    "checkpoint": {
        "keep-last": 1, "keep-best": 1, "async": true, "resume": "never", "layout": "auto"
    },
    "monitor": { "tensorboard": false, "csv": false }
}"#;
