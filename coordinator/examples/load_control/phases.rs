//! The phases of the measurement, one after the other on one coordinator.

use std::path::Path;
use std::time::Duration;

use proto::v1;
use proto::v1::coordinator_client::CoordinatorClient;
use serde_json::{Map, Value, json};
use service::tasks::{self, Kind as TaskKind};
use service::transport::{self, Timeouts};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::child::{Coordinator, Usage};
use crate::decide::millis;
use crate::worker::{self, News, Worker};
use crate::{Outcome, queue, spec};

/// Slots of each worker.
const SLOTS: u32 = 5;
/// Ranks of the large job, where so many fit.
const RANKS: u32 = 4096;
const METRICS_PER_RANK: usize = 10;
/// How long a steady state is watched.
const WATCH: Duration = Duration::from_secs(10);
/// Jobs that are submitted and brought to run, one after the other.
const STARTS: usize = 40;
/// Their ranks.
const START_WORLD: u32 = 8;
/// A phase that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The coordinator and its simulated workers.
pub(crate) struct Cluster {
    pub(crate) coordinator: Coordinator,
    sender: UnboundedSender<News>,
    news: UnboundedReceiver<News>,
    workers: usize,
    large: Large,
}

/// The large job.
#[derive(Debug, Default)]
struct Large {
    job_id: String,
    ranks: u32,
}

pub(crate) async fn run(binary: &Path, workers: usize, jobs: usize) -> Outcome<Map<String, Value>> {
    let mut cluster = Cluster::start(binary)?;
    let mut measured = Map::new();
    measured.insert("join".to_owned(), cluster.join(workers).await?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let heartbeats = usage(cluster.coordinator.usage(WATCH).await?);
    measured.insert("heartbeats".to_owned(), heartbeats);
    let mut client = connect(&cluster.coordinator.address).await?;
    measured.insert("start".to_owned(), starts(&mut client, STARTS, 0).await?);
    measured.insert("gang".to_owned(), cluster.start_large(&mut client).await?);
    measured.insert("metrics".to_owned(), cluster.metrics().await?);
    measured.insert("restart".to_owned(), cluster.restart().await?);
    queue::measure(&mut cluster, jobs, &mut measured).await?;
    Ok(measured)
}

impl Cluster {
    fn start(binary: &Path) -> Outcome<Self> {
        let coordinator = Coordinator::start(binary)?;
        let (sender, news) = mpsc::unbounded_channel();
        Ok(Self { coordinator, sender, news, workers: 0, large: Large::default() })
    }

    /// So many new workers connect at once.
    pub(crate) async fn join(&mut self, workers: usize) -> Outcome<Value> {
        let began = Instant::now();
        for number in self.workers..self.workers + workers {
            let (address, news) = (self.coordinator.address.clone(), self.sender.clone());
            let worker = Worker { number, slots: SLOTS, address, news };
            drop(tasks::spawn(TaskKind::Finish, "worker", worker.run()));
        }
        self.workers += workers;
        let joins = self.joined(workers).await?;
        Ok(times(&joins, began.elapsed()))
    }

    async fn joined(&mut self, workers: usize) -> Outcome<Vec<Duration>> {
        let mut joins = Vec::with_capacity(workers);
        let waiting = async {
            while joins.len() < workers {
                match self.news.recv().await {
                    Some(News::Joined { took }) => joins.push(took),
                    Some(News::Stopped { job_id }) if job_id == self.large.job_id => {
                        return Err("the large job was stopped".into());
                    }
                    Some(News::Stopped { .. }) => {}
                    None => return Err("the workers are gone".into()),
                }
            }
            Ok(())
        };
        let result: Result<Outcome<()>, _> = timeout(PATIENCE, waiting).await;
        let count = joins.len();
        result.map_err(|_| format!("{count} of {workers} workers joined in time"))??;
        Ok(joins)
    }

    /// Starts the large job, and leaves some slots idle.
    async fn start_large(&mut self, client: &mut CoordinatorClient<Channel>) -> Outcome<Value> {
        let slots = self.workers as u32 * SLOTS;
        let ranks = if slots > RANKS + START_WORLD { RANKS } else { slots - slots / SLOTS };
        let (job_id, took) = start(client, &spec::submit("large", ranks, 0)).await?;
        self.large = Large { job_id, ranks };
        Ok(
            json!({ "ranks": ranks, "ms": millis(took), "rss_mib": self.coordinator.resident_mib()? }),
        )
    }

    /// The world of a job that would only just not start beside the large one.
    pub(crate) fn too_large(&self) -> u32 {
        self.workers as u32 * SLOTS - self.large.ranks + 1
    }

    /// Every rank sends its metrics once a second, through its worker's bulk stream.
    async fn metrics(&self) -> Outcome<Value> {
        let lasts = WATCH + Duration::from_secs(3);
        let until = Instant::now() + lasts;
        let ranks = self.large.ranks as usize;
        let per_worker = ranks.div_ceil(self.workers);
        let mut senders = Vec::new();
        for number in 0..ranks.div_ceil(per_worker) {
            let first = number * per_worker;
            let mine = first as u32..ranks.min(first + per_worker) as u32;
            let source = Source {
                address: self.coordinator.address.clone(),
                job_id: self.large.job_id.clone(),
                number,
                ranks: mine.collect(),
            };
            let sending = async move { source.send(until).await };
            senders.push(tasks::spawn(TaskKind::Finish, "bulk", sending));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let used = self.coordinator.usage(WATCH).await?;
        let due = senders.len() as u64 * (lasts.as_secs() - 1);
        let (mut batches, mut slowest) = (0, Duration::ZERO);
        for sender in senders {
            let (sent, slow) = sender.await??;
            batches += sent;
            slowest = slowest.max(slow);
        }
        // A sender waits for its acknowledgement: one that waits too long sends less than is claimed.
        if batches < due {
            return Err(format!("only {batches} of {due} batches were taken in {lasts:?}").into());
        }
        Ok(json!({ "ranks": ranks, "points_per_second": ranks * METRICS_PER_RANK,
                   "batches": batches, "slowest_ack_ms": millis(slowest),
                   "core_percent": used.cores * 100.0, "rss_mib": used.resident_mib }))
    }

    /// kill -9, and a new life on the same store and port.
    pub(crate) async fn restart(&mut self) -> Outcome<Value> {
        while self.news.try_recv().is_ok() {}
        let killed = Instant::now();
        self.coordinator.kill()?;
        self.coordinator.start_again()?;
        let listening = killed.elapsed();
        self.joined(self.workers).await?;
        let back = killed.elapsed();
        let mut client = connect(&self.coordinator.address).await?;
        let state = state(&mut client, &self.large.job_id).await?;
        Ok(json!({ "listening_ms": millis(listening), "all_back_ms": millis(back), "job": state }))
    }
}

pub(crate) fn times(times: &[Duration], whole: Duration) -> Value {
    let mut times = times.to_vec();
    times.sort_unstable();
    // The nearest rank: of few times the worst one counts.
    let at = |part: f64| millis(times[((times.len() as f64 * part).ceil() as usize).max(1) - 1]);
    json!({ "count": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
            "whole_ms": millis(whole) })
}

fn usage(usage: Usage) -> Value {
    json!({ "core_percent": usage.cores * 100.0, "rss_mib": usage.resident_mib })
}

pub(crate) async fn connect(address: &str) -> Outcome<CoordinatorClient<Channel>> {
    let channel = transport::connect(address, &Timeouts::default()).await?;
    Ok(CoordinatorClient::new(channel)
        .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(transport::MAX_MESSAGE_BYTES))
}

async fn state(client: &mut CoordinatorClient<Channel>, job_id: &str) -> Outcome<String> {
    let request = v1::JobRequest { job_id: job_id.to_owned() };
    let status = client.get_job(request).await?.into_inner();
    Ok(status.row.map(|row| row.state).unwrap_or_default())
}

/// Submits a job and waits until it runs.
async fn start(
    client: &mut CoordinatorClient<Channel>,
    submit: &v1::SubmitRequest,
) -> Outcome<(String, Duration)> {
    let began = Instant::now();
    let job_id = client.submit(submit.clone()).await?.into_inner().job_id;
    let request = v1::JobRequest { job_id: job_id.clone() };
    let mut updates = client.watch_job(request).await?.into_inner();
    let waiting = async {
        while let Some(status) = updates.message().await? {
            if status.row.is_some_and(|row| row.state == "running") {
                return Ok(began.elapsed());
            }
        }
        Outcome::Err("the job ended".into())
    };
    let took = timeout(PATIENCE, waiting).await.map_err(|_| "the job does not run")??;
    Ok((job_id, took))
}

/// One job after the other is brought to run on idle workers, and cancelled.
pub(crate) async fn starts(
    client: &mut CoordinatorClient<Channel>,
    count: usize,
    priority: i32,
) -> Outcome<Value> {
    let began = Instant::now();
    let mut took = Vec::new();
    for number in 0..count {
        let submit = spec::submit(&format!("start{number}"), START_WORLD, priority);
        let (job_id, time) = start(client, &submit).await?;
        took.push(time);
        client.cancel_job(v1::CancelRequest { job_id, now: true }).await?;
    }
    Ok(times(&took, began.elapsed()))
}

/// What one worker sends of the large job.
struct Source {
    address: String,
    job_id: String,
    number: usize,
    ranks: Vec<u32>,
}

impl Source {
    /// Gives the number of batches, and how long the slowest acknowledgement took.
    async fn send(self, until: Instant) -> Outcome<(u64, Duration)> {
        let channel = transport::connect(&self.address, &Timeouts::default()).await?;
        let (outbox, outgoing) = mpsc::channel(4);
        let mut client = worker::client(channel);
        let mut acks = client.bulk(ReceiverStream::new(outgoing)).await?.into_inner();
        let first = Instant::now() + Duration::from_millis(self.number as u64 % 1000);
        let mut each = tokio::time::interval_at(first, Duration::from_secs(1));
        let (mut sequence, mut slowest) = (0, Duration::ZERO);
        while Instant::now() < until {
            each.tick().await;
            sequence += 1;
            let sent = Instant::now();
            outbox.send(self.batch(sequence)).await?;
            timeout(PATIENCE, acks.message()).await??;
            slowest = slowest.max(sent.elapsed());
        }
        Ok((sequence, slowest))
    }

    fn batch(&self, sequence: u64) -> v1::BulkBatch {
        let (step, samples, time_ms) = (sequence, sequence, sequence);
        let point = v1::MetricPoint { step, samples, value: 0.5, time_ms };
        let series = |rank: &u32| {
            let rank = *rank;
            (0..METRICS_PER_RANK).map(move |metric| v1::MetricSeries {
                name: format!("load/metric-{metric}"),
                rank,
                points: vec![point],
                generation: 0,
            })
        };
        let job = v1::JobBulk {
            job_id: self.job_id.clone(),
            generation: 1,
            metrics: self.ranks.iter().flat_map(series).collect(),
            ..Default::default()
        };
        let uuid = Worker::uuid(self.number);
        v1::BulkBatch { sequence, jobs: vec![job], uuid, incarnation: 1 }
    }
}
