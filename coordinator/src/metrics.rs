//! Every metric of the coordinator: name, unit, help, and what it may be labelled with. Labels
//! come from closed sets, so that no job, worker or client can make the exposition grow.
//! `docs/operations.md` lists them; a test holds the two against each other.

mod process;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use common::status::{JobState, TrainerEnd};
use control::coordinator::Record;

use crate::core::Input;
use crate::views::Views;

use self::process::Process;

/// Before every name of ours.
const PREFIX: &str = "rustspeed";

/// What does not belong to the closed set of a label.
const OTHER: &str = "other";

const WORKER_STATES: [&str; 9] =
    ["ready", "draining", "drained", "excluded", "disconnected", "lost", "left", "missing", OTHER];
const SLOT_STATES: [&str; 2] = ["free", "taken"];
const ENDS: [&str; 7] = ["finished", "stopped", "failed", "panicked", "killed", "exited", "lost"];
const STREAMS: [&str; 2] = ["logs", "metrics"];

/// 0.1 ms to 3 s: a commit is a sync of the disk, a decision is far below it.
fn buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.000_1, 2.0, 16)
}

type Label = [(&'static str, &'static str); 1];
type Seconds = Gauge<f64, AtomicU64>;

/// A handle on all of them; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    process: Process,
    /// One scrape at a time: it refreshes values and then writes them all. Held for both, never
    /// over an await.
    scraping: Mutex<()>,
    jobs: Family<Label, Gauge>,
    workers: Family<Label, Gauge>,
    slots: Family<Label, Gauge>,
    incarnation: Gauge,
    submits: Counter,
    attempts: Counter,
    restarts: Counter,
    job_ends: Family<Label, Counter>,
    trainer_ends: Family<Label, Counter>,
    checkpoints: Counter,
    inputs: Family<Label, Counter>,
    input_queue: Gauge,
    decision: Histogram,
    lag: Seconds,
    store_events: Counter,
    commit: Histogram,
    points: Counter,
    lines: Counter,
    dropped: Counter,
    skipped: Counter,
    readers: Family<Label, Gauge>,
    rpcs: Family<Label, Counter>,
    rpc_failures: Family<Label, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut root = Registry::default();
        let process = Process::register(&mut root);
        let mut inner = Inner {
            registry: Registry::default(),
            process,
            scraping: Mutex::default(),
            jobs: gauges("state", JobState::ALL.map(JobState::as_str)),
            workers: gauges("state", WORKER_STATES),
            slots: gauges("state", SLOT_STATES),
            incarnation: Gauge::default(),
            submits: Counter::default(),
            attempts: Counter::default(),
            restarts: Counter::default(),
            job_ends: counters(
                "state",
                JobState::ALL.into_iter().filter(|s| s.is_final()).map(JobState::as_str),
            ),
            trainer_ends: counters("end", ENDS),
            checkpoints: Counter::default(),
            inputs: counters("kind", Input::KINDS),
            input_queue: Gauge::default(),
            decision: Histogram::new(buckets()),
            lag: Seconds::default(),
            store_events: Counter::default(),
            commit: Histogram::new(buckets()),
            points: Counter::default(),
            lines: Counter::default(),
            dropped: Counter::default(),
            skipped: Counter::default(),
            readers: gauges("stream", STREAMS),
            rpcs: counters("method", proto::METHODS.iter().copied().chain([OTHER])),
            rpc_failures: counters("method", proto::METHODS.iter().copied().chain([OTHER])),
        };
        inner.register_cluster(root.sub_registry_with_prefix(PREFIX));
        inner.register_control(root.sub_registry_with_prefix(PREFIX));
        inner.register_traffic(root.sub_registry_with_prefix(PREFIX));
        inner.registry = root;
        Self(Arc::new(inner))
    }
}

/// Names, units, help.
impl Inner {
    fn register_cluster(&self, at: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        at.register("build", "Version of the coordinator", version);
        at.register(
            "coordinator_incarnation",
            "Lives of this coordinator's store, this one included",
            self.incarnation.clone(),
        );
        at.register("jobs", "Jobs that are remembered, by state", self.jobs.clone());
        at.register("workers", "Workers by state", self.workers.clone());
        at.register("slots", "Slots of ready workers, free or taken", self.slots.clone());
        at.register("jobs_submitted", "Jobs accepted in this life", self.submits.clone());
        at.register("attempts_started", "Attempts started in this life", self.attempts.clone());
        at.register(
            "attempts_restarted",
            "Attempts started that were not the first of their job",
            self.restarts.clone(),
        );
        at.register("jobs_ended", "Jobs ended in this life, by final state", self.job_ends.clone());
        at.register(
            "trainers_ended",
            "Trainer processes ended in this life, by how they ended",
            self.trainer_ends.clone(),
        );
        at.register(
            "checkpoints_committed",
            "Checkpoints catalogued in this life",
            self.checkpoints.clone(),
        );
    }

    fn register_control(&self, at: &mut Registry) {
        at.register(
            "control_inputs",
            "Inputs that the control loop took, by kind",
            self.inputs.clone(),
        );
        at.register(
            "control_queue",
            "Inputs that wait for the control loop",
            self.input_queue.clone(),
        );
        at.register_with_unit(
            "control_decision",
            "Time to decide about one batch of inputs",
            Unit::Seconds,
            self.decision.clone(),
        );
        at.register_with_unit(
            "control_lag",
            "How long the last probe took through the control loop",
            Unit::Seconds,
            self.lag.clone(),
        );
        at.register(
            "store_events",
            "Durable events written in this life",
            self.store_events.clone(),
        );
        at.register_with_unit(
            "store_commit",
            "Time until a batch of events was durable",
            Unit::Seconds,
            self.commit.clone(),
        );
    }

    fn register_traffic(&self, at: &mut Registry) {
        at.register(
            "metric_points_received",
            "Points of training metrics that were kept",
            self.points.clone(),
        );
        at.register("log_lines_received", "Lines of trainers that were kept", self.lines.clone());
        at.register(
            "worker_spool_dropped",
            "Points and lines that workers had to drop before they could be sent",
            self.dropped.clone(),
        );
        at.register(
            "log_lines_skipped",
            "Lines that were gone before a slow reader came to them",
            self.skipped.clone(),
        );
        at.register("readers", "Open streams of log and metric readers", self.readers.clone());
        at.register("rpcs", "RPCs begun, by method", self.rpcs.clone());
        at.register(
            "rpc_failures",
            "RPCs refused before their first answer, by method",
            self.rpc_failures.clone(),
        );
    }
}

/// What happens.
impl Metrics {
    pub(crate) fn set_incarnation(&self, incarnation: u64) {
        self.0.incarnation.set(i64::try_from(incarnation).unwrap_or(i64::MAX));
    }

    /// One durable fact.
    pub(crate) fn record(&self, record: &Record) {
        let of = |family: &Family<Label, Counter>, key, value| {
            family.get_or_create(&[(key, value)]).inc();
        };
        let inner = &*self.0;
        inner.store_events.inc();
        match record {
            Record::JobSubmitted { .. } => _ = inner.submits.inc(),
            Record::AttemptStarted { attempt, .. } => {
                inner.attempts.inc();
                if attempt.0 > 1 {
                    inner.restarts.inc();
                }
            }
            Record::TrainerEnded { end, .. } => of(&inner.trainer_ends, "end", end_label(end)),
            Record::CheckpointCommitted { .. } => _ = inner.checkpoints.inc(),
            Record::JobEnded { state, .. } => of(&inner.job_ends, "state", state.as_str()),
            _ => {}
        }
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.0.commit.observe(took.as_secs_f64());
    }

    pub(crate) fn input(&self, kind: &'static str) {
        self.0.inputs.get_or_create(&[("kind", kind)]).inc();
    }

    /// A batch was decided while so many inputs wait.
    pub(crate) fn decided(&self, took: Duration, waiting: usize) {
        self.0.decision.observe(took.as_secs_f64());
        self.0.input_queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(crate) fn lag(&self, lag: Duration) {
        self.0.lag.set(lag.as_secs_f64());
    }

    pub(crate) fn kept(&self, points: u64, lines: u64) {
        self.0.points.inc_by(points);
        self.0.lines.inc_by(lines);
    }

    pub(crate) fn dropped(&self, count: u64) {
        self.0.dropped.inc_by(count);
    }

    pub(crate) fn skipped(&self, lines: u64) {
        self.0.skipped.inc_by(lines);
    }

    /// Counts an open stream of this kind until it is dropped.
    pub(crate) fn reader(&self, stream: &'static str) -> Reading {
        let gauge = self.0.readers.get_or_create_owned(&[("stream", stream)]);
        gauge.inc();
        Reading(gauge)
    }

    /// The label of an RPC by its path; counts it.
    pub(crate) fn rpc(&self, path: &str) -> &'static str {
        let asked = path.trim_start_matches('/');
        let method = proto::METHODS.iter().find(|method| **method == asked).map_or(OTHER, |m| m);
        self.0.rpcs.get_or_create(&[("method", method)]).inc();
        method
    }

    pub(crate) fn rpc_failed(&self, method: &'static str) {
        self.0.rpc_failures.get_or_create(&[("method", method)]).inc();
    }
}

/// See [`Metrics::reader`].
#[derive(Debug)]
pub(crate) struct Reading(Gauge);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How the metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    OpenMetrics,
}

impl Metrics {
    /// Everything as text, with what the views say now.
    pub(crate) fn expose(&self, views: &Views, format: Format) -> Result<String, std::fmt::Error> {
        let _one = self.0.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(views);
        let mut text = String::new();
        match format {
            Format::Prometheus => encoding::prometheus_text::encode(&mut text, &self.0.registry)?,
            Format::OpenMetrics => encoding::text::encode(&mut text, &self.0.registry)?,
        }
        Ok(text)
    }

    fn refresh(&self, views: &Views) {
        let inner = &*self.0;
        let set = |family: &Family<Label, Gauge>, value: &'static str, count: u64| {
            family.get_or_create(&[("state", value)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        let jobs = views.states();
        for state in JobState::ALL {
            set(&inner.jobs, state.as_str(), jobs.get(&state).copied().unwrap_or(0));
        }
        let workers = views.workers();
        for label in WORKER_STATES {
            let is_here = |state: &str| state_label(state) == label;
            let count = workers.iter().filter(|worker| is_here(&worker.state)).count();
            set(&inner.workers, label, count as u64);
        }
        let ready = || workers.iter().filter(|worker| worker.state == "ready");
        let free: u64 = ready().map(|worker| u64::from(worker.free_slots)).sum();
        let all: u64 = ready().map(|worker| u64::from(worker.slots)).sum();
        set(&inner.slots, "free", free);
        set(&inner.slots, "taken", all.saturating_sub(free));
        inner.process.refresh();
    }
}

fn state_label(state: &str) -> &'static str {
    WORKER_STATES.into_iter().find(|known| *known == state).unwrap_or(OTHER)
}

fn end_label(end: &TrainerEnd) -> &'static str {
    match end {
        TrainerEnd::Finished => "finished",
        TrainerEnd::Stopped => "stopped",
        TrainerEnd::Failed { .. } => "failed",
        TrainerEnd::Panicked { .. } => "panicked",
        TrainerEnd::Killed { .. } => "killed",
        TrainerEnd::Exited { .. } => "exited",
        TrainerEnd::Lost => "lost",
    }
}

/// A family that shows every value of its label from the beginning: a rate over what never
/// happened is zero, not absent.
fn counters(
    key: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Family<Label, Counter> {
    let family = Family::<Label, Counter>::default();
    for value in values {
        drop(family.get_or_create(&[(key, value)]));
    }
    family
}

fn gauges(
    key: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) -> Family<Label, Gauge> {
    let family = Family::<Label, Gauge>::default();
    for value in values {
        drop(family.get_or_create(&[(key, value)]));
    }
    family
}
