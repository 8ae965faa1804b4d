//! A job's logs as they come, over as many connections as it takes.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;

use common::ids::JobId;
use proto::v1;
use service::exit::Failure;

use crate::coordinator::{Coordinator, Error, LogQuery};
use crate::follow::Patience;
use crate::render;

/// Where lines go.
pub(crate) trait Lines {
    fn take(&mut self, lines: v1::LogLines) -> Result<(), Failure>;
}

/// Reads a job's logs; knows how far it came.
#[derive(Debug)]
pub(crate) struct LogReader {
    pub(crate) coordinator: Coordinator,
    pub(crate) id: JobId,
    pub(crate) query: LogQuery,
}

impl LogReader {
    /// Reads until the job ends. Cancel-safe: what was taken is not read again.
    pub(crate) async fn until_end(
        &mut self,
        lines: &mut dyn Lines,
        patience: Duration,
    ) -> Result<(), Failure> {
        let mut patience = Patience::new(patience);
        loop {
            let error = match self.once(lines, Some(&mut patience)).await? {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error.into()),
            };
            // What was shown is not shown again, so there is no tail to begin with.
            self.query.tail = 0;
            patience.lost(error, render::talk).await?;
        }
    }

    /// One connection's worth; the outer error is of the one who takes the lines.
    pub(crate) async fn once(
        &mut self,
        lines: &mut dyn Lines,
        patience: Option<&mut Patience>,
    ) -> Result<Result<(), Error>, Failure> {
        let messages = match self.coordinator.logs(&self.id, &self.query).await {
            Ok(messages) => messages,
            Err(error) => return Ok(Err(error)),
        };
        if patience.is_some_and(Patience::found) {
            render::talk("the coordinator is back");
        }
        let mut messages = pin!(messages);
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return Ok(Err(error)),
            };
            let key = (message.attempt, message.rank);
            let next = message.next;
            lines.take(message)?;
            self.query.positions.insert(key, next);
        }
        Ok(Ok(()))
    }
}
