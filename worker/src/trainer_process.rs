//! One trainer from its start to its burial: the link to it, its output, the ladder that stops it,
//! and the classification of its end. Knows nothing of the coordinator.

mod end;
mod kernel;
mod link;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use common::status::{FailureKind, TrainerEnd, TrainerFailure};
use nix::sys::signal::Signal;
use proto::v1::{
    Assignment, Checkpoint, Listening, Metrics, Progress, RankPosition, RankTable, TrainerMessage,
    WorkerCommand, trainer_message, worker_command,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::capture::Line;
use crate::cores::Claim;
use crate::memory::Memory;
use crate::output::{self, Output, TURN};
use crate::rank_log::LogWriter;
use crate::spawner::{Launch, Process, Spawned, Spawner};
use crate::spool::{Key, Spool};

use end::{Evidence, KillReason, Said};

/// A trainer that has not said hello by then is killed: loading libtorch takes a fraction of a
/// second, on a cold network disk perhaps ten.
const HELLO_DEADLINE: Duration = Duration::from_secs(60);

/// An aborted trainer, or one that has said its last word, is killed after this.
pub(crate) const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// A trainer that does not show its stacks by then is looked at from outside.
const STACKS_DEADLINE: Duration = Duration::from_millis(4500);

/// The link ends with the process, as nothing that it starts inherits it: the last word is read up
/// to that, and only a fault of ours makes an end wait for a second. In turns of [`TURN`].
const LAST_WORD_TURNS: u32 = 100;

/// For what need not end: a pipe that a grandchild holds open, the link of who never said hello.
/// Few, so that the coordinator knows of the end within 250 ms even then.
const DRAIN_TURNS: u32 = 10;

/// For the rest of the log to reach the disk; small for the same reason.
const CLOSE_DEADLINE: Duration = Duration::from_millis(100);

/// Lines that go with the report of an end.
pub(crate) const REPORTED_LINES: usize = 50;

/// The last values of a trainer that finished go before its end, so that who saw a job end and
/// asks for its metrics gets all of them. A coordinator that is away must not hold up the end.
const LAST_VALUES_DEADLINE: Duration = Duration::from_millis(300);

/// Commands that wait for the trainer to read them.
const COMMANDS: usize = 16;

/// What the trainer process needs to know and have.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) run_dir: PathBuf,
    pub(crate) assignment: Assignment,
    /// Its cores, held until it is gone.
    pub(crate) claim: Claim,
}

/// What trainers of this node share.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) spawner: Spawner,
    pub(crate) logs: LogWriter,
    pub(crate) spool: Arc<Spool>,
}

/// What may be asked of a trainer.
#[derive(Debug)]
pub(crate) enum Order {
    Connect(RankTable),
    /// Finish the step, save, leave; killed after the grace.
    StopGracefully {
        grace: Duration,
    },
    /// Leave now; killed after [`LEAVE_DEADLINE`].
    Abort {
        reason: String,
    },
    Kill,
    /// Tell where its threads are.
    ShowStacks,
}

/// What becomes known of a trainer, in order. `Ended` comes once and last.
#[derive(Debug)]
pub(crate) enum News {
    Started {
        pid: u32,
    },
    /// It is up, and what it computes with.
    Hello {
        libtorch: String,
    },
    Listening(Listening),
    Running,
    Progress(Progress),
    Checkpoint(Checkpoint),
    Notes(Vec<String>),
    Position(RankPosition),
    Stacks(Vec<String>),
    Ended(Ended),
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) end: TrainerEnd,
    pub(crate) last_lines: Vec<String>,
    pub(crate) summary_json: String,
}

impl Ended {
    /// Of a trainer that was not started, because its job was stopped before.
    pub(crate) fn before_start() -> Self {
        Self { end: TrainerEnd::Stopped, last_lines: Vec::new(), summary_json: String::new() }
    }
}

/// Where one trainer's news go.
#[derive(Debug)]
pub(crate) struct Teller {
    key: Key,
    rank: u32,
    node: mpsc::Sender<(Key, u32, News)>,
}

impl Teller {
    pub(crate) fn new(key: Key, rank: u32, node: mpsc::Sender<(Key, u32, News)>) -> Self {
        Self { key, rank, node }
    }

    /// Waits while the node is busy. A node that does not listen any more is ending, and so will
    /// the trainer: then there is nothing to do about lost news.
    pub(crate) async fn tell(&self, news: News) {
        let _ = self.node.send((self.key.clone(), self.rank, news)).await;
    }
}

/// Runs one trainer. Returns after its `Ended` was told. Not cancel-safe: dropping it leaves the
/// process to the death of its socket.
pub(crate) async fn run(plan: Plan, tools: Tools, mut orders: mpsc::Receiver<Order>, news: Teller) {
    let spool = Arc::clone(&tools.spool);
    let ended = match Trainer::start(plan, tools).await {
        Ok((mut trainer, streams)) => {
            let pid = trainer.process.pid();
            news.tell(News::Started { pid }).await;
            trainer.live(streams, &mut orders, &news).await
        }
        Err(failure) => failure,
    };
    // Any other end is told at once: others wait for it.
    if ended.end == TrainerEnd::Finished {
        spool.arrived(LAST_VALUES_DEADLINE).await;
    }
    news.tell(News::Ended(ended)).await;
}

struct Trainer {
    process: Arc<Process>,
    tools: Tools,
    key: Key,
    rank: u32,
    /// None once the trainer has left: nothing can be said to it.
    commands: Option<mpsc::Sender<WorkerCommand>>,
    serving: tokio::task::JoinHandle<()>,
    output: Output,
    said_hello: bool,
    said: Option<Said>,
    summary_json: String,
    is_stop_asked: bool,
    killed: Option<KillReason>,
    /// When to kill, and why.
    deadline: (Instant, KillReason),
    /// When the kernel is asked instead, if it was to show its stacks.
    stacks_by: Option<Instant>,
    dropped_upstream: u64,
    memory: Memory,
    _claim: Claim,
}

struct Streams {
    ended: oneshot::Receiver<ExitStatus>,
    lines: mpsc::Receiver<Line>,
    messages: mpsc::Receiver<TrainerMessage>,
}

impl Trainer {
    async fn start(plan: Plan, tools: Tools) -> Result<(Self, Streams), Ended> {
        let failed = |error: &dyn std::error::Error| {
            let message = format!("start `{}`: {error}", plan.program.display());
            let failure = TrainerFailure { kind: FailureKind::Start, step: None, message };
            let end = TrainerEnd::Failed { failure };
            Ended { end, last_lines: Vec::new(), summary_json: String::new() }
        };
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(|error| failed(&error))?;
        let (commands, outgoing) = mpsc::channel(COMMANDS);
        let key = (plan.assignment.job_id.clone(), plan.assignment.generation);
        let rank = plan.assignment.rank;
        let first = worker_command::Kind::Assignment(plan.assignment);
        commands
            .try_send(WorkerCommand { kind: Some(first) })
            .expect("a new channel has room for one message");
        let launch = Launch {
            program: plan.program.clone(),
            arguments: Vec::new(),
            env: plan.env,
            working_dir: plan.run_dir.clone(),
            cpus: plan.claim.mask(),
            link: Some(theirs.into()),
            // They are told by the link.
            deaf_to: &[Signal::SIGUSR1, Signal::SIGTERM],
        };
        let spawned = tools.spawner.spawn(launch).await.map_err(|error| failed(&error))?;
        let Spawned { process, ended, stdout, stderr } = spawned;
        let memory = Memory::of(process.pid());
        let (messages, serving) = link::serve(ours, outgoing);
        let lines = output::lines(stdout, stderr);
        info!(job = key.0, generation = key.1, rank, pid = process.pid(), "trainer started");
        let trainer = Self {
            process,
            output: Output::new(&key, rank, &plan.run_dir, &tools),
            tools,
            key,
            rank,
            commands: Some(commands),
            serving,
            said_hello: false,
            said: None,
            summary_json: String::new(),
            is_stop_asked: false,
            killed: None,
            deadline: (Instant::now() + HELLO_DEADLINE, KillReason::NoHello(HELLO_DEADLINE)),
            stacks_by: None,
            dropped_upstream: 0,
            memory,
            _claim: plan.claim,
        };
        Ok((trainer, Streams { ended, lines, messages }))
    }

    /// From the first message to the burial.
    async fn live(
        &mut self,
        mut streams: Streams,
        orders: &mut mpsc::Receiver<Order>,
        news: &Teller,
    ) -> Ended {
        let mut messages_open = true;
        let mut lines_open = true;
        let mut orders_open = true;
        let status = loop {
            let at = self.deadline.0;
            let stacks_by = self.stacks_by;
            tokio::select! {
                status = &mut streams.ended => break status.ok(),
                message = streams.messages.recv(), if messages_open => match message {
                    Some(message) => self.on_message(message, news).await,
                    None => {
                        messages_open = false;
                        self.on_hang_up();
                    }
                },
                line = streams.lines.recv(), if lines_open => match line {
                    Some(line) => self.output.take(line),
                    None => lines_open = false,
                },
                order = orders.recv(), if orders_open => match order {
                    Some(order) => self.on_order(order),
                    None => orders_open = false,
                },
                () = tokio::time::sleep_until(at) => self.on_deadline(),
                () = sleep_until(stacks_by) => {
                    self.stacks_by = None;
                    let lines = kernel::stacks(self.process.pid());
                    news.tell(News::Stacks(lines)).await;
                }
            }
        };
        self.drain(streams, messages_open, news).await;
        self.serving.abort();
        self.output.close(CLOSE_DEADLINE).await;
        self.ended(status)
    }

    async fn on_message(&mut self, message: TrainerMessage, news: &Teller) {
        use trainer_message::Kind;
        let told = match message.kind {
            Some(Kind::Hello(hello)) => {
                self.said_hello = true;
                if matches!(self.deadline.1, KillReason::NoHello(_)) {
                    self.deadline = (far_future(), KillReason::Order);
                }
                News::Hello { libtorch: hello.libtorch }
            }
            Some(Kind::Metrics(metrics)) => return self.on_metrics(metrics),
            Some(Kind::Failed(failure)) => return self.on_last_word(end::failed(failure)),
            Some(Kind::Panicked(panic)) => {
                return self.on_last_word(Said::Panicked(panic.message, panic.place));
            }
            Some(Kind::Finished(finished)) => {
                self.summary_json = finished.summary_json;
                return self.on_last_word(Said::Finished);
            }
            Some(Kind::Stopped(stopped)) => {
                self.summary_json = stopped.summary_json;
                return self.on_last_word(Said::Stopped);
            }
            Some(Kind::Listening(listening)) => News::Listening(listening),
            Some(Kind::Running(_)) => News::Running,
            Some(Kind::Progress(progress)) => News::Progress(progress),
            Some(Kind::Checkpoint(checkpoint)) => News::Checkpoint(checkpoint),
            Some(Kind::Notes(notes)) => News::Notes(notes.notes),
            Some(Kind::Position(position)) => {
                self.memory.look();
                News::Position(position)
            }
            Some(Kind::Stacks(_)) if self.stacks_by.is_none() => return,
            Some(Kind::Stacks(stacks)) => {
                self.stacks_by = None;
                News::Stacks(stacks.notes)
            }
            None => {
                warn!(rank = self.rank, "a message of an unknown kind from a trainer is ignored");
                return;
            }
        };
        news.tell(told).await;
    }

    /// The first last word counts; a later one is an echo of it.
    fn on_last_word(&mut self, said: Said) {
        self.said.get_or_insert(said);
        self.kill_by(Instant::now() + LEAVE_DEADLINE, KillReason::Lingered);
    }

    fn on_metrics(&mut self, metrics: Metrics) {
        let newly_dropped = metrics.dropped.saturating_sub(self.dropped_upstream);
        self.dropped_upstream = metrics.dropped.max(self.dropped_upstream);
        self.tools.spool.count_dropped(&self.key, newly_dropped);
        let mut series = metrics.series;
        // A trainer speaks for its own rank only.
        series.iter_mut().for_each(|one| one.rank = self.rank);
        self.tools.spool.push_metrics(&self.key, series);
    }

    fn on_order(&mut self, order: Order) {
        use worker_command::Kind;
        match order {
            Order::Connect(table) => self.command(Kind::RankTable(table)),
            Order::StopGracefully { grace } => {
                self.is_stop_asked = true;
                self.command(Kind::StopGracefully(proto::v1::Empty {}));
                self.kill_by(Instant::now() + grace, KillReason::StopGrace(grace));
            }
            Order::Abort { reason } => {
                self.is_stop_asked = true;
                self.command(Kind::Abort(reason));
                self.kill_by(Instant::now() + LEAVE_DEADLINE, KillReason::Order);
            }
            Order::ShowStacks => {
                self.command(Kind::ShowStacks(proto::v1::Empty {}));
                // A stopped process answers nothing.
                let is_stopped = kernel::is_stopped(self.process.pid());
                let wait = if is_stopped { Duration::ZERO } else { STACKS_DEADLINE };
                self.stacks_by = Some(Instant::now() + wait);
            }
            Order::Kill => {
                self.is_stop_asked = true;
                self.deadline = (far_future(), KillReason::Order);
                self.kill(KillReason::Order);
            }
        }
    }

    /// A trainer that does not read its commands is stuck, and the deadlines above deal with it.
    fn command(&mut self, kind: worker_command::Kind) {
        if let Some(commands) = &self.commands
            && commands.try_send(WorkerCommand { kind: Some(kind) }).is_err()
        {
            warn!(rank = self.rank, "trainer does not read its commands");
        }
    }

    /// The trainer closed its side: it has said everything. Our side closes too, which tells it
    /// that everything was heard.
    fn on_hang_up(&mut self) {
        self.commands = None;
        // Its end is usually already under way; a process that was stopped stays.
        let why = if self.said.is_some() { KillReason::Lingered } else { KillReason::Silent };
        self.kill_by(Instant::now() + LEAVE_DEADLINE, why);
    }

    fn kill_by(&mut self, at: Instant, why: KillReason) {
        if at < self.deadline.0 {
            self.deadline = (at, why);
        }
    }

    fn on_deadline(&mut self) {
        let (_, why) = std::mem::replace(&mut self.deadline, (far_future(), KillReason::Order));
        self.kill(why);
    }

    fn kill(&mut self, why: KillReason) {
        warn!(rank = self.rank, pid = self.process.pid(), why = ?why, "trainer killed");
        self.killed.get_or_insert(why);
        self.process.kill();
    }

    /// Takes in what the dead process had said and written.
    async fn drain(&mut self, streams: Streams, messages_open: bool, news: &Teller) {
        let Streams { mut lines, mut messages, .. } = streams;
        // The hello itself may be among what is still to be read.
        let patience = |said_hello| if said_hello { LAST_WORD_TURNS } else { DRAIN_TURNS };
        let mut turns = 0;
        while messages_open && turns < patience(self.said_hello) {
            match tokio::time::timeout(TURN, messages.recv()).await {
                Ok(Some(message)) => self.on_message(message, news).await,
                Ok(None) => break,
                Err(_) => turns += 1,
            }
        }
        // Who waited for a hello that never came has waited for lines as well.
        let waited = if self.said_hello { 0 } else { turns };
        self.output.drain(&mut lines, DRAIN_TURNS.saturating_sub(waited).max(1)).await;
    }

    fn ended(&mut self, status: Option<ExitStatus>) -> Ended {
        let evidence = Evidence {
            status,
            said: self.said.take(),
            is_stop_asked: self.is_stop_asked,
            killed: self.killed,
            memory_ran_out: self.memory.ran_out(),
        };
        let end = end::classify(evidence, self.output.tail().stderr());
        let (job, generation) = (&self.key.0, self.key.1);
        info!(job, generation, rank = self.rank, end = ?end, "trainer ended");
        let summary_json = std::mem::take(&mut self.summary_json);
        Ended { end, last_lines: self.output.tail().last(REPORTED_LINES), summary_json }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn far_future() -> Instant {
    // A year; tokio has no "never".
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}
