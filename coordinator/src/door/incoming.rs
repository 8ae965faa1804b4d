//! Wire → meaning, with bounds on every text.

use std::time::Duration;

use common::ids::{Generation, JobId, Rank};
use common::slurm::allocation::AllocationName;
use common::status::{CheckpointRow, Gpus, Summary};
use control::coordinator::{
    EndReport, NcclId, Peer, RankKey, RankPosition, RunningTrainer, Withdrawal, WorkerHello,
    WorkerMessage,
};
use proto::convert::{self, Error};
use proto::v1;
use proto::v1::worker_message::Kind;

/// A name, an address, a path.
const MAX_NAME: usize = 256;
/// NCCL's own constant.
const NCCL_ID_BYTES: usize = 128;
/// A reason or an error chain.
const MAX_TEXT: usize = 4096;
/// The last lines of one trainer that reach the store.
const MAX_LAST_LINES: usize = 50;
const MAX_NOTES: usize = 64;
const MAX_REMOVED: usize = 1000;

/// No save takes longer; a worker that says so would hold its slots for ever.
const MAX_STOP_GRACE: Duration = Duration::from_secs(3600);

/// GPUs of one node that are shown.
const MAX_GPUS: usize = 64;

/// Slots of one worker; a node with more does not exist, a typing error does.
const MAX_SLOTS: u32 = 4096;

fn missing(field: &'static str) -> Error {
    Error::Missing { field }
}

fn wrong(field: &'static str, value: &str, expected: &'static str) -> Error {
    Error::Value { field, value: cut(value.to_owned(), 120), expected }
}

/// Foreign text is cut, never refused: what remains still tells the story.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

fn key(job_id: &str, generation: u64, rank: u32) -> Result<RankKey, Error> {
    let job_id = convert::job_id(job_id)?;
    Ok(RankKey { job_id, generation: Generation(generation), rank: Rank(rank) })
}

/// A worker's name is shown, sorted and typed: letters, digits, `.`, `_`, `-`.
fn worker_name(name: String) -> Result<String, Error> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        let expected = "1 to 64 letters, digits, `.`, `_` or `-`";
        return Err(wrong("hello.name", &name, expected));
    }
    Ok(name)
}

fn peer(peer: v1::Peer) -> Result<Peer, Error> {
    convert::socket_address("peer.address", &peer.address)?;
    Ok(Peer {
        rank: Rank(peer.rank),
        address: peer.address,
        unix_name: cut(peer.unix_name, MAX_NAME),
        worker: cut(peer.worker, MAX_NAME),
        nccl_id: nccl_id(peer.rank, peer.nccl_id)?,
    })
}

/// Opaque here; that it is one at all is known by its length.
fn nccl_id(rank: u32, id: Vec<u8>) -> Result<NcclId, Error> {
    if id.is_empty() || (rank == 0 && id.len() == NCCL_ID_BYTES) {
        return Ok(NcclId(id));
    }
    let found = format!("{} bytes of rank {rank}", id.len());
    Err(wrong("peer.nccl_id", &found, "128 bytes of rank 0, or none"))
}

fn end_report(ended: v1::TrainerEnded) -> Result<EndReport, Error> {
    let key = key(&ended.job_id, ended.generation, ended.rank)?;
    let end = ended.end.ok_or_else(|| missing("trainer_ended.end"))?.try_into()?;
    let skipped = ended.last_lines.len().saturating_sub(MAX_LAST_LINES);
    let lines = ended.last_lines.into_iter().skip(skipped);
    Ok(EndReport {
        summary: summary(&key, &ended.summary_json),
        key,
        end,
        last_lines: lines.map(|line| cut(line, MAX_TEXT)).collect(),
        at: ended.time_ms,
    })
}

/// A rank whose position a newer build told in words that we do not know is as good as silent.
fn positions(heartbeat: v1::Heartbeat) -> Result<WorkerMessage, Error> {
    let mut positions = Vec::with_capacity(heartbeat.positions.len());
    for told in heartbeat.positions {
        let key = key(&told.job_id, told.generation, told.rank)?;
        let position = told.position.map(TryInto::try_into);
        if let Some(Ok(position)) = position {
            let age = Duration::from_millis(told.age_ms);
            positions.push(RankPosition { key, position, age });
        }
    }
    Ok(match positions.is_empty() {
        true => WorkerMessage::Heartbeat,
        false => WorkerMessage::Positions(positions),
    })
}

fn lines(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().take(MAX_LAST_LINES).map(|line| cut(line, MAX_TEXT)).collect()
}

/// A summary that cannot be read must not keep an end from being known.
fn summary(key: &RankKey, json: &str) -> Option<Box<Summary>> {
    convert::summary(json).map(|summary| summary.map(Box::new)).unwrap_or_else(|error| {
        let error = service::exit::chain(&error);
        tracing::warn!(job_id = %key.job_id, rank = %key.rank, error, "summary is unreadable");
        None
    })
}

fn running(trainer: v1::RunningTrainer) -> Result<RunningTrainer, Error> {
    Ok(RunningTrainer {
        key: key(&trainer.job_id, trainer.generation, trainer.rank)?,
        pid: trainer.pid,
        peer: trainer.peer.map(peer).transpose()?,
        is_running: trainer.is_running,
        libtorch: cut(trainer.libtorch, MAX_NAME),
    })
}

fn gpus(found: v1::Gpus) -> Gpus {
    let mut gpus = Gpus::from(found);
    gpus.devices.truncate(MAX_GPUS);
    gpus.source = cut(gpus.source, MAX_TEXT);
    for gpu in &mut gpus.devices {
        gpu.name = cut(std::mem::take(&mut gpu.name), MAX_NAME);
        gpu.uuid = cut(std::mem::take(&mut gpu.uuid), MAX_NAME);
    }
    gpus
}

fn withdrawal(leaving: v1::Withdrawing) -> Withdrawal {
    let grace = Duration::from_millis(leaving.grace_ms).min(MAX_STOP_GRACE);
    Withdrawal { reason: cut(leaving.reason, MAX_TEXT), grace }
}

fn allocation(text: &str) -> Result<Option<AllocationName>, Error> {
    let parse =
        || text.parse::<AllocationName>().map_err(|_| wrong("hello.allocation", text, "JOB-ID.N"));
    if text.is_empty() { Ok(None) } else { parse().map(Some) }
}

/// The first message of a worker's stream.
pub(crate) fn hello(hello: v1::WorkerHello) -> Result<WorkerHello, Error> {
    if hello.slots > MAX_SLOTS {
        return Err(wrong("hello.slots", &hello.slots.to_string(), "at most 4096"));
    }
    if !matches!(hello.device.as_str(), "cpu" | "cuda") {
        return Err(wrong("hello.device", &hello.device, "cpu or cuda"));
    }
    convert::ip_address("hello.advertise", &hello.advertise)?;
    Ok(WorkerHello {
        id: convert::worker_id(&hello.uuid, hello.incarnation)?,
        name: worker_name(hello.name)?,
        advertise: hello.advertise,
        slots: hello.slots,
        device: hello.device,
        memory_bytes: hello.memory_bytes,
        version: cut(hello.version, MAX_NAME),
        hostname: cut(hello.hostname, MAX_NAME),
        libtorch: cut(hello.libtorch, MAX_NAME),
        gpus: hello.gpus.map(gpus).unwrap_or_default(),
        allows_commands: hello.allows_commands,
        allocation: allocation(&hello.allocation)?,
        withdrawing: hello.withdrawing.map(withdrawal),
        running: hello.running.into_iter().map(running).collect::<Result<_, _>>()?,
        unacknowledged: hello
            .unacknowledged
            .into_iter()
            .map(end_report)
            .collect::<Result<_, _>>()?,
    })
}

/// Every later message.
pub(crate) fn worker_message(message: v1::WorkerMessage) -> Result<WorkerMessage, Error> {
    let job = |job_id: &str, generation: u64| -> Result<(JobId, Generation), Error> {
        Ok((convert::job_id(job_id)?, Generation(generation)))
    };
    Ok(match message.kind.ok_or_else(|| missing("worker_message.kind"))? {
        Kind::Hello(_) => {
            return Err(wrong("worker_message.kind", "hello", "sent once, as the first message"));
        }
        Kind::Heartbeat(heartbeat) => positions(heartbeat)?,
        Kind::Stacks(stacks) => WorkerMessage::Stacks {
            key: key(&stacks.job_id, stacks.generation, stacks.rank)?,
            lines: lines(stacks.lines),
        },
        Kind::TrainerReady(ready) => {
            let peer = peer(ready.peer.ok_or_else(|| missing("trainer_ready.peer"))?)?;
            let key = key(&ready.job_id, ready.generation, peer.rank.0)?;
            let libtorch = cut(ready.libtorch, MAX_NAME);
            WorkerMessage::TrainerReady { key, peer, pid: ready.pid, libtorch }
        }
        Kind::TrainerRunning(running) => WorkerMessage::TrainerRunning {
            key: key(&running.job_id, running.generation, running.rank)?,
        },
        Kind::Progress(progress) => {
            let (job_id, generation) = job(&progress.job_id, progress.generation)?;
            let live = progress.progress.ok_or_else(|| missing("job_progress.progress"))?.into();
            WorkerMessage::Progress { job_id, generation, live }
        }
        Kind::TrainerEnded(ended) => WorkerMessage::Ended(end_report(ended)?),
        Kind::Checkpoint(committed) => {
            let (job_id, generation) = job(&committed.job_id, committed.generation)?;
            let (checkpoint, removed, found) = checkpoint(committed)?;
            WorkerMessage::Checkpoint { job_id, generation, checkpoint, removed, found }
        }
        Kind::PrepareFailed(failed) => {
            let (job_id, generation) = job(&failed.job_id, failed.generation)?;
            WorkerMessage::PrepareFailed {
                job_id,
                generation,
                is_configuration: failed.is_configuration,
                message: cut(failed.message, MAX_TEXT),
            }
        }
        Kind::Withdrawing(leaving) => WorkerMessage::Withdrawing(withdrawal(leaving)),
        Kind::Leaving(leaving) => WorkerMessage::Leaving { reason: cut(leaving.reason, MAX_TEXT) },
        Kind::Notes(notes) => {
            let (job_id, generation) = job(&notes.job_id, notes.generation)?;
            let notes = notes.notes.into_iter().take(MAX_NOTES);
            let notes = notes.map(|note| cut(note, MAX_TEXT)).collect();
            WorkerMessage::Notes { job_id, generation, notes }
        }
    })
}

/// With the tags that are gone, and with those that an attempt found at its start.
type Committed = (CheckpointRow, Vec<String>, Option<Vec<String>>);

fn checkpoint(committed: v1::CheckpointCommitted) -> Result<Committed, Error> {
    let checkpoint =
        committed.checkpoint.ok_or_else(|| missing("checkpoint_committed.checkpoint"))?;
    let tags = |all: &[String]| {
        all.iter().take(MAX_REMOVED).map(|tag| cut(tag.clone(), MAX_NAME)).collect()
    };
    let removed = tags(&checkpoint.removed);
    let found = checkpoint.found.as_ref().map(|found| tags(&found.tags));
    let mut row: CheckpointRow = checkpoint.try_into()?;
    // A tag names a folder: nothing that could lead out of its parent.
    if row.tag.is_empty()
        || row.tag.len() > 64
        || row.tag.contains(['/', '\\', '\0'])
        || row.tag.starts_with('.')
    {
        return Err(wrong("checkpoint.tag", &row.tag, "a folder's name such as step-00000120"));
    }
    row.path = cut(row.path, MAX_TEXT);
    Ok((row, removed, found))
}
