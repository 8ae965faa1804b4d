//! What this node knows of one attempt of one job. Pure.

use std::collections::BTreeMap;

use proto::v1::{
    CheckpointCommitted, JobNotes, JobProgress, Peer, PrepareFailed, Progress, RankPosition,
    RunningTrainer, StartTrainers, TrainerPosition, TrainerReady, TrainerRunning, WorkerMessage,
    worker_message::Kind,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::spool::Key;
use crate::trainer_process::Order;

/// Commits that are told again after a reconnect. Of those that retention removes only names stay, so
/// that a day without a coordinator fits unless a job keeps more.
const MAX_CHECKPOINTS: usize = 1024;

/// Names of removed checkpoints that are told again after a reconnect.
const MAX_REMOVED: usize = 256;

/// Sentences that are told again after a reconnect.
const MAX_NOTES: usize = 256;

#[derive(Debug)]
pub(crate) struct LocalJob {
    pub(crate) key: Key,
    pub(crate) phase: Phase,
    pub(crate) ranks: BTreeMap<u32, LocalRank>,
    notes: Vec<String>,
    checkpoints: Vec<CheckpointCommitted>,
    /// What retention has removed, and nobody tells any more because it is gone, too.
    removed: Vec<String>,
    progress: Option<Progress>,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// Inputs are being fetched and checked; `stop` once it is not wanted any more.
    Preparing {
        stop: bool,
    },
    /// It could not be prepared. Told again after a reconnect.
    Refused(PrepareFailed),
    Started,
}

#[derive(Debug, Default)]
pub(crate) struct LocalRank {
    pub(crate) slots: Vec<u32>,
    /// 0 until it is started.
    pub(crate) pid: u32,
    pub(crate) orders: Option<mpsc::Sender<Order>>,
    pub(crate) peer: Option<Peer>,
    pub(crate) is_running: bool,
    /// What it computes with; empty before it has said so.
    pub(crate) libtorch: String,
    pub(crate) has_ended: bool,
    /// Where it is, and when it said so.
    pub(crate) position: Option<(RankPosition, Instant)>,
}

impl LocalJob {
    pub(crate) fn preparing(order: &StartTrainers) -> Self {
        let ranks = order
            .ranks
            .iter()
            .map(|r| (r.rank, LocalRank { slots: r.slots.clone(), ..LocalRank::default() }))
            .collect();
        Self::new(order, Phase::Preparing { stop: false }, ranks)
    }

    pub(crate) fn refused(order: &StartTrainers, failure: PrepareFailed) -> Self {
        Self::new(order, Phase::Refused(failure), BTreeMap::new())
    }

    fn new(order: &StartTrainers, phase: Phase, ranks: BTreeMap<u32, LocalRank>) -> Self {
        Self {
            key: (order.job_id.clone(), order.generation),
            phase,
            ranks,
            notes: Vec::new(),
            checkpoints: Vec::new(),
            removed: Vec::new(),
            progress: None,
        }
    }

    /// Whether a trainer of it lives here, or is about to.
    pub(crate) fn is_alive(&self) -> bool {
        self.ranks.values().any(|rank| !rank.has_ended)
    }

    /// Gives every living trainer an order. A trainer that lets orders pile up is stuck; its
    /// kill deadline does not need the queue.
    pub(crate) fn order_all(&self, mut order: impl FnMut() -> Order) {
        let living = self.ranks.values().filter(|rank| !rank.has_ended);
        for orders in living.filter_map(|rank| rank.orders.as_ref()) {
            if orders.try_send(order()).is_err() {
                tracing::warn!(job = self.key.0, "a trainer does not take orders");
            }
        }
    }

    /// Its living trainers, for a hello.
    pub(crate) fn running(&self) -> impl Iterator<Item = RunningTrainer> {
        self.ranks.iter().filter(|(_, rank)| !rank.has_ended).map(|(number, rank)| RunningTrainer {
            job_id: self.key.0.clone(),
            generation: self.key.1,
            rank: *number,
            pid: rank.pid,
            peer: rank.peer.clone(),
            is_running: rank.is_running,
            libtorch: rank.libtorch.clone(),
        })
    }

    /// Where its living trainers are, for a heartbeat.
    pub(crate) fn positions(&self, now: Instant) -> impl Iterator<Item = TrainerPosition> {
        self.ranks.iter().filter(|(_, rank)| !rank.has_ended).filter_map(move |(number, rank)| {
            let (position, at) = rank.position.clone()?;
            Some(TrainerPosition {
                job_id: self.key.0.clone(),
                generation: self.key.1,
                rank: *number,
                position: Some(position),
                age_ms: now.duration_since(at).as_millis().try_into().unwrap_or(u64::MAX),
            })
        })
    }

    /// What a coordinator that knows nothing of this attempt needs to hear after the hello, and what
    /// its living trainers may have come to since that was said. To hear it twice changes nothing.
    pub(crate) fn retold(&self) -> Vec<WorkerMessage> {
        let mut retold = Vec::new();
        for (number, rank) in self.ranks.iter().filter(|(_, rank)| !rank.has_ended) {
            retold.extend(rank.peer.is_some().then(|| self.ready_message(rank)));
            retold.extend(rank.is_running.then(|| self.running_message(*number)));
        }
        if let Phase::Refused(failure) = &self.phase {
            retold.push(Kind::PrepareFailed(failure.clone()));
        }
        if !self.notes.is_empty() {
            retold.push(self.notes_message(self.notes.clone()));
        }
        retold.extend(self.retold_checkpoints().into_iter().map(Kind::Checkpoint));
        retold.extend(self.progress.map(|progress| self.progress_message(progress)));
        retold.into_iter().map(|kind| WorkerMessage { kind: Some(kind) }).collect()
    }

    pub(crate) fn on_progress(&mut self, progress: Progress) -> Kind {
        self.progress = Some(progress);
        self.progress_message(progress)
    }

    pub(crate) fn on_notes(&mut self, notes: Vec<String>) -> Kind {
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        self.notes.extend(notes.iter().take(room).cloned());
        self.notes_message(notes)
    }

    pub(crate) fn on_checkpoint(&mut self, checkpoint: proto::v1::Checkpoint) -> Kind {
        let (job_id, generation) = self.key.clone();
        let committed = CheckpointCommitted { job_id, generation, checkpoint: Some(checkpoint) };
        self.remember(committed.clone());
        Kind::Checkpoint(committed)
    }

    /// Keeps what may have to be told again: of checkpoints that are gone their names alone.
    fn remember(&mut self, committed: CheckpointCommitted) {
        let newest = committed.checkpoint.as_ref();
        let (tag, removed) = newest.map(|row| (&row.tag, &row.removed)).unzip();
        let is_gone = |known: &mut CheckpointCommitted| {
            let row = known.checkpoint.as_ref();
            row.is_some_and(|row| removed.is_some_and(|removed| removed.contains(&row.tag)))
        };
        let gone: Vec<_> = self.checkpoints.extract_if(.., is_gone).collect();
        let rows = gone.into_iter().filter_map(|gone| gone.checkpoint);
        self.removed.extend(rows.flat_map(|row| row.removed));
        self.removed.retain(|removed| Some(removed) != tag);
        self.removed.drain(..self.removed.len().saturating_sub(MAX_REMOVED));
        self.checkpoints.push(committed);
        if self.checkpoints.len() > MAX_CHECKPOINTS {
            self.checkpoints.remove(0);
        }
    }

    fn retold_checkpoints(&self) -> Vec<CheckpointCommitted> {
        let mut retold = self.checkpoints.clone();
        if let Some(row) = retold.last_mut().and_then(|newest| newest.checkpoint.as_mut()) {
            row.removed.extend(self.removed.iter().cloned());
        }
        retold
    }

    pub(crate) fn ready_message(&self, rank: &LocalRank) -> Kind {
        let (job_id, generation) = self.key.clone();
        let (peer, pid, libtorch) = (rank.peer.clone(), rank.pid, rank.libtorch.clone());
        Kind::TrainerReady(TrainerReady { job_id, generation, peer, pid, libtorch })
    }

    pub(crate) fn running_message(&self, rank: u32) -> Kind {
        let (job_id, generation) = self.key.clone();
        Kind::TrainerRunning(TrainerRunning { job_id, generation, rank })
    }

    fn progress_message(&self, progress: Progress) -> Kind {
        let (job_id, generation) = self.key.clone();
        Kind::Progress(JobProgress { job_id, generation, progress: Some(progress) })
    }

    fn notes_message(&self, notes: Vec<String>) -> Kind {
        let (job_id, generation) = self.key.clone();
        Kind::Notes(JobNotes { job_id, generation, notes })
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::start_trainers::RankSlots;

    use super::*;

    #[test]
    fn how_far_living_trainers_have_come_is_told_after_each_welcome() {
        let ranks = (0..3).map(|rank| RankSlots { rank, slots: vec![rank] }).collect();
        let order =
            StartTrainers { job_id: "a-1".to_owned(), generation: 4, ranks, ..Default::default() };
        let mut job = LocalJob::preparing(&order);
        assert_eq!(job.retold(), []);
        for (number, is_running, has_ended) in
            [(0, false, false), (1, true, false), (2, true, true)]
        {
            let peer = Some(Peer { rank: number, ..Default::default() });
            let rank =
                LocalRank { pid: 10 + number, peer, is_running, has_ended, ..Default::default() };
            job.ranks.insert(number, rank);
        }
        let told: Vec<String> = job
            .retold()
            .into_iter()
            .filter_map(|message| message.kind)
            .map(|kind| match kind {
                Kind::TrainerReady(ready) => format!("ready {} of {}", ready.pid, ready.generation),
                Kind::TrainerRunning(running) => format!("running {}", running.rank),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ["ready 10 of 4", "ready 11 of 4", "running 1"]);
    }

    /// What is told again after commits, each of which removed these: tags and what they removed.
    fn retold_after(commits: impl IntoIterator<Item = (u64, Vec<u64>)>) -> Vec<(String, usize)> {
        let mut job = LocalJob::preparing(&StartTrainers::default());
        for (step, removed) in commits {
            let (tag, removed) = (step.to_string(), removed.iter().map(u64::to_string).collect());
            let row = proto::v1::Checkpoint { tag, step, removed, ..Default::default() };
            job.on_checkpoint(row);
        }
        let kinds = job.retold().into_iter().filter_map(|message| message.kind);
        let rows = kinds.map(|kind| match kind {
            Kind::Checkpoint(committed) => committed.checkpoint.unwrap(),
            other => panic!("{other:?}"),
        });
        rows.map(|row| (row.tag, row.removed.len())).collect()
    }

    #[test]
    fn checkpoints_that_are_gone_are_told_again_by_name_alone() {
        let keeps_two = (0..6_u64).map(|step| (step, step.checked_sub(2).into_iter().collect()));
        let row = |tag: &str, removed| (tag.to_owned(), removed);
        // The newest tells of all four that are gone.
        assert_eq!(retold_after(keeps_two), [row("4", 1), row("5", 3)]);
    }

    #[test]
    fn what_is_told_again_of_checkpoints_has_a_bound() {
        let all = retold_after((0..2000).map(|step| (step, Vec::new())));
        assert_eq!((all.len(), all.last().unwrap().0.as_str()), (MAX_CHECKPOINTS, "1999"));
        let few = retold_after(
            (0..1000_u64).map(|step| (step, step.checked_sub(2).into_iter().collect())),
        );
        assert_eq!(few[1], ("999".to_owned(), MAX_REMOVED + 1));
    }
}
