//! Metrics as streams: what is there, then, if asked, what comes, until the job is final and
//! nothing more arrives. How both metrics and logs wait for more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Response, Status};

use common::ids::JobId;
use common::status::JobStatus;
use proto::v1;

use crate::archive::{self, Histories, LogKey, Reader};
use crate::rpc::{
    BoxStream, Front, STREAM_QUEUE, blocking, boxed, internal, no_such_job, say_stopping,
};

/// Logs and metrics travel apart from states: after the end the last of them may still be under
/// way for this long, a slow disk's sync included.
const LATE_DATA: Duration = Duration::from_secs(3);

/// Waits until there may be something new.
pub(super) struct Follow {
    is_asked: bool,
    changes: archive::Follow,
    status: watch::Receiver<Arc<JobStatus>>,
    /// The job is final: when its data counts as complete, unless more of it comes.
    complete_at: Option<Instant>,
}

impl Follow {
    /// Logs written since the last call. Call before reading: a change after it wakes
    /// [`Follow::more`].
    pub(super) fn touched(&mut self) -> Vec<LogKey> {
        self.changes.touched()
    }

    /// Data of this job came: more may follow.
    pub(super) fn progressed(&mut self) {
        self.complete_at = None;
    }

    /// The job as it is now.
    pub(super) fn status(&self) -> Arc<JobStatus> {
        self.status.borrow().clone()
    }

    /// Whether to read again. Cancel-safe.
    pub(super) async fn more(&mut self) -> bool {
        if !self.is_asked {
            return false;
        }
        loop {
            if self.status.borrow_and_update().row.state.is_final() {
                let at = *self.complete_at.get_or_insert_with(|| Instant::now() + LATE_DATA);
                let changed = tokio::time::timeout_at(at, self.changes.changed()).await;
                return changed == Ok(true);
            }
            tokio::select! {
                is_there = self.changes.changed() => return is_there,
                changed = self.status.changed() => {
                    // The job was forgotten, or the process stops.
                    if changed.is_err() {
                        return false;
                    }
                }
            }
        }
    }
}

impl Front {
    pub(super) fn follow(&self, job_id: &JobId, is_asked: bool) -> Result<Follow, Status> {
        let status = self.core.views().watch(job_id).ok_or_else(|| no_such_job(job_id))?;
        let changes = self.archive.follow(job_id);
        Ok(Follow { is_asked, changes, status, complete_at: None })
    }

    pub(super) fn follow_metrics(
        &self,
        request: v1::ReadMetricsRequest,
    ) -> Result<Response<BoxStream<v1::MetricSeries>>, Status> {
        let job_id = self.known_job(&request.job_id)?;
        let follow = self.follow(&job_id, request.follow)?;
        let readers = (self.archive.metrics(&job_id), self.archive.metrics(&job_id));
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let wanted =
            Wanted { names: request.names, since_step: request.since_step, newest: HashMap::new() };
        let stop = self.stop.clone();
        let reading = self.info.metrics.reader("metrics");
        service::tasks::spawn(service::tasks::Kind::Finish, "read-metrics", async move {
            let _reading = reading;
            tokio::select! {
                () = stream_metrics(readers, follow, wanted, &sender) => {}
                () = sender.closed() => {}
                () = stop.cancelled() => say_stopping(&sender),
            }
        });
        Ok(Response::new(boxed(receiver)))
    }
}

/// Which points a reader wants, and which it has.
struct Wanted {
    names: Vec<String>,
    since_step: u64,
    /// Time and step of the newest point per series of each generation: a thinned file is read again
    /// from its start. Another generation's rank may be on another worker, whose clock is another.
    newest: HashMap<(u64, String, u32), (u64, u64)>,
}

impl Wanted {
    /// What is new of a job's part of a batch.
    fn select(&mut self, job: v1::JobBulk) -> Vec<v1::MetricSeries> {
        let generation = job.generation;
        let of = |series| v1::MetricSeries { generation, ..series };
        job.metrics.into_iter().filter_map(|series| self.select_series(of(series))).collect()
    }

    fn select_series(&mut self, mut series: v1::MetricSeries) -> Option<v1::MetricSeries> {
        if !self.names.is_empty() && !self.names.contains(&series.name) {
            return None;
        }
        let key = (series.generation, series.name.clone(), series.rank);
        let newest = self.newest.entry(key).or_default();
        series.points.retain(|point| {
            let place = (point.time_ms, point.step);
            let is_new = place > *newest;
            if is_new {
                *newest = place;
            }
            is_new && point.step >= self.since_step
        });
        (!series.points.is_empty()).then_some(series)
    }
}

async fn stream_metrics(
    (archive, mut reader): (Reader, Reader),
    mut follow: Follow,
    mut wanted: Wanted,
    sender: &mpsc::Sender<Result<v1::MetricSeries, Status>>,
) {
    // Once through for where each attempt began: what it made again is told once.
    let mut histories = match histories(archive).await {
        Ok(histories) => histories,
        Err(status) => {
            let _ = sender.send(Err(status)).await;
            return;
        }
    };
    loop {
        follow.touched();
        let (entries, back) = match read(reader).await {
            Ok(read) => read,
            Err(status) => {
                // The client may have left; then nobody needs the status.
                let _ = sender.send(Err(status)).await;
                return;
            }
        };
        reader = back;
        let is_empty = entries.is_empty();
        let mut jobs: Vec<_> = entries.into_iter().flat_map(|e| e.jobs).collect();
        jobs.iter().for_each(|job| histories.see(job));
        jobs.iter_mut().for_each(|job| histories.cut(job));
        for series in jobs.into_iter().flat_map(|job| wanted.select(job)) {
            if sender.send(Ok(series)).await.is_err() {
                return;
            }
        }
        if !is_empty {
            follow.progressed();
        } else if !follow.more().await {
            return;
        }
    }
}

/// Where each attempt's history begins, of all that is there now.
async fn histories(mut reader: Reader) -> Result<Histories, Status> {
    let read = blocking(move || {
        let mut histories = Histories::default();
        loop {
            let entries = reader.next()?;
            if entries.is_empty() {
                return Ok(histories);
            }
            entries.iter().flat_map(|e| &e.jobs).for_each(|job| histories.see(job));
        }
    });
    let found: std::io::Result<Histories> = read.await?;
    found.map_err(|error| internal("read the job's files", &error))
}

pub(super) async fn read(mut reader: Reader) -> Result<(Vec<v1::BulkBatch>, Reader), Status> {
    let (entries, reader) = blocking(move || (reader.next(), reader)).await?;
    let entries = entries.map_err(|error| internal("read the job's files", &error))?;
    Ok((entries, reader))
}
