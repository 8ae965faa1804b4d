//! A trainer that follows a script: this test program itself, started again by a worker.

#![expect(unsafe_code, reason = "an inherited descriptor is a bare number")]

use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, raise};
use proto::v1::trainer_link_client::TrainerLinkClient;
use proto::v1::trainer_message::Kind;
use proto::v1::worker_command::Kind as Command;
use proto::v1::{
    Assignment, Empty, FailureKind, Finished, Listening, MetricPoint, MetricSeries, Metrics, Notes,
    Progress, TrainerFailure, TrainerHello, TrainerMessage, WorkerCommand,
};
use service::transport::{self, Timeouts};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::spawner::LINK_FD;

/// The environment variable of a job that says what its trainers do.
pub(super) const SCRIPT: &str = "SCRIPT";

/// What a scripted trainer says that it computes with.
pub(super) const LIBTORCH: &str = "2.11.0, AVX2";

/// Where rank 0 says that NCCL meets.
const NCCL_ID: [u8; 128] = [5; 128];

/// What one says that stops because it was asked to.
pub(super) const OBEYED: &str = "\"obeyed\"";

/// What a scripted trainer does once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Finish,
    /// Prints the job's data file, then finishes.
    PrintData,
    Fail,
    Panic,
    Exit7,
    KillItself,
    /// Stops when it is asked to.
    Obey,
    /// Deaf to everything but SIGKILL.
    Hang,
    /// Dies before it has said anything.
    Stillborn,
}

const ALL: [Script; 9] = [
    Script::Finish,
    Script::PrintData,
    Script::Fail,
    Script::Panic,
    Script::Exit7,
    Script::KillItself,
    Script::Obey,
    Script::Hang,
    Script::Stillborn,
];

/// The entry of the trainer process; without a script in the environment, nothing.
#[test]
fn act() {
    let Ok(name) = std::env::var(SCRIPT) else { return };
    let script = ALL.into_iter().find(|s| format!("{s:?}") == name).expect("a known script");
    if script == Script::Stillborn {
        std::process::exit(3);
    }
    let fd = std::env::var(LINK_FD).unwrap().parse().unwrap();
    // SAFETY: the worker passed this descriptor for this purpose, and this runs once.
    let socket = unsafe { UnixStream::from_raw_fd(fd) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(play(script, socket));
}

async fn play(script: Script, socket: UnixStream) {
    let channel = transport::connect_stream(socket, &Timeouts::default()).await.unwrap();
    let (sender, outgoing) = mpsc::channel(100);
    let say = |kind| sender.try_send(TrainerMessage { kind: Some(kind) }).unwrap();
    say(Kind::Hello(TrainerHello { pid: std::process::id(), libtorch: LIBTORCH.to_owned() }));
    let mut client = TrainerLinkClient::new(channel);
    let mut commands = client.session(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let Command::Assignment(assignment) = next(&mut commands).await else { panic!() };
    println!("hello from rank {}", assignment.rank);
    say(Kind::Listening(Listening {
        address: format!("{}:4000{}", assignment.advertise, assignment.rank),
        unix_name: "name".to_owned(),
        nccl_id: if assignment.rank == 0 { NCCL_ID.to_vec() } else { Vec::new() },
    }));
    match next(&mut commands).await {
        Command::RankTable(table) => {
            assert_eq!(table.peers.len() as u32, assignment.world);
            let first = table.peers.iter().find(|peer| peer.rank == 0).unwrap();
            assert_eq!(first.nccl_id, NCCL_ID, "through both workers, whoever is asked");
        }
        _ => return leave(&sender, Kind::Stopped(Finished::default()), commands).await,
    }
    say(Kind::Running(Empty {}));
    let last = match script {
        Script::Finish => {
            report(&say);
            let summary_json = format!("{{\"steps\":{}}}", assignment.rank);
            Kind::Finished(Finished { summary_json })
        }
        Script::PrintData => {
            println!("data: {}", data_of(&assignment));
            Kind::Finished(Finished::default())
        }
        Script::Fail => Kind::Failed(TrainerFailure {
            kind: FailureKind::Data.into(),
            step: Some(3),
            message: "line 7: not a number".to_owned(),
        }),
        Script::Panic => panic!("no room"),
        Script::Exit7 => std::process::exit(7),
        Script::KillItself => {
            raise(Signal::SIGKILL).unwrap();
            return;
        }
        Script::Obey => {
            let command = next(&mut commands).await;
            assert!(matches!(command, Command::StopGracefully(_) | Command::Abort(_)));
            Kind::Stopped(Finished { summary_json: OBEYED.to_owned() })
        }
        Script::Hang => return std::future::pending().await,
        Script::Stillborn => unreachable!("it died before"),
    };
    leave(&sender, last, commands).await;
}

fn report(say: &impl Fn(Kind)) {
    say(Kind::Notes(Notes { notes: vec!["a note".to_owned()] }));
    say(Kind::Progress(Progress { step: 5, ..Progress::default() }));
    let point = MetricPoint { step: 5, samples: 10, value: 0.5, time_ms: 1 };
    // The wrong rank: a trainer speaks for its own only, and the worker knows which it is.
    let series = MetricSeries {
        name: "train/loss".to_owned(),
        rank: 99,
        points: vec![point],
        ..Default::default()
    };
    say(Kind::Metrics(Metrics { series: vec![series], dropped: 2 }));
}

fn data_of(assignment: &Assignment) -> String {
    let spec = proto::convert::spec(&assignment.spec_json).unwrap();
    let common::spec::DataSource::Csv { path, .. } = spec.data.source else { panic!() };
    fs_err::read_to_string(path).unwrap()
}

/// The last word, then until the worker has heard it.
async fn leave(
    sender: &mpsc::Sender<TrainerMessage>,
    last: Kind,
    mut commands: Streaming<WorkerCommand>,
) {
    sender.send(TrainerMessage { kind: Some(last) }).await.unwrap();
    // The process's end closes the socket; what was sent before arrives before.
    tokio::task::yield_now().await;
    let heard = async { while let Ok(Some(_)) = commands.message().await {} };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(50), heard).await;
}

async fn next(commands: &mut Streaming<WorkerCommand>) -> Command {
    commands.message().await.unwrap().unwrap().kind.unwrap()
}
