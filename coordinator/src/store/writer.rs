//! The one thread that writes: takes what waits, commits it at once, answers all. Snapshots are made
//! and written by threads of their own, so that no commit waits for one.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::store::snapshot::Written;
use crate::store::{Error, EventLog};

/// Requests that may wait. The control loop awaits each, so there are a few at most.
const QUEUE: usize = 16;

/// Payloads of one commit, about: more only delay the answers.
const MAX_COMMIT: usize = 512;

/// The watermark follows the acknowledgements at this distance.
const MARK_EVERY: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<(), Error>>;

/// Makes a snapshot.
type Encode = Box<dyn FnOnce() -> Vec<u8> + Send>;

enum Request {
    Append {
        payloads: Vec<Vec<u8>>,
        reply: Reply,
    },
    Snapshot {
        encode: Encode,
        back: SyncSender<Request>,
        reply: Reply,
    },
    /// What became of it.
    Written {
        written: io::Result<Written>,
        reply: Reply,
    },
    Close {
        reply: Reply,
    },
}

/// A handle on the writing thread. Dropping it without [`Writer::close`] is an unclean stop.
pub(crate) struct Writer {
    requests: SyncSender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(log: Box<dyn EventLog>) -> Result<Self, Error> {
        let (requests, waiting) = mpsc::sync_channel(QUEUE);
        // The life before may have been pruning.
        let thread = Thread { log: Some(log), is_marked: true, is_pruning: true };
        let named = thread::Builder::new().name("store".to_owned());
        let thread = named.spawn(move || thread.run(&waiting))?;
        Ok(Self { requests, thread: Some(thread) })
    }

    /// Durable when this returns. Cancel-safe only in that the batch is whole or absent.
    pub(crate) async fn append(&self, payloads: Vec<Vec<u8>>) -> Result<(), Error> {
        self.ask(|reply| Request::Append { payloads, reply }).await
    }

    /// Keeps the state after everything that was appended before, as `encode` gives it. Appends go on
    /// meanwhile; what this gives tells the end. One at a time: a younger one must not be overtaken.
    pub(crate) fn begin_snapshot(
        &self,
        encode: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let (reply, end) = oneshot::channel();
        let (encode, back) = (Box::new(encode), self.requests.clone());
        let request = Request::Snapshot { encode, back, reply };
        self.requests.try_send(request).map_err(|_| Error::Stopped)?;
        Ok(end)
    }

    /// The same, to its end.
    pub(crate) async fn snapshot(&self, state: Vec<u8>) -> Result<(), Error> {
        self.begin_snapshot(move || state)?.await.map_err(|_| Error::Stopped)?
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
    /// Some events may go.
    is_pruning: bool,
}

impl Thread {
    fn run(mut self, waiting: &Receiver<Request>) {
        let mut after = None;
        while let Some(request) = after.take().or_else(|| self.next(waiting)) {
            match request {
                Request::Append { payloads, reply } => {
                    after = self.commit(payloads, reply, waiting);
                }
                Request::Snapshot { encode, back, reply } => self.snapshot(encode, back, reply),
                Request::Written { written, reply } => answer(reply, self.adopt(written)),
                Request::Close { reply } => {
                    answer(reply, self.close());
                    return;
                }
            }
        }
    }

    /// Waits for a request; while there is none, prunes and marks. Sleeps without a timer when there
    /// is nothing to do.
    fn next(&mut self, waiting: &Receiver<Request>) -> Option<Request> {
        loop {
            if self.is_pruning {
                match waiting.try_recv() {
                    Ok(request) => return Some(request),
                    Err(TryRecvError::Disconnected) => return None,
                    Err(TryRecvError::Empty) => self.prune(),
                }
            } else if self.is_marked {
                return waiting.recv().ok();
            } else {
                match waiting.recv_timeout(MARK_EVERY) {
                    Ok(request) => return Some(request),
                    Err(RecvTimeoutError::Disconnected) => return None,
                    Err(RecvTimeoutError::Timeout) => self.mark(),
                }
            }
        }
    }

    fn snapshot(&self, encode: Encode, back: SyncSender<Request>, reply: Reply) {
        let Some(log) = &self.log else { return answer(reply, Err(Error::Stopped)) };
        let place = log.begin_snapshot();
        let making = thread::Builder::new().name("snapshot".to_owned());
        let made = making.spawn(move || {
            yield_to_others();
            let written = place.write(&encode());
            // A store that was closed meanwhile needs no news of it.
            let _ = back.send(Request::Written { written, reply });
        });
        if let Err(error) = made {
            tracing::error!(%error, "no thread for a snapshot: the next one may have one");
        }
    }

    fn adopt(&mut self, written: io::Result<Written>) -> Result<(), Error> {
        let written = written?;
        self.guarded(|log| log.adopt_snapshot(&written))?;
        self.is_pruning = true;
        Ok(())
    }

    fn prune(&mut self) {
        let mut is_more = false;
        let pruned = self.guarded(|log| {
            is_more = log.prune()?;
            Ok(())
        });
        self.is_pruning = is_more;
        tell_failure(pruned);
    }

    /// Commits this batch with all that wait behind it. Gives back the other request that it came upon.
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
        other
    }

    fn standing(&self) -> Result<(), Error> {
        if self.log.is_some() { Ok(()) } else { Err(Error::Stopped) }
    }

    fn mark(&mut self) {
        self.is_marked = true;
        tell_failure(self.guarded(|log| log.mark_acknowledged()));
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

/// The calling thread has time: decisions and commits go first.
fn yield_to_others() {
    const NICE: i32 = 10;
    // Of Linux's threads each has a niceness of its own, and anybody may raise it.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a snapshot is made at full speed");
    }
}

/// Of what nobody waits for; the next append fails, too.
fn tell_failure(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::error!(error = %service::exit::chain(&error), "the store has failed");
    }
}

fn answer(reply: Reply, result: Result<(), Error>) {
    // Who asked may be gone; what was written stays.
    let _ = reply.send(result);
}
