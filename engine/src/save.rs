//! Checkpoints while training goes on: the training thread copies this rank's part of the state at
//! a step boundary, the optimizer's states left out where they are in the host's memory: those a save
//! thread copies, and the next update waits for that. The save thread writes the copy, votes with the
//! other ranks on a communicator of its own, and rank 0 commits.
//!
//! Promise: at most one save is in flight, the next waits for it, and the stall, which is a memcpy
//! and that wait where nothing is in flight, is measured; what was not written, synced and hashed by every rank is
//! never committed (A9). A periodic save that fails is told and counted, the run goes on; the last
//! one fails the run. Refusal: decides not when to save.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::train::State;
use crate::zero::{Snapshot, Zero};

mod copy;
mod resume;
mod root;
mod thread;
pub(crate) mod wire;

pub(crate) use copy::StateCopy;

pub(crate) use resume::{Resumed, resume};
pub(crate) use root::{Root, Start, open};
pub(crate) use thread::{SaveError, SaveThread, Saved};

/// The save thread's waits are the communicator's, a few in a row; beyond this many timeouts the
/// thread hangs in the file system.
const PATIENCE: u32 = 10;

/// Whether the run can do without this save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    Periodic,
    /// The state that the run leaves behind.
    Final,
}

/// The training thread's end of the save thread.
#[derive(Debug)]
pub(crate) struct Saver {
    requests: Option<SyncSender<Request>>,
    results: Receiver<Saved>,
    /// The one copy, while no save has it.
    spare: Receiver<StateCopy>,
    thread: Option<JoinHandle<()>>,
    in_flight: Option<Instant>,
    is_asynchronous: bool,
    collective_timeout: Duration,
    /// The newest step whose checkpoint is committed.
    saved_step: Option<u64>,
    failures: u64,
    notes: Vec<String>,
    stall: Duration,
    slowest: Duration,
}

/// One state to save.
#[derive(Debug)]
pub(crate) struct Request {
    copy: StateCopy,
    state: State,
    /// How long training stood still until it was copied or lent.
    stall: Duration,
}

impl Saver {
    /// `saved_step` is the step of the checkpoint that the run continues from. The thread makes
    /// room for what `copy` plans at once.
    pub(crate) fn start(
        thread: SaveThread,
        copy: StateCopy,
        is_asynchronous: bool,
        collective_timeout: Duration,
        saved_step: Option<u64>,
    ) -> Result<Self, Error> {
        // One request: the training thread waits for its result before it sends another.
        let (requests, to_save) = sync_channel(1);
        let (from_save, results) = sync_channel(1);
        let (give_back, spare) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("save".to_owned())
            .spawn(move || thread.serve(copy, &to_save, &from_save, &give_back))
            .map_err(|source| Error::Thread { name: "save", source })?;
        Ok(Self {
            requests: Some(requests),
            results,
            spare,
            thread: Some(thread),
            in_flight: None,
            is_asynchronous,
            collective_timeout,
            saved_step,
            failures: 0,
            notes: Vec::new(),
            stall: Duration::ZERO,
            slowest: Duration::ZERO,
        })
    }

    /// Every rank saves the same steps. `best` are the weights of the best validation, where they
    /// are not the present ones.
    pub(crate) fn save(
        &mut self,
        zero: &mut Zero,
        state: &State,
        best: Option<&Snapshot>,
        urgency: Urgency,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let saved = self.save_now_or_later((zero, best), state, urgency, started);
        self.stall += started.elapsed();
        saved
    }

    fn save_now_or_later(
        &mut self,
        (zero, best): (&mut Zero, Option<&Snapshot>),
        state: &State,
        urgency: Urgency,
        started: Instant,
    ) -> Result<(), Error> {
        let patience = self.patience();
        let earlier = self.wait(patience)?;
        self.take(earlier, Urgency::Periodic)?;
        if self.saved_step == Some(state.step) {
            return Ok(());
        }
        let mut copy = self.spare.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Disconnected => Error::ThreadEnded { name: "save" },
            RecvTimeoutError::Timeout => Error::SaveHangs { after: patience },
        })?;
        copy.fill(zero, best)?;
        let request = Request { copy, state: state.clone(), stall: started.elapsed() };
        let sender = self.requests.as_ref().expect("the channel is closed only on drop");
        if sender.send(request).is_err() {
            return Err(Error::ThreadEnded { name: "save" });
        }
        self.in_flight = Some(Instant::now());
        if self.is_asynchronous && urgency == Urgency::Periodic {
            return Ok(());
        }
        let result = self.wait(patience)?;
        self.take(result, urgency)
    }

    fn wait(&mut self, patience: Duration) -> Result<Option<Saved>, Error> {
        let Some(since) = self.in_flight else { return Ok(None) };
        match self.results.recv_timeout(patience) {
            Ok(saved) => {
                self.in_flight = None;
                Ok(Some(saved))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::ThreadEnded { name: "save" }),
            Err(RecvTimeoutError::Timeout) => Err(Error::SaveHangs { after: since.elapsed() }),
        }
    }

    fn take(&mut self, saved: Option<Saved>, urgency: Urgency) -> Result<(), Error> {
        let Some(Saved { step, result, notes, took }) = saved else { return Ok(()) };
        self.slowest = self.slowest.max(took);
        self.notes.extend(notes);
        match result {
            Ok(()) => {
                self.saved_step = Some(step);
                Ok(())
            }
            Err(source) if urgency == Urgency::Final || source.ends_the_run() => {
                Err(Error::Save { step, source })
            }
            Err(source) => {
                self.failures += 1;
                let why = crate::error::chain(&source);
                self.notes.push(format!(
                    "the checkpoint of step {step} was not saved ({} so far): {why}",
                    self.failures
                ));
                Ok(())
            }
        }
    }

    /// What a person should know, since the last call.
    pub(crate) fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// How long the longest save took, all of it.
    pub(crate) fn slowest(&self) -> Duration {
        self.slowest
    }

    /// How long anybody waits for a save that does not get on.
    pub(crate) fn patience(&self) -> Duration {
        self.collective_timeout.saturating_mul(PATIENCE)
    }

    /// Training stood still for what a save had borrowed.
    pub(crate) fn waited(&mut self, waited: Duration) {
        self.stall += waited;
    }

    /// How long training stood still for saving.
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.requests = None;
        // A save that is in flight ends by itself: its waits have deadlines, and a mesh that is
        // aborted ends them at once. One that hangs in the file system is left to the process: a
        // run that failed must say why before its peers, who wait for it, run out of time and say
        // less.
        let hangs = matches!(self.wait(self.collective_timeout / 2), Err(Error::SaveHangs { .. }));
        if let Some(thread) = self.thread.take().filter(|_| !hangs) {
            // A panic of the thread was printed by its hook and told by `ThreadEnded`.
            let _ = thread.join();
        }
    }
}
