//! The conversation with the worker, on the main thread: assignment, rendezvous, stop, abort, last
//! word. Decides when the process ends; computes nothing.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use collectives::Listener;
use common::exit::ExitCode;
use common::status::{FailureKind, TrainerFailure};
use engine::Outcome;
use proto::convert;
use proto::v1::trainer_link_client::TrainerLinkClient;
use proto::v1::trainer_message::Kind;
use proto::v1::worker_command::Kind as Command;
use proto::v1::{
    Finished, Listening, Notes, RankTable, TrainerHello, TrainerMessage, WorkerCommand,
};
use service::tasks;
use service::transport::{self, Timeouts};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::info;

use crate::outbox::Outbox;
use crate::panics;
use crate::rank::{Error as RankError, Identity, Training};
use crate::stack;

/// The worker is on this machine and has the assignment ready.
const ASSIGNMENT_DEADLINE: Duration = Duration::from_secs(10);

/// For the worker to take in the last word.
const LAST_WORD_DEADLINE: Duration = Duration::from_secs(1);

/// How often the rank says where it is.
const POSITION_PACE: Duration = Duration::from_secs(1);

/// Messages between the outbox and the socket; the outbox is the queue that has the policy.
const IN_FLIGHT: usize = 4;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("speak with the worker")]
    Connect {
        #[source]
        source: transport::Error,
    },
    #[error("speak with the worker")]
    Session {
        #[source]
        source: Box<tonic::Status>,
    },
    #[error("no assignment from the worker")]
    NoAssignment,
    #[error("no answer from the worker within {} s", ASSIGNMENT_DEADLINE.as_secs())]
    Deadline,
    #[error("the worker is gone")]
    WorkerGone,
}

/// Serves as one rank until its end.
pub(crate) async fn run(socket: UnixStream) -> Result<ExitCode, Error> {
    let channel = transport::connect_stream(socket, &Timeouts::default())
        .await
        .map_err(|source| Error::Connect { source })?;
    let (sender, outgoing) = mpsc::channel(IN_FLIGHT);
    let libtorch = engine::libtorch().unwrap_or_else(|error| {
        tracing::warn!(error = service::exit::chain(&error), "libtorch does not say what it is");
        String::new()
    });
    let hello = Kind::Hello(TrainerHello { pid: std::process::id(), libtorch });
    sender
        .try_send(TrainerMessage { kind: Some(hello) })
        .expect("a new channel has room for one message");
    let mut client = TrainerLinkClient::new(channel)
        .max_decoding_message_size(transport::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(transport::MAX_MESSAGE_BYTES);
    let opening = async {
        let mut commands = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        let first = commands.message().await?;
        Ok::<_, tonic::Status>((first, commands))
    };
    let (first, commands) = timeout(ASSIGNMENT_DEADLINE, opening)
        .await
        .map_err(|_| Error::Deadline)?
        .map_err(|source| Error::Session { source: Box::new(source) })?;
    let Some(WorkerCommand { kind: Some(Command::Assignment(assignment)) }) = first else {
        return Err(Error::NoAssignment);
    };
    let outbox = Arc::new(Outbox::default());
    let (rank, pumped) = (assignment.rank, Arc::clone(&outbox));
    tasks::spawn(tasks::Kind::Finish, "reports", async move { pumped.pump(rank, sender).await });
    let mut session = Session { outbox, commands, asked: Asked::Nothing };
    let prepared = Identity::try_from(assignment).and_then(|mut identity| {
        identity.open_device()?;
        identity.listen().map(|listener| (identity, listener))
    });
    let last_word = match prepared {
        Ok((identity, listener)) => session.train(identity, listener).await?,
        Err(error) => LastWord::failed(error.failure()),
    };
    session.leave(last_word).await
}

struct Session {
    outbox: Arc<Outbox>,
    commands: Streaming<WorkerCommand>,
    asked: Asked,
}

/// What the worker has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Stop,
    Abort,
}

/// How the process ends.
struct LastWord {
    kind: Kind,
    code: ExitCode,
}

impl LastWord {
    fn stopped(summary_json: String) -> Self {
        Self { kind: Kind::Stopped(Finished { summary_json }), code: ExitCode::Cancelled }
    }

    fn failed(failure: TrainerFailure) -> Self {
        let code = match failure.kind {
            FailureKind::Configuration => ExitCode::BadConfiguration,
            _ => ExitCode::Failed,
        };
        tracing::error!(kind = ?failure.kind, step = failure.step, "{}", failure.message);
        Self { kind: Kind::Failed(failure.into()), code }
    }
}

impl Session {
    /// From the listening socket to the end of training.
    async fn train(
        &mut self,
        mut identity: Identity,
        listener: Listener,
    ) -> Result<LastWord, Error> {
        let nccl_id = match identity.nccl_id() {
            Ok(id) => id,
            Err(error) => return Ok(LastWord::failed(error.failure())),
        };
        self.outbox.event(Kind::Listening(Listening {
            address: listener.address().to_string(),
            unix_name: listener.unix_name().to_owned(),
            nccl_id,
        }));
        let table = match self.await_table().await? {
            Some(table) => table,
            None => return Ok(LastWord::stopped(String::new())),
        };
        let training = Training::start(identity, listener, table, Arc::clone(&self.outbox));
        let mut training = match training {
            Ok(training) => training,
            Err(error) => return Ok(LastWord::failed(error.failure())),
        };
        let mut pace = tokio::time::interval(POSITION_PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    training.relay_faults();
                    self.outbox.position(training.position());
                }
                result = &mut training.result => return Ok(self.judge(result)),
                command = next(&mut self.commands) => {
                    if self.on_command(command?, &training) {
                        return Ok(LastWord::stopped(String::new()));
                    }
                }
            }
        }
    }

    /// None: stopped before there was one. The rendezvous has its deadline at the coordinator,
    /// which then aborts.
    async fn await_table(&mut self) -> Result<Option<RankTable>, Error> {
        loop {
            match next(&mut self.commands).await? {
                Command::RankTable(table) => return Ok(Some(table)),
                Command::StopGracefully(_) | Command::Abort(_) => return Ok(None),
                Command::Assignment(_) | Command::ShowStacks(_) => {}
            }
        }
    }

    /// True: there is nothing to wait for, the process can leave at once.
    fn on_command(&mut self, command: Command, training: &Training) -> bool {
        match command {
            Command::StopGracefully(_) => {
                info!("asked to stop at the next step");
                self.asked = Asked::Stop;
                training.stop.store(true, Ordering::Relaxed);
                !training.has_met()
            }
            Command::Abort(reason) => {
                info!(reason, "asked to leave at once");
                self.asked = Asked::Abort;
                !training.abort(&reason)
            }
            // It may come again after the coordinator's restart; the first one counts.
            Command::ShowStacks(_) => {
                self.show_stacks();
                false
            }
            Command::RankTable(_) | Command::Assignment(_) => false,
        }
    }

    /// Beside everything else: a stuck thread may take its time to answer, or never do.
    fn show_stacks(&self) {
        let outbox = Arc::clone(&self.outbox);
        tasks::spawn(tasks::Kind::Finish, "stacks", async move {
            let notes = stack::of_training_threads().await;
            outbox.event(Kind::Stacks(Notes { notes }));
        });
    }

    fn judge(
        &self,
        result: Result<Result<Outcome, RankError>, oneshot::error::RecvError>,
    ) -> LastWord {
        match result {
            Ok(Ok(outcome)) => {
                let summary_json = convert::summary_json(outcome.summary.as_ref());
                if outcome.stopped {
                    return LastWord::stopped(summary_json);
                }
                let kind = Kind::Finished(Finished { summary_json });
                LastWord { kind, code: ExitCode::Done }
            }
            Ok(Err(error)) => judge_error(self.asked, &error),
            // The thread ended without an answer.
            Err(_) => LastWord {
                kind: Kind::Panicked(panics::first().unwrap_or_default()),
                code: ExitCode::Bug,
            },
        }
    }

    /// Says the last word and waits, within bounds, until the worker has taken it in: it then ends
    /// its side too.
    async fn leave(mut self, last_word: LastWord) -> Result<ExitCode, Error> {
        self.outbox.last_word(last_word.kind);
        let heard = async { while next(&mut self.commands).await.is_ok() {} };
        if timeout(LAST_WORD_DEADLINE, heard).await.is_err() {
            tracing::warn!("the worker did not take in the last word");
        }
        Ok(last_word.code)
    }
}

fn judge_error(asked: Asked, error: &RankError) -> LastWord {
    let failure = error.failure();
    // A panic in another thread is the cause, what the engine noticed of it the consequence.
    if let Some(panic) = panics::first() {
        return LastWord { kind: Kind::Panicked(panic), code: ExitCode::Bug };
    }
    match asked {
        // The collectives returned because they were told to, or because the peers had gone.
        Asked::Abort | Asked::Stop if error.is_departure() => {
            info!(error = failure.message, "left");
            LastWord::stopped(String::new())
        }
        _ => LastWord::failed(failure),
    }
}

/// The next command of a kind that is known; the stream's end is the worker's end.
async fn next(commands: &mut Streaming<WorkerCommand>) -> Result<Command, Error> {
    loop {
        match commands.message().await {
            Ok(Some(WorkerCommand { kind: Some(command) })) => return Ok(command),
            // Of a newer worker; a trainer comes from the same build, so this does not happen.
            Ok(Some(WorkerCommand { kind: None })) => {}
            Ok(None) | Err(_) => return Err(Error::WorkerGone),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
