//! The save thread: writes this rank's shard, or streams it to rank 0, votes, and on rank 0
//! commits.
//!
//! Promise: every rank learns the same outcome of a save. Refusal: sees of the state what was lent
//! for the copy, and before anything else.

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use checkpoint::shard::{self, Encoded, Incoming, ShardName};
use checkpoint::{Found, Manifest, SCHEMA_VERSION, ShardEntry};
use collectives::Communicator;
use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::report::Written;
use crate::save::{Request, Root, StateCopy, wire};

/// Shards travel to rank 0 in pieces of this size, which bounds what both ends hold besides.
const PIECE: usize = 1 << 20;

/// Why a step has no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("vote with the other ranks")]
    Vote(#[from] wire::Error),
    #[error("send a shard to rank 0")]
    Stream(#[from] collectives::Error),
    #[error("{failures}")]
    NotWritten { failures: String, is_superseded: bool },
    #[error("{failure}")]
    NotCommitted { failure: String, is_superseded: bool },
}

impl SaveError {
    /// The ranks no longer speak to each other, or a newer attempt owns the root: no later save
    /// can succeed.
    pub(crate) fn ends_the_run(&self) -> bool {
        let is_superseded = matches!(
            self,
            Self::NotCommitted { is_superseded: true, .. }
                | Self::NotWritten { is_superseded: true, .. }
        );
        is_superseded || self.is_communication()
    }

    pub(crate) fn is_communication(&self) -> bool {
        matches!(self, Self::Vote(_) | Self::Stream(_))
    }
}

/// The outcome of one request.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) step: u64,
    pub(crate) result: Result<(), SaveError>,
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
}

#[derive(Debug)]
pub(crate) struct SaveThread {
    root: Root,
    communicator: Communicator,
    /// Tags that the resume set aside, told with the first commit: who catalogues this job's
    /// checkpoints must not offer them any more.
    gone: Vec<String>,
    /// Rank 0's metrics files.
    metrics: Option<Written>,
}

/// One rank's shard is synced and hashed, or why not.
#[derive(Debug, Serialize, Deserialize)]
struct Vote {
    entry: Option<ShardEntry>,
    failure: Option<String>,
    is_superseded: bool,
}

/// Rank 0's commit.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    failure: Option<String>,
    is_superseded: bool,
}

impl SaveThread {
    pub(crate) fn new(
        root: Root,
        communicator: Communicator,
        gone: Vec<String>,
        metrics: Option<Written>,
    ) -> Self {
        Self { root, communicator, gone, metrics }
    }

    /// Serves until the training thread has gone. The copy's memory goes back and forth: before the
    /// first save, and again when it is saved, before the result is known.
    pub(super) fn serve(
        mut self,
        mut copy: StateCopy,
        requests: &Receiver<Request>,
        results: &SyncSender<Saved>,
        spare: &SyncSender<StateCopy>,
    ) {
        copy.make_room();
        if spare.send(copy).is_err() {
            return;
        }
        for mut request in requests {
            let (mut notes, started) = (Vec::new(), Instant::now());
            request.copy.complete();
            let result = self.save(&request, &mut notes);
            let Request { copy, state, .. } = request;
            let saved = Saved { step: state.step, result, notes, took: started.elapsed() };
            if spare.send(copy).is_err() || results.send(saved).is_err() {
                return;
            }
        }
    }

    fn save(&mut self, request: &Request, notes: &mut Vec<String>) -> Result<(), SaveError> {
        let started = Instant::now();
        let step = request.state.step;
        let vote = self.write_shard(request)?;
        let votes = wire::gather(&mut self.communicator, &vote)?;
        let failures: Vec<String> = (0_u32..)
            .zip(&votes)
            .filter_map(|(rank, vote)| {
                let worker = &self.root.sights[rank as usize].worker;
                let failure = vote.failure.as_ref()?;
                Some(format!("rank {rank} on worker `{worker}`: {failure}"))
            })
            .collect();
        if !failures.is_empty() {
            self.discard(step, notes);
            let is_superseded = votes.iter().any(|vote| vote.is_superseded);
            return Err(SaveError::NotWritten { failures: failures.join("; "), is_superseded });
        }
        let shards = votes.into_iter().filter_map(|vote| vote.entry).collect();
        let verdict = (self.root.rank == 0).then(|| self.commit(request, shards, notes, started));
        match wire::broadcast(&mut self.communicator, verdict.as_ref())? {
            Verdict { failure: None, .. } => Ok(()),
            Verdict { failure: Some(failure), is_superseded } => {
                self.discard(step, notes);
                Err(SaveError::NotCommitted { failure, is_superseded })
            }
        }
    }

    /// Errors of the disk are votes; only a peer's loss is an error here.
    fn write_shard(&mut self, request: &Request) -> Result<Vote, SaveError> {
        let Root { rank, ref sights, ref fence, .. } = self.root;
        let name = ShardName { rank, world: sights.len() as u32, generation: fence.generation };
        let slices = request.copy.as_bytes();
        let folder = self.root.root.folder(request.state.step);
        let written = if sights[rank as usize].reaches {
            shard::write(&folder, name, fence, &slices)
        } else {
            self.send_shard(Encoded::new(name, &slices))?
        };
        let mut vote = Vote::of(written);
        if rank == 0 {
            let blind = (0_u32..).zip(&self.root.sights).filter(|(_, sight)| !sight.reaches);
            let senders: Vec<u32> = blind.map(|(sender, _)| sender).collect();
            for sender in senders {
                if let Some(error) = self.receive_shard(sender, &folder)? {
                    vote.is_superseded |= error.is_superseded();
                    let why = chain(&error);
                    vote.failure.get_or_insert(format!("the shard of rank {sender}: {why}"));
                }
            }
        }
        Ok(vote)
    }

    fn send_shard(
        &mut self,
        encoded: Result<Encoded<'_>, checkpoint::Error>,
    ) -> Result<Result<ShardEntry, checkpoint::Error>, SaveError> {
        let vote = match &encoded {
            Ok(encoded) => Vote::written(encoded.entry()),
            Err(error) => Vote::failed(error),
        };
        let offer = serde_json::to_vec(&vote).expect("a vote has only plain fields");
        self.communicator.send(0, &(offer.len() as u64).to_le_bytes())?;
        self.communicator.send(0, &offer)?;
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => return Ok(Err(error)),
        };
        let mut piece = Vec::with_capacity(PIECE);
        for mut chunk in encoded.chunks() {
            while !chunk.is_empty() {
                let (head, rest) = chunk.split_at(chunk.len().min(PIECE - piece.len()));
                piece.extend_from_slice(head);
                chunk = rest;
                if piece.len() == PIECE {
                    self.communicator.send(0, &piece)?;
                    piece.clear();
                }
            }
        }
        if !piece.is_empty() {
            self.communicator.send(0, &piece)?;
        }
        Ok(Ok(vote.entry.expect("an encoded shard was offered with its entry")))
    }

    /// Takes all that a rank sends, also after the disk refused, so that the streams stay in step.
    /// Returns what went wrong here.
    fn receive_shard(
        &mut self,
        sender: u32,
        folder: &std::path::Path,
    ) -> Result<Option<checkpoint::Error>, SaveError> {
        /// A vote is a few hundred bytes.
        const MAX_OFFER: u64 = 1 << 20;
        let mut len = [0; 8];
        self.communicator.recv(sender, &mut len)?;
        let bytes = u64::from_le_bytes(len);
        if bytes > MAX_OFFER {
            return Err(wire::Error::TooLong { bytes }.into());
        }
        let mut offer = vec![0; bytes as usize];
        self.communicator.recv(sender, &mut offer)?;
        let offer: Vote = serde_json::from_slice(&offer)
            .map_err(|source| wire::Error::Garbled { rank: sender, source })?;
        let Some(entry) = offer.entry else { return Ok(None) };
        let mut left = entry.bytes;
        let mut incoming = Incoming::create(folder, entry, &self.root.fence);
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let len = left.min(PIECE as u64) as usize;
            self.communicator.recv(sender, &mut piece[..len])?;
            left -= len as u64;
            incoming = incoming.and_then(|mut file| file.write(&piece[..len]).map(|()| file));
        }
        let finished = incoming.and_then(Incoming::finish);
        Ok(finished.err())
    }

    fn commit(
        &mut self,
        request: &Request,
        shards: Vec<ShardEntry>,
        notes: &mut Vec<String>,
        started: Instant,
    ) -> Verdict {
        let state = &request.state;
        let Root { root, fence, facts, .. } = &self.root;
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            job_id: fence.job_id.clone(),
            generation: fence.generation,
            world_size: shards.len() as u32,
            stage: facts.stage,
            precision: Some(facts.precision.to_owned()),
            step: state.step,
            epoch: u64::from(state.epoch),
            samples: state.samples,
            seed: facts.seed,
            threads_per_rank: facts.threads_per_rank,
            instruction_set: facts.instruction_set.clone(),
            loss: state.last_loss,
            val_loss: state.validation_here(),
            model: facts.model.clone(),
            train_state: serde_json::to_value(state).expect("a state has only plain fields"),
            shards,
        };
        // Who goes on from here makes none of these steps again: their rows must not be lost with us.
        if let Some(metrics) = &self.metrics {
            metrics.wait();
        }
        match root.commit(&manifest) {
            Ok(found) => {
                tracing::info!(
                    step = found.step,
                    bytes = found.bytes,
                    stall_seconds = (request.stall + request.copy.waited()).as_secs_f64(),
                    save_seconds = started.elapsed().as_secs_f64(),
                    "committed checkpoint"
                );
                self.retain(&found, notes);
                Verdict { failure: None, is_superseded: false }
            }
            Err(error) => {
                let is_superseded = error.is_superseded();
                Verdict { failure: Some(chain(&error)), is_superseded }
            }
        }
    }

    /// Removes what no setting keeps, and tells of the new one. A checkpoint that cannot be
    /// removed costs disk, not the run.
    fn retain(&mut self, new: &Found, notes: &mut Vec<String>) {
        let Root { root, fence, facts, .. } = &self.root;
        let removed = root.list().and_then(|listing| {
            let plan = checkpoint::retention::plan(&listing.whole, facts.keep);
            let removed = root.prune(&plan, Some(fence))?;
            Ok((removed, plan.is_pinned(&new.tag)))
        });
        let (removed, is_pinned) = removed.unwrap_or_else(|error| {
            notes.push(format!("old checkpoints were not removed: {}", chain(&error)));
            (Vec::new(), true)
        });
        let mut removed = removed;
        removed.append(&mut self.gone);
        self.root.reporter.checkpoint(new.row(is_pinned, self.root.holder()), removed);
    }

    fn discard(&self, step: u64, notes: &mut Vec<String>) {
        if self.root.rank != 0 {
            return;
        }
        if let Err(error) = self.root.root.discard(step, &self.root.fence) {
            notes.push(format!("an unfinished save was not removed: {}", chain(&error)));
        }
    }
}

impl Vote {
    fn of(written: Result<ShardEntry, checkpoint::Error>) -> Self {
        match written {
            Ok(entry) => Self::written(entry),
            Err(error) => Self::failed(&error),
        }
    }

    fn written(entry: ShardEntry) -> Self {
        Self { entry: Some(entry), failure: None, is_superseded: false }
    }

    fn failed(error: &checkpoint::Error) -> Self {
        let is_superseded = error.is_superseded();
        Self { entry: None, failure: Some(chain(error)), is_superseded }
    }
}
