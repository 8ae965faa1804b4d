//! One process of a job's own command, from its start to its burial. The worker plays the trainer's
//! part for it: a rank is ready where the command can be started, with a free port as its address; it
//! is started when the rank table tells where the others are, and runs from then on. Knows nothing of
//! the coordinator.

mod end;
mod place;

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use common::spec::Command;
use common::status::{FailureKind, TrainerEnd, TrainerFailure};
use nix::sys::signal::Signal;
use proto::v1::{Listening, RankTable};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::info;

use crate::capture::Line;
use crate::cores::Claim;
use crate::memory::Memory;
use crate::network::Door;
use crate::output::{self, Output};
use crate::spawner::{Launch, Process, Spawned};
use crate::spool::Key;
use crate::trainer_process::{
    Ended, LEAVE_DEADLINE, News, Order, REPORTED_LINES, Teller, Tools, far_future,
};

use end::Evidence;
use place::{Attempt, Place};

/// Once the process and its group are gone, their pipes have ended, unless something that left the
/// group holds one: a second.
const DRAIN_TURNS: u32 = 100;

/// For the rest of the log to reach the disk.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The last lines go before the end, so that who sees the job end has all of them. A coordinator that
/// is away must not hold up the end.
const LAST_LINES_DEADLINE: Duration = Duration::from_millis(300);

/// Between a signal to a rank and what its worker makes of the same one.
const TOLD_WITHIN: Duration = Duration::from_millis(250);

/// How often its memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What one rank needs to know and have.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) key: Key,
    pub(crate) rank: u32,
    pub(crate) attempt: u32,
    pub(crate) command: Command,
    /// Where its program was found.
    pub(crate) program: PathBuf,
    /// Without what depends on the rank.
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) threads: u32,
    pub(crate) max_restarts: u32,
    pub(crate) run_dir: PathBuf,
    pub(crate) door: Door,
    /// Its cores, held until it is gone.
    pub(crate) claim: Claim,
    /// Said once.
    pub(crate) notes: Vec<String>,
}

/// Runs one rank. Returns after its `Ended` was told. Not cancel-safe: dropping it leaves the process
/// to the death of its parent thread.
pub(crate) async fn run(plan: Plan, tools: Tools, mut orders: mpsc::Receiver<Order>, news: Teller) {
    let spool = Arc::clone(&tools.spool);
    let ended = play(plan, tools, &mut orders, &news).await.unwrap_or_else(|ended| ended);
    spool.arrived(LAST_LINES_DEADLINE).await;
    news.tell(News::Ended(ended)).await;
}

/// Either way it has ended; the error is one that never ran.
async fn play(
    plan: Plan,
    tools: Tools,
    orders: &mut mpsc::Receiver<Order>,
    news: &Teller,
) -> Result<Ended, Ended> {
    let port = plan.reserve_port().map_err(|why| not_started(&why))?;
    let address = port.local_addr().map_err(|error| not_started(&error.to_string()))?;
    let address = SocketAddr::new(plan.door.advertise, address.port());
    let listening = Listening { address: address.to_string(), ..Listening::default() };
    if plan.rank == 0 {
        news.tell(News::Notes(plan.notes.clone())).await;
    }
    news.tell(News::Listening(listening.clone())).await;
    let table = wait_for_table(orders).await.ok_or_else(Ended::before_start)?;
    // As late as possible: it is rank 0's to take now.
    drop(port);
    let (mut running, streams) =
        Running::start(&plan, &tools, &table).await.map_err(|why| not_started(&why))?;
    let pid = running.process.pid();
    news.tell(News::Started { pid }).await;
    // Once more, because only now there is a process to name.
    news.tell(News::Listening(listening)).await;
    news.tell(News::Running).await;
    Ok(running.live(streams, orders).await)
}

fn not_started(why: &str) -> Ended {
    let failure = TrainerFailure { kind: FailureKind::Start, step: None, message: why.to_owned() };
    let end = TrainerEnd::Failed { failure };
    Ended { end, last_lines: Vec::new(), summary_json: String::new() }
}

/// None: it is not wanted any more.
async fn wait_for_table(orders: &mut mpsc::Receiver<Order>) -> Option<RankTable> {
    loop {
        match orders.recv().await? {
            Order::Connect(table) => return Some(table),
            Order::ShowStacks => {}
            Order::StopGracefully { .. } | Order::Abort { .. } | Order::Kill => return None,
        }
    }
}

impl Plan {
    /// A port of this node that is free, and stays so while this lives. The job may name the one at
    /// which rank 0 is to be found.
    fn reserve_port(&self) -> Result<TcpListener, String> {
        let set = |name: &str| self.command_variable(name);
        let is_ours = self.rank == 0 && set("MASTER_ADDR").is_none();
        let named = set("MASTER_PORT").filter(|_| is_ours);
        let port: Option<u16> = named.as_deref().map(str::parse).transpose().map_err(|_| {
            format!("MASTER_PORT is `{}`: expected a port", named.as_deref().unwrap_or_default())
        })?;
        match port {
            Some(port) => TcpListener::bind((self.door.listen, port))
                .map_err(|error| format!("MASTER_PORT {port} is not free: {error}; leave it out")),
            None => self
                .door
                .open()
                .map_err(|error| format!("find a free port of {}: {error}", self.door.place())),
        }
    }

    /// SLURM tells every process of an allocation that its end is near, and most would die of that at
    /// once; the worker has them stop with SIGTERM, and time to save.
    fn deaf_to(&self) -> &'static [Signal] {
        match self.command_variable("SLURM_JOB_ID") {
            Some(_) => &[Signal::SIGUSR1],
            None => &[],
        }
    }

    fn command_variable(&self, wanted: &str) -> Option<String> {
        let (_, value) = self.env.iter().find(|(name, _)| name == wanted)?;
        value.to_str().map(str::to_owned)
    }

    /// The whole environment of the process.
    fn environment(&self, place: &Place) -> Vec<(OsString, OsString)> {
        let run_dir = self.run_dir.to_string_lossy();
        let attempt = Attempt {
            job_id: &self.key.0,
            number: self.attempt,
            max_restarts: self.max_restarts,
            run_dir: &run_dir,
        };
        let mut defaults = place.defaults(&attempt);
        if let Some(inside) = self.door.inner_address().filter(|_| place.is_beside_rank_0()) {
            let master = defaults.iter_mut().filter(|(name, _)| *name == "MASTER_ADDR");
            master.for_each(|(_, address)| *address = inside.to_string());
        }
        let threads = match self.claim.bound() {
            // DeepSpeed's rule.
            Some(cores) => Some(cores.to_string()),
            // torchrun's rule: one process alone has the whole node.
            None if place.local_world > 1 || self.threads > 1 => Some(self.threads.to_string()),
            None => None,
        };
        defaults.extend(threads.map(|threads| ("OMP_NUM_THREADS", threads)));
        defaults.retain(|(name, _)| !self.env.iter().any(|(set, _)| set == name));
        let own = place.variables(&attempt).into_iter().chain(defaults);
        let own = own.map(|(name, value)| (name.into(), value.into()));
        self.env.iter().cloned().chain(own).collect()
    }
}

struct Running {
    process: Arc<Process>,
    key: Key,
    rank: u32,
    output: Output,
    is_stop_asked: bool,
    is_killed: bool,
    /// When to kill.
    deadline: Instant,
    memory: Memory,
}

struct Streams {
    ended: oneshot::Receiver<ExitStatus>,
    lines: mpsc::Receiver<Line>,
}

impl Running {
    async fn start(
        plan: &Plan,
        tools: &Tools,
        table: &RankTable,
    ) -> Result<(Self, Streams), String> {
        let place = Place::of(plan.rank, table)
            .ok_or_else(|| format!("the rank table has no place for rank {}", plan.rank))?;
        let launch = Launch {
            program: plan.program.clone(),
            arguments: plan.command.arguments(place.local_rank),
            env: plan.environment(&place),
            working_dir: plan.command.working_dir.clone(),
            cpus: plan.claim.mask(),
            link: None,
            deaf_to: plan.deaf_to(),
        };
        let spawned = tools.spawner.spawn(launch).await;
        let Spawned { process, ended, stdout, stderr } =
            spawned.map_err(|error| format!("start `{}`: {error}", plan.program.display()))?;
        let (key, rank, pid) = (plan.key.clone(), plan.rank, process.pid());
        info!(job = key.0, generation = key.1, rank, pid, "command started");
        let running = Self {
            output: Output::new(&key, rank, &plan.run_dir, tools),
            memory: Memory::of(pid),
            process,
            key,
            rank,
            is_stop_asked: false,
            is_killed: false,
            deadline: far_future(),
        };
        Ok((running, Streams { ended, lines: output::lines(stdout, stderr) }))
    }

    /// From the first line to the burial.
    async fn live(&mut self, mut streams: Streams, orders: &mut mpsc::Receiver<Order>) -> Ended {
        let mut lines_open = true;
        let mut orders_open = true;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = loop {
            let deadline = self.deadline;
            tokio::select! {
                status = &mut streams.ended => break status.ok(),
                line = streams.lines.recv(), if lines_open => match line {
                    Some(line) => self.output.take(line),
                    None => lines_open = false,
                },
                order = orders.recv(), if orders_open => match order {
                    Some(order) => self.on_order(&order),
                    None => orders_open = false,
                },
                () = tokio::time::sleep_until(deadline) => self.kill(),
                _ = look.tick() => self.memory.look(),
            }
        };
        self.hear_out(status, orders).await;
        self.output.drain(&mut streams.lines, DRAIN_TURNS).await;
        self.output.close(CLOSE_DEADLINE).await;
        self.ended(status)
    }

    /// SLURM and others may tell a rank and its worker to end at once: a rank that has ended of it was
    /// stopped, if the worker says so a moment later.
    async fn hear_out(&mut self, status: Option<ExitStatus>, orders: &mut mpsc::Receiver<Order>) {
        let is_terminated = status.is_some_and(end::is_terminated);
        let patience = if is_terminated { TOLD_WITHIN } else { Duration::ZERO };
        let until = Instant::now() + patience;
        while !self.is_stop_asked {
            match tokio::time::timeout_at(until, orders.recv()).await {
                Ok(Some(Order::StopGracefully { .. })) => self.is_stop_asked = true,
                // Another rank's failure may be the answer to this one's end.
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn on_order(&mut self, order: &Order) {
        let grace = match order {
            // It has its table, and has no stacks that we could ask for.
            Order::Connect(_) | Order::ShowStacks => return,
            Order::StopGracefully { grace } => *grace,
            Order::Abort { .. } => LEAVE_DEADLINE,
            Order::Kill => return self.kill(),
        };
        self.deadline = self.deadline.min(Instant::now() + grace);
        if !self.is_stop_asked {
            self.is_stop_asked = true;
            self.process.terminate();
        }
    }

    fn kill(&mut self) {
        self.is_stop_asked = true;
        self.is_killed = true;
        self.deadline = far_future();
        self.process.kill();
    }

    fn ended(&mut self, status: Option<ExitStatus>) -> Ended {
        let end = end::classify(Evidence {
            status,
            is_stop_asked: self.is_stop_asked,
            is_killed: self.is_killed,
            memory_ran_out: self.memory.ran_out(),
        });
        let (job, generation) = (&self.key.0, self.key.1);
        info!(job, generation, rank = self.rank, end = ?end, "command ended");
        let last_lines = self.output.tail().last(REPORTED_LINES);
        Ended { end, last_lines, summary_json: String::new() }
    }
}
