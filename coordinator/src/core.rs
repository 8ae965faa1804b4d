//! The one loop around `control`: takes what is ready, decides once, makes it durable, then acts
//! (A1, A2). Whatever it sends to a worker goes into a bounded queue; a worker that does not take
//! its messages loses its stream and comes back with its truth.

mod handle;
mod links;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use common::ids::{Incarnation, JobId};
use control::coordinator::{
    AllocationOrder, Answer, Chance, Effect, Event, Ledger, Machine, Now, Record, Refusal, Ticket,
    Token,
};

use crate::archive::Archive;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::codec;
use crate::metrics::Metrics;
use crate::store::{self, Writer};
use crate::views::{Published, Views};
use crate::vitals::Vitals;

pub(crate) use self::handle::{Handle, Input, Stopping};
use self::links::Links;
pub(crate) use self::links::QUEUE as LINK_QUEUE;

/// Inputs that may wait for the loop; who brings more waits itself.
const QUEUE: usize = 4096;

/// A tick waits for unread inputs so long; after it the machine takes us to have slept.
const MAX_LATE: Duration = Duration::from_millis(1100);

/// Inputs that are decided together and share one commit.
const MAX_BATCH: usize = 512;

/// Events between snapshots, at least: a replay of this many takes milliseconds.
const SNAPSHOT_EVERY: usize = 1000;

/// A new life makes no snapshot for so long for each job: a large one takes a core for seconds, and the
/// workers that come back are served first.
const NO_SNAPSHOT_FOR: Duration = Duration::from_micros(100);

/// Jobs that a thread is worth.
const MIN_PART: usize = 1000;

/// Everything that the loop owns.
pub(crate) struct Core {
    machine: Machine,
    store: Writer,
    clock: Clock,
    views: Arc<Views>,
    archive: Archive,
    blobs: Blobs,
    links: Links,
    /// What is wanted of SLURM.
    allocations: watch::Sender<Vec<AllocationOrder>>,
    metrics: Metrics,
    vitals: Vitals,
    inputs: mpsc::Receiver<Input>,
    answers: HashMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: u64,
    events_since_snapshot: usize,
    no_snapshot_until: Instant,
    /// Tells the end of the snapshot that is being written.
    snapshot: Option<oneshot::Receiver<Result<(), store::Error>>>,
    chance: SystemChance,
}

/// What a core is built from.
pub(crate) struct Parts {
    pub(crate) config: control::coordinator::Config,
    pub(crate) ledger: Ledger,
    /// Events that were replayed onto the last snapshot: lives that end uncleanly must not pile them up.
    pub(crate) replayed: usize,
    pub(crate) store: Writer,
    pub(crate) archive: Archive,
    pub(crate) blobs: Blobs,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) vitals: Vitals,
}

impl Core {
    /// Builds the loop and its handle; nothing runs before [`Core::run`].
    pub(crate) fn new(parts: Parts) -> (Self, Handle) {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let jobs = u32::try_from(parts.ledger.jobs.len()).unwrap_or(u32::MAX);
        let views = Arc::new(Views::default());
        let machine = Machine::new(parts.config, parts.ledger);
        let links = Links::new();
        let core = Self {
            machine,
            store: parts.store,
            clock: parts.clock,
            views: Arc::clone(&views),
            archive: parts.archive,
            blobs: parts.blobs,
            links,
            allocations: watch::Sender::default(),
            metrics: parts.metrics,
            vitals: parts.vitals,
            inputs,
            answers: HashMap::new(),
            next_ticket: 0,
            events_since_snapshot: parts.replayed,
            no_snapshot_until: Instant::now() + NO_SNAPSHOT_FOR.saturating_mul(jobs),
            snapshot: None,
            chance: SystemChance,
        };
        (core, Handle::new(sender, views))
    }

    /// What is wanted of SLURM, now and later.
    pub(crate) fn allocations(&self) -> watch::Receiver<Vec<AllocationOrder>> {
        self.allocations.subscribe()
    }

    /// Takes over from the last life: decides about it and publishes what readers see. Afterwards
    /// the front may open.
    pub(crate) async fn start(&mut self) -> Result<Incarnation, store::Error> {
        let effects = self.machine.step(Event::Started, self.clock.now(), &mut self.chance);
        let incarnation = self.machine.ledger().incarnation;
        self.links.set_incarnation(incarnation);
        self.metrics.set_incarnation(incarnation.0);
        self.publish_all();
        self.make_true(effects).await?;
        self.collect_blobs();
        self.archive.sweep(self.machine.ledger().jobs.keys().cloned().collect());
        Ok(incarnation)
    }

    /// Runs until every handle is gone or `stop` resolves, then closes the store cleanly.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), store::Error> {
        tokio::pin!(stop);
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let deadline = self.machine.next_deadline().map(|at| self.clock.instant(at));
            tokio::select! {
                // What waits comes before a deadline: it may be the sign of life that is waited for.
                biased;
                () = &mut stop => break,
                received = self.inputs.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        break;
                    }
                }
                () = sleep_until(deadline) => {}
            }
            let effects = self.decide(&mut batch);
            self.make_true(effects).await?;
        }
        self.links.close_all();
        if let Some(end) = self.snapshot.take() {
            tell_snapshot(end.await.ok());
        }
        self.store.snapshot(codec::encode_ledger(self.machine.ledger())).await?;
        self.store.close().await
    }

    /// Steps the machine through a batch and, where one is due, a tick: last, so that heartbeats
    /// that came in time count.
    fn decide(&mut self, batch: &mut Vec<Input>) -> Vec<Effect> {
        let mut events: Vec<Event> = Vec::with_capacity(batch.len() + 1);
        let began = Instant::now();
        for input in batch.drain(..) {
            self.metrics.input(input.kind());
            events.extend(self.admit(input));
        }
        let now = self.clock.now();
        let late = self.machine.next_deadline().and_then(|at| now.uptime.checked_sub(at));
        // More than a batch may wait; not for ever, though: what is very late is forgiven anyway.
        if late.is_some_and(|late| self.inputs.is_empty() || late > MAX_LATE) {
            events.push(Event::Tick);
        }
        let effects = self.machine.steps(events, now, &mut self.chance);
        self.metrics.decided(began.elapsed(), self.inputs.len());
        effects
    }

    /// Remembers who waits for the input's outcome; gives the event, if it is one.
    fn admit(&mut self, input: Input) -> Option<Event> {
        match input {
            Input::Submit { job_id, submission, reply } => {
                let ticket = self.ticket(reply);
                Some(Event::Submit { ticket, job_id, submission })
            }
            Input::Cancel { job_id, mode, reply } => {
                let ticket = self.ticket(reply);
                Some(Event::Cancel { ticket, job_id, mode })
            }
            Input::Requeue { ended, requeue, reply } => {
                let ticket = self.ticket(reply);
                Some(Event::Requeue { ticket, ended, requeue })
            }
            Input::Preempt { job_id, order, reply } => {
                let ticket = self.ticket(reply);
                Some(Event::Preempt { ticket, job_id, order })
            }
            Input::Drain { worker, order, reply } => {
                let ticket = self.ticket(reply);
                Some(Event::Drain { ticket, worker, order })
            }
            Input::Pool { name, order, reply } => {
                let ticket = self.ticket(reply);
                Some(Event::Pool { ticket, name, order })
            }
            Input::Pools { reply } => {
                // Who asked may have left.
                let _ = reply.send(self.machine.pools());
                None
            }
            Input::Hello { connection, hello, link } => {
                self.links.open(connection, hello.name.clone(), link);
                Some(Event::Hello { connection, hello })
            }
            Input::Allocation { name, news } => Some(Event::Allocation { name, news }),
            Input::Worker { connection, message } => Some(Event::Worker { connection, message }),
            Input::Dropped { connection } => {
                self.links.close(connection);
                Some(Event::Dropped { connection })
            }
            Input::Order { worker, order, reply } => {
                // Who asked may have left; the order is harmless.
                let _ = reply.send(self.links.order(&worker, order));
                None
            }
            Input::Explain { job_id, reply } => {
                // Who asked may have left.
                let _ = reply.send(self.machine.explain(&job_id, self.clock.now()));
                None
            }
            Input::Probe { reply } => {
                // It may have waited too long already.
                let _ = reply.send(());
                None
            }
        }
    }

    fn ticket(&mut self, reply: oneshot::Sender<Answer>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.answers.insert(ticket, reply);
        ticket
    }

    /// First everything durable, in one commit; then the rest, in order (A2).
    async fn make_true(&mut self, mut effects: Vec<Effect>) -> Result<(), store::Error> {
        let mut records: Vec<Record> = Vec::new();
        for effect in &mut effects {
            if let Effect::Persist(more) = effect {
                records.append(more);
            }
        }
        if !records.is_empty() {
            self.events_since_snapshot += records.len();
            let began = Instant::now();
            self.vitals.writing(Some(began));
            self.store.append(records.iter().map(codec::encode).collect()).await?;
            self.vitals.writing(None);
            self.metrics.committed(began.elapsed());
            for record in &records {
                self.metrics.record(record);
                log_record(record);
            }
        }
        let welcomed: Vec<Event> = effects.iter().filter_map(welcomed).collect();
        for effect in effects {
            self.act(effect);
        }
        if !welcomed.is_empty() {
            // Moves deadlines and nothing else: there is no effect.
            self.machine.steps(welcomed, self.clock.now(), &mut self.chance);
        }
        self.snapshot_when_due()
    }

    /// Keeps the ledger from time to time. A large one takes seconds to write; the loop goes on.
    fn snapshot_when_due(&mut self) -> Result<(), store::Error> {
        if let Some(end) = &mut self.snapshot {
            match end.try_recv() {
                Err(TryRecvError::Empty) => return Ok(()),
                ended => tell_snapshot(ended.ok()),
            }
            self.snapshot = None;
        }
        let jobs = self.machine.ledger().jobs.len();
        let is_due = is_snapshot_due(self.events_since_snapshot, jobs);
        if is_due && Instant::now() >= self.no_snapshot_until {
            self.events_since_snapshot = 0;
            let ledger = self.machine.ledger().frozen();
            let encode = move || codec::encode_ledger(&ledger);
            self.snapshot = Some(self.store.begin_snapshot(encode)?);
            self.collect_blobs();
        }
        Ok(())
    }

    /// Uploads that no remembered job names go, now and then.
    fn collect_blobs(&self) {
        let jobs = self.machine.ledger().jobs.values();
        let named: BTreeSet<String> =
            jobs.flat_map(|job| job.submission.uploads.values().cloned()).collect();
        let blobs = self.blobs.clone();
        tokio::task::spawn_blocking(move || match blobs.collect(&named) {
            Ok(0) => {}
            Ok(removed) => info!(removed, "old uploads removed"),
            Err(error) => warn!(%error, "old uploads stay"),
        });
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(_) => {}
            Effect::Changed { jobs, workers, board } => {
                if board {
                    self.views.publish_board(self.machine.board());
                }
                for job_id in &jobs {
                    self.publish(job_id);
                }
                if workers {
                    self.views.publish_workers(self.machine.workers());
                }
            }
            Effect::Answer { ticket, answer } => {
                if let Answer::Refused(refusal @ Refusal::QueueFull { .. }) = &answer {
                    warn!(%refusal, "submit refused");
                }
                if let Some(reply) = self.answers.remove(&ticket) {
                    // A client that left does not undo what it asked for.
                    let _ = reply.send(answer);
                }
            }
            Effect::Allocations(orders) => {
                self.allocations.send_replace(orders);
            }
            Effect::Forget { job_id } => {
                self.views.forget(&job_id);
                self.archive.forget(&job_id);
            }
            to_worker => self.links.send(to_worker),
        }
    }

    fn publish(&self, job_id: &JobId) {
        if let Some(published) = published(&self.machine, job_id, self.clock.now()) {
            self.views.publish(published);
        }
    }

    /// What readers see of a new life: of a deep queue a lot, so all cores work it out.
    fn publish_all(&self) {
        let (machine, now) = (&self.machine, self.clock.now());
        let job_ids: Vec<&JobId> = machine.ledger().jobs.keys().collect();
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let part = job_ids.len().div_ceil(cores).max(MIN_PART);
        let all: Vec<Vec<Published<'_>>> = thread::scope(|scope| {
            let of = |ids: &[&JobId]| {
                ids.iter().filter_map(|id| published(machine, id, now)).collect::<Vec<_>>()
            };
            let parts = job_ids.chunks(part).map(|ids| scope.spawn(move || of(ids)));
            let parts: Vec<_> = parts.collect();
            parts.into_iter().map(|part| part.join().expect("a panic there is one here")).collect()
        });
        self.views.publish_all(all.into_iter().flatten());
    }
}

fn published<'a>(machine: &'a Machine, job_id: &JobId, now: Now) -> Option<Published<'a>> {
    let status = Arc::new(machine.facts(job_id, now)?);
    let checkpoints = machine.checkpoints(job_id).unwrap_or_default();
    Some(Published { status, checkpoints, queued: machine.queued(job_id) })
}

/// A large ledger is written less often: the work per event stays bounded. A queue that only grows
/// has no more events than jobs; half of them, so that its turn comes too.
pub(crate) fn is_snapshot_due(events_since: usize, jobs: usize) -> bool {
    events_since >= SNAPSHOT_EVERY.max(jobs / 2)
}

fn welcomed(effect: &Effect) -> Option<Event> {
    match effect {
        Effect::Welcome { to, .. } => Some(Event::Welcomed { connection: *to }),
        _ => None,
    }
}

/// None: the thread that wrote it has ended without a word.
fn tell_snapshot(end: Option<Result<(), store::Error>>) {
    match end {
        Some(Ok(())) => debug!("snapshot written"),
        Some(Err(error)) => {
            let error = service::exit::chain(&error);
            error!(error, "no snapshot was written: events stay until the next one");
        }
        None => error!("no snapshot was written: events stay until the next one"),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The story of the cluster, one line for every durable fact.
fn log_record(record: &Record) {
    match record {
        Record::CoordinatorStarted { incarnation, .. } => info!(%incarnation, "in charge"),
        Record::WorkerSeen { id, name, .. } => info!(worker = name, %id, "worker joined"),
        Record::JobSubmitted { job_id, .. } => info!(%job_id, "job submitted"),
        Record::CancelAsked { job_id, mode, .. } => info!(%job_id, ?mode, "cancel asked"),
        Record::AttemptStarted { job_id, attempt, generation, reason, .. } => {
            info!(%job_id, %attempt, %generation, reason, "attempt started");
        }
        Record::AttemptRunning { job_id, generation, .. } => {
            info!(%job_id, %generation, "training");
        }
        Record::StopDecided { job_id, generation, stop, .. } => {
            info!(%job_id, %generation, mode = ?stop.mode, reason = stop.reason, "stopping");
        }
        Record::TrainerEnded { key, end, .. } => {
            info!(job_id = %key.job_id, generation = %key.generation, rank = %key.rank, ?end, "trainer ended");
        }
        Record::CheckpointCommitted { job_id, checkpoint, .. } => {
            info!(%job_id, tag = checkpoint.tag, "checkpoint committed");
        }
        Record::NotesAdded { job_id, notes } => debug!(%job_id, ?notes, "notes"),
        Record::AttemptReady { job_id, generation, step, .. } => {
            info!(%job_id, %generation, step, "attempt continues");
        }
        Record::AttemptEnded { job_id, generation, over, .. } => {
            let (reason, decision) = (&over.failure.message, &over.decision);
            info!(%job_id, %generation, class = %over.class, reason, decision, "attempt ended");
        }
        Record::JobEnded { job_id, state, reason, .. } => {
            info!(%job_id, %state, reason, "job ended");
        }
        Record::JobForgotten { job_id } => debug!(%job_id, "job forgotten"),
        Record::WorkerDrained { name, reason, .. } => info!(worker = name, reason, "drained"),
        Record::WorkerUndrained { name, .. } => info!(worker = name, "back in service"),
        Record::AllocationAsked { name, .. } => {
            info!(allocation = %name, "SLURM is asked for nodes")
        }
        Record::AllocationAccepted { name, slurm_job, .. } => {
            info!(allocation = %name, slurm_job, "in SLURM's queue");
        }
        Record::AllocationReleased { name, why, .. } => {
            info!(allocation = %name, why, "allocation is given back");
        }
        Record::AllocationEnded { name, why, .. } => {
            info!(allocation = %name, why, "allocation is over");
        }
        Record::AllocationServed { name, .. } => {
            info!(allocation = %name, "its first worker has joined");
        }
        Record::PoolAdded { name, .. } => info!(pool = %name, "added"),
        Record::PoolPaused { name, why, .. } => warn!(pool = %name, why, "paused"),
        Record::PoolResumed { name, .. } => info!(pool = %name, "resumed"),
        Record::PoolFailed { name, why, .. } => warn!(pool = %name, why, "of no use"),
        Record::PoolClosed { name, .. } => info!(pool = %name, "is being removed"),
        Record::WorkerAllowed { name, .. } => info!(worker = name, "its faults are forgiven"),
    }
}

/// The system's own randomness.
struct SystemChance;

impl Chance for SystemChance {
    fn token(&mut self) -> Token {
        Token(*uuid::Uuid::new_v4().as_bytes())
    }
}

/// Logs the loop's failure in full; the process ends because of it.
pub(crate) fn log_failure(error: &store::Error) {
    error!(error = %service::exit::chain(error), "the store has failed: stopping");
}
