//! The one thread that writes: takes what waits, commits it at once, answers all.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::store::{Error, EventLog};

/// Requests that may wait. The control loop awaits each, so there are a few at most.
const QUEUE: usize = 16;

/// Payloads of one commit, about: more only delay the answers.
const MAX_COMMIT: usize = 512;

/// The watermark follows the acknowledgements at this distance.
const MARK_EVERY: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<(), Error>>;

enum Request {
    Append { payloads: Vec<Vec<u8>>, reply: Reply },
    Snapshot { state: Vec<u8>, reply: Reply },
    Close { reply: Reply },
}

/// A handle on the writing thread. Dropping it without [`Writer::close`] is an unclean stop.
pub(crate) struct Writer {
    requests: SyncSender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(log: Box<dyn EventLog>) -> Result<Self, Error> {
        let (requests, waiting) = mpsc::sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || Thread { log: Some(log), is_marked: true }.run(&waiting))?;
        Ok(Self { requests, thread: Some(thread) })
    }

    /// Durable when this returns. Cancel-safe only in that the batch is whole or absent.
    pub(crate) async fn append(&self, payloads: Vec<Vec<u8>>) -> Result<(), Error> {
        self.ask(|reply| Request::Append { payloads, reply }).await
    }

    pub(crate) async fn snapshot(&self, state: Vec<u8>) -> Result<(), Error> {
        self.ask(|reply| Request::Snapshot { state, reply }).await
    }

    /// Closes the store cleanly and ends the thread.
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        let result = self.ask(|reply| Request::Close { reply }).await;
        if let Some(thread) = self.thread.take() {
            // It has answered, so it is past its last wait.
            thread.join().map_err(|_| Error::Stopped)?;
        }
        result
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

struct Thread {
    /// None after a failure: the engine's state is unknown, so nothing more is written.
    log: Option<Box<dyn EventLog>>,
    is_marked: bool,
}

impl Thread {
    fn run(mut self, waiting: &Receiver<Request>) {
        loop {
            let first = match self.next(waiting) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => {
                    self.mark();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match first {
                Request::Append { payloads, reply } => {
                    if let Some(Request::Close { reply }) = self.commit(payloads, reply, waiting) {
                        answer(reply, self.close());
                        return;
                    }
                }
                Request::Snapshot { state, reply } => {
                    answer(reply, self.guarded(|log| log.put_snapshot(&state)));
                }
                Request::Close { reply } => {
                    answer(reply, self.close());
                    return;
                }
            }
        }
    }

    /// Sleeps without a timer when nothing is to be marked.
    fn next(&self, waiting: &Receiver<Request>) -> Result<Request, RecvTimeoutError> {
        if self.is_marked {
            waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            waiting.recv_timeout(MARK_EVERY)
        }
    }

    /// Commits this batch with all that wait behind it. Gives back a close that it came upon.
    fn commit(
        &mut self,
        mut payloads: Vec<Vec<u8>>,
        reply: Reply,
        waiting: &Receiver<Request>,
    ) -> Option<Request> {
        let mut replies = vec![reply];
        let mut other = None;
        while payloads.len() < MAX_COMMIT {
            match waiting.try_recv() {
                Ok(Request::Append { payloads: more, reply }) => {
                    payloads.extend(more);
                    replies.push(reply);
                }
                Ok(request) => {
                    other = Some(request);
                    break;
                }
                Err(_) => break,
            }
        }
        let result = self.guarded(|log| log.append_batch(&payloads));
        self.is_marked = false;
        let mut result = Some(result);
        for reply in replies {
            // The first asker gets the error itself; the others learn that the store stopped.
            answer(reply, result.take().unwrap_or(self.standing()));
        }
        match other {
            Some(Request::Snapshot { state, reply }) => {
                answer(reply, self.guarded(|log| log.put_snapshot(&state)));
                None
            }
            other => other,
        }
    }

    fn standing(&self) -> Result<(), Error> {
        if self.log.is_some() { Ok(()) } else { Err(Error::Stopped) }
    }

    fn mark(&mut self) {
        self.is_marked = true;
        if let Err(error) = self.guarded(|log| log.mark_acknowledged()) {
            tracing::error!(error = %service::exit::chain(&error), "the store has failed");
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        match self.log.take() {
            Some(log) => log.close(),
            None => Err(Error::Stopped),
        }
    }

    /// Runs one operation; after an error or a panic the store takes nothing more.
    fn guarded(
        &mut self,
        operation: impl FnOnce(&mut Box<dyn EventLog>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(log) = &mut self.log else { return Err(Error::Stopped) };
        let result = panic::catch_unwind(AssertUnwindSafe(|| operation(log)));
        let result = result.unwrap_or_else(|payload| {
            let message = service::telemetry::panic_message(payload.as_ref()).to_owned();
            Err(Error::Panicked { message })
        });
        if result.is_err() {
            self.log = None;
        }
        result
    }
}

fn answer(reply: Reply, result: Result<(), Error>) {
    // Who asked may be gone; what was written stays.
    let _ = reply.send(result);
}
