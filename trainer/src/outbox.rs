//! What the rank has to tell, on its way to the worker. The training thread puts things in and
//! never waits; when the worker does not keep up, progress is replaced by newer progress and
//! metrics beyond a bound are dropped and counted. Sentences and checkpoints have a bound that no
//! sound run reaches; what exceeds it is dropped with a line in the rank's log. The last word has a
//! place of its own and is never dropped.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use common::position::Position;
use common::status::{CheckpointRow, Live, MetricPoint};
use proto::v1::trainer_message::Kind;
use proto::v1::{MetricSeries, Metrics, Notes, Progress, RankPosition, TrainerMessage};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

/// Points that wait: several seconds of the fastest steps.
const MAX_POINTS: usize = 16_384;

/// Sentences and checkpoints that wait. A rank makes a handful; the bound is against a bug.
const MAX_EVENTS: usize = 4096;

/// Progress and metrics are sent at most this often.
const PACE: Duration = Duration::from_millis(50);

/// What waits to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Held for moving values only.
    inner: Mutex<Inner>,
    /// Something waits.
    wake: Notify,
    /// Something waits that shall not wait for the pace.
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<Kind>,
    progress: Option<Progress>,
    position: Option<RankPosition>,
    metrics: BTreeMap<&'static str, Vec<proto::v1::MetricPoint>>,
    points: usize,
    dropped: u64,
    told_dropped: u64,
    last_word: Option<Kind>,
}

impl Outbox {
    /// Something that is sent at once; dropped, and told so in the log, only beyond
    /// [`MAX_EVENTS`].
    pub(crate) fn event(&self, kind: Kind) {
        let mut inner = self.lock();
        if inner.events.len() < MAX_EVENTS {
            inner.events.push(kind);
        } else {
            tracing::warn!("more than {MAX_EVENTS} reports wait; one is dropped");
        }
        drop(inner);
        self.wake.notify_one();
        self.urgent.notify_one();
    }

    /// Where the rank is; a newer one replaces one that waits.
    pub(crate) fn position(&self, position: Position) {
        self.lock().position = Some(position.into());
        self.wake.notify_one();
    }

    /// The end: sent after everything else. The first one counts.
    pub(crate) fn last_word(&self, kind: Kind) {
        self.lock().last_word.get_or_insert(kind);
        self.wake.notify_one();
        self.urgent.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    fn take(&self, rank: u32) -> (Vec<Kind>, Option<Kind>) {
        let mut inner = self.lock();
        let mut kinds = std::mem::take(&mut inner.events);
        kinds.extend(inner.progress.take().map(Kind::Progress));
        kinds.extend(inner.position.take().map(Kind::Position));
        if inner.points > 0 || inner.dropped > inner.told_dropped {
            inner.points = 0;
            inner.told_dropped = inner.dropped;
            let series = std::mem::take(&mut inner.metrics)
                .into_iter()
                .map(|(name, points)| MetricSeries {
                    name: name.to_owned(),
                    rank,
                    points,
                    ..Default::default()
                })
                .collect();
            kinds.push(Kind::Metrics(Metrics { series, dropped: inner.dropped }));
        }
        (kinds, inner.last_word.take())
    }

    /// Sends what waits until the last word is sent or the worker is gone. The sender's drop then
    /// tells the worker that this was all.
    pub(crate) async fn pump(&self, rank: u32, to: mpsc::Sender<TrainerMessage>) {
        loop {
            let (kinds, last_word) = self.take(rank);
            let is_last = last_word.is_some();
            for kind in kinds.into_iter().chain(last_word) {
                if to.send(TrainerMessage { kind: Some(kind) }).await.is_err() {
                    return;
                }
            }
            if is_last {
                return;
            }
            let earliest = Instant::now() + PACE;
            self.wake.notified().await;
            tokio::select! {
                () = sleep_until(earliest) => {}
                () = self.urgent.notified() => {}
            }
        }
    }
}

impl engine::Reporter for Outbox {
    fn progress(&self, live: Live) {
        self.lock().progress = Some(live.into());
        self.wake.notify_one();
    }

    fn metric(&self, name: &'static str, point: MetricPoint) {
        let mut inner = self.lock();
        if inner.points == MAX_POINTS {
            inner.dropped += 1;
        } else {
            inner.points += 1;
            inner.metrics.entry(name).or_default().push(point.into());
        }
        drop(inner);
        self.wake.notify_one();
    }

    fn note(&self, text: String) {
        self.event(Kind::Notes(Notes { notes: vec![text] }));
    }

    fn checkpoint(&self, row: CheckpointRow, removed: Vec<String>) {
        let mut checkpoint = proto::v1::Checkpoint::from(row);
        checkpoint.removed = removed;
        self.event(Kind::Checkpoint(checkpoint));
    }

    fn found(&self, rows: Vec<CheckpointRow>) {
        let tags: Vec<String> = rows.iter().map(|row| row.tag.clone()).collect();
        let newest = rows.len().saturating_sub(1);
        for (index, row) in rows.into_iter().enumerate() {
            let mut checkpoint = proto::v1::Checkpoint::from(row);
            let tags = if index == newest { tags.clone() } else { Vec::new() };
            checkpoint.found = Some(proto::v1::Found { tags });
            self.event(Kind::Checkpoint(checkpoint));
        }
    }
}

#[cfg(test)]
mod tests;
