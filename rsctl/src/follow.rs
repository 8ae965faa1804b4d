//! Following a job to its end, across losses of the coordinator.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use common::exit::ExitCode;
use common::ids::JobId;
use common::status::{FailureKind, JobState, JobStatus, TrainerEnd};
use service::backoff::Backoff;
use service::exit::Failure;

use crate::clock;
use crate::coordinator::{Coordinator, Error};

/// What sees a job pass by.
pub(crate) trait View {
    fn status(&mut self, status: &JobStatus) -> Result<(), Failure>;
    /// Something about the watching itself.
    fn talk(&mut self, text: &str);
}

/// A connection that is made anew when it breaks.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) coordinator: Coordinator,
    /// The longest time without any coordinator.
    pub(crate) patience: Duration,
}

impl Follower {
    /// Shows every status to `view` and gives the final one. Cancel-safe: the job goes on, and
    /// following it again starts with its present status.
    pub(crate) async fn until_final(
        &mut self,
        job: &JobId,
        view: &mut dyn View,
    ) -> Result<JobStatus, Failure> {
        let mut patience = Patience::new(self.patience);
        loop {
            let error = match self.follow_once(job, view, &mut patience).await? {
                Ok(status) => return Ok(status),
                Err(error) => error,
            };
            if let Err(failure) = patience.lost(error, |text: String| view.talk(&text)).await {
                return Err(failure.hint(format!(
                    "the job goes on without rsctl; when the coordinator is back: rsctl watch {job}"
                )));
            }
        }
    }

    /// One connection's worth: the final status, or why there is none yet. The outer error ends
    /// the following.
    async fn follow_once(
        &mut self,
        job: &JobId,
        view: &mut dyn View,
        patience: &mut Patience,
    ) -> Result<Result<JobStatus, Error>, Failure> {
        // The channel of a lost coordinator connects again by itself at the next question.
        let mut statuses = match self.coordinator.watch(job).await {
            Ok(statuses) => Box::pin(statuses),
            Err(error) if error.is_retryable() => return Ok(Err(error)),
            Err(error) => return Err(error.into()),
        };
        while let Some(item) = statuses.next().await {
            let status = match item {
                Ok(status) => status,
                Err(error) if error.is_retryable() => return Ok(Err(error)),
                Err(error) => return Err(error.into()),
            };
            if patience.found() {
                view.talk("the coordinator is back");
            }
            view.status(&status)?;
            if status.row.state.is_final() {
                return Ok(Ok(status));
            }
        }
        // The coordinator closed the stream before the end: it is leaving.
        let address = self.coordinator.address().to_owned();
        let reason = "it closed the stream".to_owned();
        Ok(Err(Error::Lost { operation: format!("watch job {job}"), address, reason }))
    }
}

/// How long to go on without a coordinator.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    backoff: Backoff,
    lost_since: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Self { limit, backoff, lost_since: None }
    }

    /// The coordinator answered; whether it had been lost.
    pub(crate) fn found(&mut self) -> bool {
        self.lost_since.take().is_some()
    }

    /// The connection broke: waits before the next try, or ends with `error` when patience is at
    /// its end. Says it once per loss.
    pub(crate) async fn lost(
        &mut self,
        error: Error,
        talk: impl FnOnce(String),
    ) -> Result<(), Failure> {
        let since = match self.lost_since {
            Some(since) => since,
            None => {
                let (why, limit) = (service::exit::chain(&error), clock::short(self.limit));
                talk(format!("{why}; trying again for {limit}"));
                self.backoff.reset();
                *self.lost_since.insert(Instant::now())
            }
        };
        let wait = self.backoff.next_wait_jittered();
        if since.elapsed() + wait > self.limit {
            return Err(error.into());
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// The exit code that a finished job gives rsctl.
pub(crate) fn exit_code(status: &JobStatus) -> ExitCode {
    match status.row.state {
        JobState::Succeeded => ExitCode::Done,
        JobState::Cancelled => ExitCode::Cancelled,
        _ if is_misconfigured(status) => ExitCode::BadConfiguration,
        _ => ExitCode::Failed,
    }
}

fn is_misconfigured(status: &JobStatus) -> bool {
    let by_failure = status.failure.as_ref().and_then(|failure| failure.kind);
    let by_ranks = || {
        status.ranks.iter().find_map(|rank| match &rank.end {
            Some(TrainerEnd::Failed { failure }) => Some(failure.kind),
            _ => None,
        })
    };
    by_failure.or_else(by_ranks) == Some(FailureKind::Configuration)
}
