//! A simulated worker: its own connection, hello, heartbeats, and trainers that only say that they
//! listen, are connected, and end when they are told to.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::v1;
use proto::v1::coordinator_message::Kind as Order;
use proto::v1::worker_link_client::WorkerLinkClient;
use proto::v1::worker_message::Kind;
use service::transport::{self, Timeouts};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Outcome;

/// As the real worker waits between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What a worker tells the measurement.
#[derive(Debug)]
pub(crate) enum News {
    /// Welcomed, this long after it began to connect.
    Joined { took: Duration },
    /// Told to stop trainers.
    Stopped { job_id: String },
}

#[derive(Clone)]
struct Trainer {
    start: v1::StartTrainers,
    rank: u32,
    is_running: bool,
}

pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) slots: u32,
    pub(crate) address: String,
    pub(crate) news: UnboundedSender<News>,
}

impl Worker {
    fn name(&self) -> String {
        format!("sim{:05}", self.number)
    }

    pub(crate) fn uuid(number: usize) -> String {
        uuid::Uuid::from_u128(0x5111 << 64 | number as u128).to_string()
    }

    /// Connects, serves, and connects again, until the measurement is over.
    pub(crate) async fn run(self) {
        let mut trainers: BTreeMap<(String, u32), Trainer> = BTreeMap::new();
        let mut wait = BACKOFF.0;
        // Tries that fail are a part of the join.
        let mut began = Instant::now();
        while !self.news.is_closed() {
            let opened = self.open(&trainers).await;
            if let Ok((stream, outbox, heartbeat)) = opened {
                wait = BACKOFF.0;
                // The measurement may be over.
                let _ = self.news.send(News::Joined { took: began.elapsed() });
                // The stream broke: that is what the loop is for.
                let _ = self.serve(stream, outbox, heartbeat, &mut trainers).await;
                began = Instant::now();
            }
            // Spread, as the real worker's jitter spreads them.
            let part = 0.5 + (self.number % 97) as f64 / 97.0 / 2.0;
            tokio::time::sleep(wait.mul_f64(part)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn open(
        &self,
        trainers: &BTreeMap<(String, u32), Trainer>,
    ) -> Outcome<(Streaming<v1::CoordinatorMessage>, mpsc::Sender<v1::WorkerMessage>, Duration)>
    {
        let channel = transport::connect(&self.address, &Timeouts::default()).await?;
        let (outbox, outgoing) = mpsc::channel(64);
        outbox.send(message(Kind::Hello(self.hello(trainers)))).await?;
        let mut client = client(channel);
        let mut stream = client.control(ReceiverStream::new(outgoing)).await?.into_inner();
        match stream.message().await?.and_then(|message| message.kind) {
            Some(Order::Welcome(welcome)) => {
                Ok((stream, outbox, Duration::from_millis(welcome.heartbeat_ms)))
            }
            other => Err(format!("no welcome: {other:?}").into()),
        }
    }

    fn hello(&self, trainers: &BTreeMap<(String, u32), Trainer>) -> v1::WorkerHello {
        let running = trainers.values().map(|trainer| v1::RunningTrainer {
            job_id: trainer.start.job_id.clone(),
            generation: trainer.start.generation,
            rank: trainer.rank,
            pid: 1000 + trainer.rank,
            peer: Some(self.peer(trainer.rank)),
            is_running: trainer.is_running,
            ..Default::default()
        });
        v1::WorkerHello {
            uuid: Self::uuid(self.number),
            incarnation: 1,
            name: self.name(),
            advertise: "127.0.0.1".to_owned(),
            slots: self.slots,
            device: "cpu".to_owned(),
            memory_bytes: 1 << 30,
            version: "simulated".to_owned(),
            hostname: "load".to_owned(),
            running: running.collect(),
            ..Default::default()
        }
    }

    fn peer(&self, rank: u32) -> v1::Peer {
        let address = format!("127.0.0.1:{}", 10_000 + rank % 50_000);
        v1::Peer { rank, address, worker: self.name(), ..Default::default() }
    }

    async fn serve(
        &self,
        mut stream: Streaming<v1::CoordinatorMessage>,
        outbox: mpsc::Sender<v1::WorkerMessage>,
        heartbeat: Duration,
        trainers: &mut BTreeMap<(String, u32), Trainer>,
    ) -> Outcome<()> {
        // Spread over the interval: real workers do not start in the same millisecond.
        let first = Instant::now() + heartbeat.mul_f64((self.number % 1009) as f64 / 1009.0);
        let mut beat = tokio::time::interval_at(first, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = stream.message() => {
                    let Some(order) = order?.and_then(|message| message.kind) else { return Ok(()) };
                    for kind in self.obey(order, trainers) {
                        outbox.send(message(kind)).await?;
                    }
                }
                _ = beat.tick() => {
                    outbox.send(message(Kind::Heartbeat(v1::Heartbeat::default()))).await?;
                }
                () = self.news.closed() => return Ok(()),
            }
        }
    }

    fn obey(&self, order: Order, trainers: &mut BTreeMap<(String, u32), Trainer>) -> Vec<Kind> {
        match order {
            Order::Start(start) => {
                let ready = |rank: u32| {
                    Kind::TrainerReady(v1::TrainerReady {
                        job_id: start.job_id.clone(),
                        generation: start.generation,
                        peer: Some(self.peer(rank)),
                        pid: 1000 + rank,
                        libtorch: "simulated".to_owned(),
                    })
                };
                let said = start.ranks.iter().map(|ranks| ready(ranks.rank)).collect();
                let slim = v1::StartTrainers { spec_json: String::new(), ..start.clone() };
                for ranks in &start.ranks {
                    let trainer =
                        Trainer { start: slim.clone(), rank: ranks.rank, is_running: false };
                    trainers.insert((start.job_id.clone(), ranks.rank), trainer);
                }
                said
            }
            Order::RankTable(table) => {
                let mine = trainers.values_mut().filter(|t| t.start.job_id == table.job_id);
                mine.map(|trainer| {
                    trainer.is_running = true;
                    Kind::TrainerRunning(v1::TrainerRunning {
                        job_id: table.job_id.clone(),
                        generation: table.generation,
                        rank: trainer.rank,
                    })
                })
                .collect()
            }
            Order::Stop(stop) => {
                // The measurement may be over.
                let _ = self.news.send(News::Stopped { job_id: stop.job_id.clone() });
                let mine: Vec<(String, u32)> =
                    trainers.keys().filter(|(job_id, _)| *job_id == stop.job_id).cloned().collect();
                mine.into_iter()
                    .map(|key| {
                        trainers.remove(&key);
                        ended(&stop, key.1)
                    })
                    .collect()
            }
            Order::Ping(_) => vec![Kind::Heartbeat(v1::Heartbeat::default())],
            _ => Vec::new(),
        }
    }
}

pub(crate) fn client(channel: Channel) -> WorkerLinkClient<Channel> {
    WorkerLinkClient::new(channel)
        .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(transport::MAX_MESSAGE_BYTES)
}

fn message(kind: Kind) -> v1::WorkerMessage {
    v1::WorkerMessage { kind: Some(kind) }
}

fn ended(stop: &v1::StopJob, rank: u32) -> Kind {
    let end = v1::TrainerEnd { kind: Some(v1::trainer_end::Kind::Stopped(v1::Empty {})) };
    Kind::TrainerEnded(v1::TrainerEnded {
        job_id: stop.job_id.clone(),
        generation: stop.generation,
        rank,
        end: Some(end),
        ..Default::default()
    })
}
