//! The loop of the daemon: orders from the coordinator and news from trainers in, orders to
//! trainers and reports out. The single owner of what runs here; nothing in it waits.

mod commands;
mod cores;
mod lease;
mod leave;
mod link;
mod orders;
mod reports;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use common::exit::ExitCode;
use common::ids::WorkerId;
use common::status::Gpus;
use proto::v1::{TrainerEnded, Withdrawing, WorkerHello, worker_message::Kind};
use service::exit::Failure;
use service::lock::FolderLock;
use service::shutdown::{Reason, Shutdown};
use service::tasks;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Config;
use crate::cores::Cores;
use crate::libtorch::Libtorch;
use crate::lifetime;
use crate::local_job::LocalJob;
use crate::network::Door;
use crate::outcomes::Outcomes;
use crate::prepare::{self, Prepared};
use crate::rank_log::LogWriter;
use crate::spawner::Spawner;
use crate::spool::{Bounds, Key, Spool};
use crate::trainer_process::{News, Tools};
use crate::uplink::{self, LinkEvent};
use crate::{gpus, identity, inventory};

use self::lease::Lease;
use self::link::Link;

/// Events that wait for the loop; producers wait when it is full, and only trainers' metrics and
/// progress are so many.
const EVENTS: usize = 256;

/// Before the coordinator has said how often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Bytes of last lines in one hello. As much again stays for all else in it.
const HELLO_LINES: usize = service::transport::MAX_MESSAGE_BYTES / 2;

/// News of one trainer.
pub(crate) type Told = (Key, u32, News);

type PreparedJob = (proto::v1::StartTrainers, Result<Prepared, prepare::Error>);

/// Runs the worker until it is told to stop; its trainers are gone when this returns.
pub(crate) async fn run(config: Config, shutdown: Shutdown) -> Result<ExitCode, Failure> {
    let (node, inputs) = Node::open(config, shutdown)?;
    node.run(inputs).await
}

pub(crate) struct Node {
    config: Config,
    id: WorkerId,
    /// What this node has, whatever it offers.
    gpus: Gpus,
    /// The NUMA node of each of them, where that is known.
    gpu_nodes: Vec<Option<u32>>,
    /// Where ranks of this node listen: as configured, or at this machine's address towards the
    /// coordinator.
    door: Door,
    shutdown: Shutdown,
    tools: Tools,
    cores: Cores,
    outcomes: Outcomes,
    /// Ends that the coordinator has not acknowledged.
    ends: BTreeMap<(Key, u32), TrainerEnded>,
    /// The newest attempt of each job that this node knows.
    jobs: BTreeMap<String, LocalJob>,
    /// Those that were refused, oldest first.
    refusals: VecDeque<Key>,
    link: Option<Link>,
    told: mpsc::Sender<Told>,
    prepared: mpsc::Sender<PreparedJob>,
    is_leaving: bool,
    /// When it was last of use.
    lease: Lease,
    /// Why it leaves, once the coordinator is to know: all later hellos say it too.
    withdrawing: Option<Withdrawing>,
    /// What trainers of this node compute with; empty before the first has said so.
    libtorch: String,
    /// Why the coordinator does not want this worker.
    refused: Option<String>,
    background: Vec<JoinHandle<()>>,
    _lock: FolderLock,
}

struct Inputs {
    links: mpsc::Receiver<LinkEvent>,
    told: mpsc::Receiver<Told>,
    prepared: mpsc::Receiver<PreparedJob>,
}

impl Node {
    fn open(config: Config, shutdown: Shutdown) -> Result<(Self, Inputs), Failure> {
        let lock = FolderLock::acquire(&config.state_dir, "state folder", "--state-dir")?;
        let failed = |error: anyhow::Error| Failure::new(ExitCode::Failed, error);
        let id = identity::begin_life(&config.state_dir).map_err(|e| failed(e.into()))?;
        let (outcomes, left) = Outcomes::open(&config.state_dir).map_err(|e| failed(e.into()))?;
        let spool = Spool::open(&config.state_dir, Bounds::default());
        let tools = Tools {
            spawner: Spawner::start().map_err(|e| failed(e.into()))?,
            logs: LogWriter::start().map_err(|e| failed(e.into()))?,
            spool: Arc::new(spool.map_err(|e| failed(e.into()))?),
        };
        let gpus = look_around(&config);
        let (told, told_inbox) = mpsc::channel(EVENTS);
        let (prepared, prepared_inbox) = mpsc::channel(EVENTS);
        let (link_events, links) = mpsc::channel(EVENTS);
        let control = uplink::run_control(config.master.clone(), link_events);
        let bulk = uplink::run_bulk(config.master.clone(), id, Arc::clone(&tools.spool));
        let critical = || tasks::Kind::Critical(shutdown.clone());
        let background = vec![
            tasks::spawn(critical(), "control connection", control),
            tasks::spawn(critical(), "bulk connection", bulk),
        ];
        let ends = left
            .into_iter()
            .map(|end| (((end.job_id.clone(), end.generation), end.rank), end))
            .collect();
        info!(name = config.name, %id, slots = config.slots, master = config.master, "worker up");
        let node = Self {
            door: config.network.door(Ipv4Addr::LOCALHOST.into()),
            cores: Cores::of_this_machine(&config.cores, config.slots.get()),
            config,
            id,
            gpu_nodes: gpus::numa_nodes(&gpus),
            gpus,
            shutdown,
            tools,
            outcomes,
            ends,
            jobs: BTreeMap::new(),
            refusals: VecDeque::new(),
            link: None,
            told,
            prepared,
            is_leaving: false,
            lease: Lease::begin(),
            withdrawing: None,
            libtorch: String::new(),
            refused: None,
            background,
            _lock: lock,
        };
        Ok((node, Inputs { links, told: told_inbox, prepared: prepared_inbox }))
    }

    async fn run(mut self, mut inputs: Inputs) -> Result<ExitCode, Failure> {
        let shutdown = self.shutdown.clone();
        let Config { ends_at, notice_grace, .. } = self.config;
        let mut end = pin!(lifetime::nearly_over(ends_at, notice_grace));
        let mut heartbeat = ticker(HEARTBEAT);
        let mut watch = ticker(lease::LOOK);
        let mut is_killed = false;
        while !self.is_done() {
            tokio::select! {
                () = shutdown.requested(), if !self.is_leaving => self.begin_to_leave(),
                () = &mut end, if !shutdown.is_requested() => shutdown.announce(lifetime::REASON),
                () = shutdown.forced(), if !is_killed => {
                    is_killed = true;
                    self.kill_all();
                }
                Some(event) = inputs.links.recv() => {
                    if let Some(interval) = self.on_link(event) {
                        heartbeat = ticker(interval);
                    }
                }
                Some((key, rank, news)) = inputs.told.recv() => self.on_news(&key, rank, news),
                Some((order, result)) = inputs.prepared.recv() => self.on_prepared(order, result),
                () = can_move_on(self.link.as_ref()) => self.move_link_on(),
                _ = heartbeat.tick() => self.say_heartbeat(),
                _ = watch.tick(), if !self.is_leaving => self.look_at_lease(),
            }
        }
        self.leave(&mut inputs).await;
        match (self.refused, self.shutdown.reason()) {
            (Some(reason), _) => {
                let error = anyhow::anyhow!("the coordinator refused this worker: {reason}");
                Err(Failure::new(ExitCode::Failed, error))
            }
            (None, Some(Reason::Failed(why))) => {
                Err(Failure::new(ExitCode::Bug, anyhow::anyhow!(why)))
            }
            (None, _) => Ok(ExitCode::Done),
        }
    }

    /// Leaving, and no trainer is left.
    fn is_done(&self) -> bool {
        self.is_leaving && !self.jobs.values().any(LocalJob::is_alive)
    }

    /// Says it if there is a link; otherwise the next hello tells the same truth.
    fn say(&mut self, kind: Kind) {
        if let Some(link) = self.link.as_mut().filter(|link| link.is_welcome) {
            let said = link.say(kind);
            self.keep_link(said);
        }
    }

    fn keep_link(&mut self, moved: Result<(), link::Stuck>) {
        if moved.is_err() {
            warn!("the control connection does not move; a new one is made");
            self.link = None;
        }
    }

    /// There is room for more of what was to be told again.
    fn move_link_on(&mut self) {
        if let Some(link) = &mut self.link {
            let moved = link.move_on();
            self.keep_link(moved);
        }
    }

    fn say_heartbeat(&mut self) {
        let time_ms = crate::capture::unix_millis();
        let now = Instant::now();
        let positions = self.jobs.values().flat_map(|job| job.positions(now)).collect();
        self.say(Kind::Heartbeat(proto::v1::Heartbeat { time_ms, positions }));
    }

    fn hello(&self) -> WorkerHello {
        WorkerHello {
            uuid: self.id.uuid.to_string(),
            incarnation: self.id.incarnation.0,
            name: self.config.name.clone(),
            advertise: self.door.advertise.to_string(),
            slots: self.config.slots.get(),
            device: self.config.device.word().to_owned(),
            memory_bytes: inventory::memory_bytes(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: inventory::hostname(),
            running: self.jobs.values().flat_map(LocalJob::running).collect(),
            unacknowledged: for_hello(self.ends.values().cloned().collect(), HELLO_LINES),
            withdrawing: self.withdrawing.clone(),
            libtorch: self.libtorch.clone(),
            gpus: Some(self.gpus.clone().into()),
            allows_commands: self.config.allow_commands,
            allocation: self
                .config
                .allocation
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        }
    }
}

/// The coordinator takes no larger message than 16 MiB: where the last lines of so many trainers
/// would not go into one hello, only the newest ends have theirs. An end without lines is better than
/// a worker that can never join again.
fn for_hello(mut ends: Vec<TrainerEnded>, max_bytes: usize) -> Vec<TrainerEnded> {
    ends.sort_by_key(|end| Reverse(end.time_ms));
    let mut bytes = 0;
    for end in &mut ends {
        bytes += end.last_lines.iter().map(String::len).sum::<usize>();
        if bytes > max_bytes {
            end.last_lines.clear();
        }
    }
    ends
}

async fn can_move_on(link: Option<&Link>) {
    match link {
        Some(link) => link.can_move_on().await,
        None => std::future::pending().await,
    }
}

/// Says at once what will keep jobs from starting here, or from what somebody may expect.
fn look_around(config: &Config) -> Gpus {
    if !config.trainer.is_file() {
        warn!(path = %config.trainer.display(), "no trainer program: jobs cannot start here");
    }
    match &config.libtorch {
        Libtorch::Linked => {}
        Libtorch::Installed(_) => info!("trainers run on libtorch {}", config.libtorch),
        Libtorch::Missing(why) => warn!(why, "no libtorch: jobs cannot start here"),
    }
    let gpus = gpus::visible();
    if let Some(word) = gpus::word(&gpus, config.device) {
        warn!("{word}");
    }
    gpus
}

/// Begins anywhere within the interval: workers that were welcomed at once do not beat at once.
fn ticker(interval: Duration) -> tokio::time::Interval {
    let first = tokio::time::Instant::now() + interval.mul_f64(rand::random::<f64>());
    let mut ticker = tokio::time::interval_at(first, interval);
    // After a stall one heartbeat says as much as ten.
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_with_many_ends_keeps_the_lines_of_the_newest() {
        let end = |rank| TrainerEnded {
            rank,
            time_ms: u64::from(rank),
            last_lines: vec!["x".repeat(50); 2],
            ..Default::default()
        };
        let ends = for_hello((0..5).map(end).collect(), 250);
        let with_lines = ends.iter().filter(|end| !end.last_lines.is_empty());
        assert_eq!(with_lines.map(|end| end.rank).collect::<Vec<_>>(), [4, 3]);
        assert_eq!(ends.len(), 5, "no end is left out");
    }
}
