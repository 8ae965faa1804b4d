//! The thread that writes rank 0's monitors.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::monitor::{self, Monitors, Scalar, StepRecord, ValidationRecord};

/// Records that may wait for the disk, about 8 MB; beyond it a step waits.
pub(crate) const MAX_QUEUED: usize = 100_000;
/// How long a record may stay in memory. Larger batches mean fewer wake-ups beside training.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);
/// A disk that takes nothing for so long hangs: the metrics files are given up, training goes on.
const MAX_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub(super) enum Record {
    Step(StepRecord),
    Validation(ValidationRecord),
    Scalar(Scalar),
}

#[derive(Debug)]
pub(super) struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    is_failure_told: bool,
}

#[derive(Debug)]
struct Shared {
    /// Held for a push or a swap, never while writing.
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    records: Vec<Record>,
    is_closed: bool,
    /// The thread has written what it could and returned.
    is_done: bool,
    failure: Option<String>,
    lost: u64,
    /// Records that were taken in, and of those the ones that are in the files or given up.
    taken: u64,
    written: u64,
    /// Somebody waits for the files.
    is_urgent: bool,
}

/// The files, for who must know that they are complete up to now.
#[derive(Debug, Clone)]
pub(crate) struct Written(Arc<Shared>);

impl Written {
    /// Returns when all records of before are in the files, or were given up.
    pub(crate) fn wait(&self) {
        let mut queue = self.0.lock();
        let goal = queue.taken;
        if queue.written < goal {
            queue.is_urgent = true;
            drop(queue);
            self.0.changed.notify_all();
            drop(self.0.wait_until(|queue| queue.written >= goal || queue.is_done));
        }
    }
}

impl Recorder {
    pub(super) fn start(monitors: Monitors) -> Result<Self, Error> {
        let shared =
            Arc::new(Shared { queue: Mutex::new(Queue::default()), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || write_until_closed(&of_thread, monitors))
            .map_err(|source| Error::Thread { name: "records", source })?;
        Ok(Self { shared, thread: Some(thread), is_failure_told: false })
    }

    pub(super) fn written(&self) -> Written {
        Written(Arc::clone(&self.shared))
    }

    /// Returns what went wrong with an earlier record, once.
    pub(super) fn push(&mut self, record: Record) -> Option<String> {
        let mut queue = self
            .shared
            .wait_until(|queue| queue.records.len() < MAX_QUEUED || queue.failure.is_some());
        if queue.records.len() < MAX_QUEUED {
            queue.records.push(record);
            queue.taken += 1;
            if queue.records.len() == MAX_QUEUED {
                self.shared.changed.notify_all();
            }
        } else {
            queue.lost += 1;
            queue.failure.get_or_insert_with(hangs);
        }
        let failure = queue.failure.clone().filter(|_| !self.is_failure_told);
        self.is_failure_told |= failure.is_some();
        failure
    }

    /// Writes what is left; returns what a person should know about the files.
    pub(super) fn close(mut self) -> Option<String> {
        self.end();
        let queue = self.shared.lock();
        let failure = queue.failure.as_ref()?;
        Some(format!("{} records are missing from the metrics files: {failure}", queue.lost))
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
        let mut queue = self.shared.wait_until(|queue| queue.is_done);
        if queue.is_done {
            drop(queue);
            // A panic of the writer has been printed by its own hook; training is not its victim.
            let _ = thread.join();
        } else {
            queue.lost += queue.records.len() as u64;
            queue.failure.get_or_insert_with(hangs);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

fn hangs() -> String {
    format!("the disk took no record for {MAX_WAIT:?}")
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole at every point where a holder could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns with the lock once the condition holds, or after [`MAX_WAIT`].
    fn wait_until(&self, holds: impl Fn(&Queue) -> bool) -> MutexGuard<'_, Queue> {
        self.changed
            .wait_timeout_while(self.lock(), MAX_WAIT, |queue| !holds(queue))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// Says that the thread is done even where it panics.
struct Done<'a>(&'a Shared);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.lock().is_done = true;
        self.0.changed.notify_all();
    }
}

fn write_until_closed(shared: &Shared, mut monitors: Monitors) {
    let _done = Done(shared);
    loop {
        let mut queue = shared
            .changed
            .wait_timeout_while(shared.lock(), WRITE_INTERVAL, |queue| {
                !queue.is_closed && !queue.is_urgent && queue.records.len() < MAX_QUEUED
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let records = std::mem::take(&mut queue.records);
        queue.is_urgent = false;
        let (is_closed, has_failed) = (queue.is_closed, queue.failure.is_some());
        drop(queue);
        shared.changed.notify_all();
        let written = if has_failed { Ok(()) } else { write(&mut monitors, &records) };
        let mut queue = shared.lock();
        if let Err(error) = written {
            queue.failure = Some(crate::error::chain(&error));
        }
        queue.written += records.len() as u64;
        if queue.failure.is_some() {
            queue.lost += records.len() as u64;
        }
        if is_closed && queue.records.is_empty() {
            return;
        }
        drop(queue);
        shared.changed.notify_all();
    }
}

fn write(monitors: &mut Monitors, records: &[Record]) -> Result<(), monitor::Error> {
    let (mut steps, mut validations, mut scalars) = (Vec::new(), Vec::new(), Vec::new());
    for record in records {
        match record {
            Record::Step(record) => steps.push(*record),
            Record::Validation(record) => validations.push(*record),
            Record::Scalar(scalar) => scalars.push(*scalar),
        }
    }
    monitors.steps(&steps)?;
    monitors.validations(&validations)?;
    monitors.scalars(&scalars)
}
