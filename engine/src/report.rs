//! What a rank tells while it trains: to its reporter at once, to rank 0's files by a thread of
//! its own.
//!
//! Promise: a step never waits for a disk, unless the disk is so slow that [`MAX_QUEUED`] records
//! pile up; a file that cannot be written ends the writing with a note, never the training.
//! Refusal: decides nothing about training.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::metric;
use common::spec;
use common::status::{Live, MetricPoint, UnixMillis};

use crate::Reporter;
use crate::error::Error;
use crate::monitor::{Monitors, Position, Scalar, StepRecord, ValidationColumns, ValidationRecord};
use crate::report::pace::{Pace, Shares};
use crate::report::recorder::{Record, Recorder};

pub(crate) use recorder::Written;

pub(crate) mod pace;
mod recorder;

/// Memory changes slowly and costs a read of /proc.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);
/// Notes that a summary holds, as many as a job's status.
const MAX_NOTES: usize = 64;

pub(crate) struct Report {
    reporter: Arc<dyn Reporter>,
    /// On rank 0 alone.
    recorder: Option<Recorder>,
    is_first_rank: bool,
    memory_told: Option<Instant>,
    pace: Pace,
    /// What was said, each once; on rank 0 alone.
    notes: RefCell<Vec<String>>,
}

impl Report {
    pub(crate) fn new(reporter: Arc<dyn Reporter>, is_first_rank: bool, world: u32) -> Self {
        let notes = RefCell::default();
        let (recorder, memory_told, pace) = (None, None, Pace::new(world));
        Self { reporter, recorder, is_first_rank, memory_told, pace, notes }
    }

    /// Rank 0 opens its files where the run continues.
    pub(crate) fn open_files(
        &mut self,
        run_dir: &Path,
        spec: &spec::Monitor,
        columns: ValidationColumns,
        from: Position,
    ) -> Result<(), Error> {
        if self.is_first_rank {
            let monitors = Monitors::open(run_dir, spec, columns, from, now())?;
            self.recorder = Some(Recorder::start(monitors)?);
        }
        Ok(())
    }

    /// On rank 0, for who must know that its files are complete.
    pub(crate) fn written(&self) -> Option<Written> {
        self.recorder.as_ref().map(Recorder::written)
    }

    /// A sentence for people; ranks other than 0 know nothing that rank 0 does not.
    pub(crate) fn note(&self, text: String) {
        if self.is_first_rank {
            tracing::warn!("{text}");
            let mut notes = self.notes.borrow_mut();
            if notes.len() < MAX_NOTES && !notes.contains(&text) {
                notes.push(text.clone());
            }
            self.reporter.note(text);
        }
    }

    /// What was said, for the summary.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    pub(crate) fn progress(&self, live: Live) {
        self.reporter.progress(live);
    }

    pub(crate) fn step(&mut self, record: StepRecord) {
        self.memory(record.step, record.samples);
        if !self.is_first_rank {
            return;
        }
        let StepRecord { step, samples, time, .. } = record;
        for (metric, value) in record.metrics() {
            self.reporter.metric(metric.name, MetricPoint { step, samples, value, time });
        }
        self.record(Record::Step(record));
    }

    /// Seconds of a phase of the step. The monitors' tags are DeepSpeed's, which counts
    /// milliseconds.
    pub(crate) fn seconds(&mut self, metric: metric::Metric, of: &StepRecord, seconds: f64) {
        if !self.is_first_rank {
            return;
        }
        let StepRecord { step, samples, time, .. } = *of;
        let point = MetricPoint { step, samples, value: seconds, time };
        self.reporter.metric(metric.name, point);
        self.record(Record::Scalar(Scalar { metric, samples, value: seconds * 1e3, time }));
    }

    pub(crate) fn validation(&mut self, record: ValidationRecord) {
        if !self.is_first_rank {
            return;
        }
        let ValidationRecord { step, samples, val_loss, val_accuracy, time, .. } = record;
        let accuracy = val_accuracy.map(|value| (metric::VAL_ACCURACY, value));
        for (metric, value) in [(metric::VAL_LOSS, val_loss)].into_iter().chain(accuracy) {
            self.reporter.metric(metric.name, MetricPoint { step, samples, value, time });
        }
        self.record(Record::Validation(record));
    }

    /// Of the test part, judged once at the end of a run.
    pub(crate) fn test_accuracy(&mut self, step: u64, samples: u64, value: f64) {
        if !self.is_first_rank {
            return;
        }
        let (metric, time) = (metric::TEST_ACCURACY, now());
        self.reporter.metric(metric.name, MetricPoint { step, samples, value, time });
        self.record(Record::Scalar(Scalar { metric, samples, value, time }));
    }

    /// What this rank's step was made of; every rank tells it.
    pub(crate) fn pace(&mut self, of: &StepRecord, shares: Shares) {
        self.pace.add(&*self.reporter, of, shares);
    }

    fn memory(&mut self, step: u64, samples: u64) {
        if self.memory_told.is_some_and(|told| told.elapsed() < MEMORY_INTERVAL) {
            return;
        }
        self.memory_told = Some(Instant::now());
        let Some(bytes) = resident_bytes() else { return };
        let (value, time) = (bytes as f64, now());
        self.reporter.metric(metric::RSS_BYTES.name, MetricPoint { step, samples, value, time });
        if self.is_first_rank {
            let metric = metric::RSS_BYTES;
            self.record(Record::Scalar(Scalar { metric, samples, value, time }));
        }
    }

    fn record(&mut self, record: Record) {
        let failure = self.recorder.as_mut().and_then(|recorder| recorder.push(record));
        if let Some(failure) = failure {
            self.note(failure);
        }
    }

    /// Writes what is left. The files are complete afterwards, or a note says why not.
    pub(crate) fn close(&mut self) {
        let failure = self.recorder.take().and_then(Recorder::close);
        if let Some(failure) = failure {
            self.note(failure);
        }
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").field("recorder", &self.recorder).finish_non_exhaustive()
    }
}

pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is told as 1970.
    since.map_or(0, |since| since.as_millis() as UnixMillis)
}

/// Of this process; None where /proc does not tell.
fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most that this process ever had resident.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    common::process::status_bytes(&status, key)
}

#[cfg(test)]
mod tests;
