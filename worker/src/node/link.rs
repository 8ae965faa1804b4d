//! The node's end of one control connection: what it says leaves in order and without anybody
//! waiting here. After a welcome everything is told again, which may be more than the connection
//! takes at once; that waits here and leaves as room comes.

use std::collections::VecDeque;
use std::future::pending;

use proto::v1::{WorkerMessage, worker_message::Kind};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) is_welcome: bool,
    outbox: mpsc::Sender<WorkerMessage>,
    /// What the outbox has no room for yet, oldest first.
    waiting: VecDeque<WorkerMessage>,
    /// How many may wait: as many as were told again at once, so the bound is what the worker
    /// remembers.
    allowed: usize,
}

/// The connection is gone, or takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stuck;

impl Link {
    pub(super) fn new(number: u64, outbox: mpsc::Sender<WorkerMessage>) -> Self {
        Self { number, is_welcome: false, outbox, waiting: VecDeque::new(), allowed: 0 }
    }

    pub(super) fn say(&mut self, kind: Kind) -> Result<(), Stuck> {
        self.waiting.push_back(WorkerMessage { kind: Some(kind) });
        self.move_on()
    }

    /// Says what may be more than there is room for.
    pub(super) fn say_all(&mut self, kinds: Vec<Kind>) -> Result<(), Stuck> {
        self.allowed = self.waiting.len() + kinds.len();
        self.waiting.extend(kinds.into_iter().map(|kind| WorkerMessage { kind: Some(kind) }));
        self.move_on()
    }

    /// Passes on as much as there is room for.
    pub(super) fn move_on(&mut self) -> Result<(), Stuck> {
        while let Some(message) = self.waiting.pop_front() {
            match self.outbox.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return Err(Stuck),
                Err(TrySendError::Full(message)) => {
                    self.waiting.push_front(message);
                    break;
                }
            }
        }
        if self.waiting.len() > self.allowed { Err(Stuck) } else { Ok(()) }
    }

    /// Resolves when [`Link::move_on`] gets on, at once where the connection is gone. Cancel-safe.
    pub(super) async fn can_move_on(&self) {
        if self.waiting.is_empty() {
            return pending().await;
        }
        // Only the room is of interest here; a closed outbox is found by `move_on`.
        let _ = self.outbox.reserve().await;
    }

    /// Passes on all that waits, then ends the stream.
    pub(super) async fn finish(self) {
        for message in self.waiting {
            if self.outbox.send(message).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{Heartbeat, Leaving};

    use super::*;

    fn heartbeat(time_ms: u64) -> Kind {
        Kind::Heartbeat(Heartbeat { time_ms, ..Default::default() })
    }

    fn take(outgoing: &mut mpsc::Receiver<WorkerMessage>) -> Vec<u64> {
        let mut times = Vec::new();
        while let Ok(message) = outgoing.try_recv() {
            match message.kind {
                Some(Kind::Heartbeat(heartbeat)) => times.push(heartbeat.time_ms),
                other => times.extend(other.is_none().then_some(0)),
            }
        }
        times
    }

    #[tokio::test]
    async fn what_is_told_again_may_be_more_than_the_connection_takes_at_once() {
        let (outbox, mut outgoing) = mpsc::channel(4);
        let mut link = Link::new(1, outbox);
        assert_eq!(link.say_all((1..=10).map(heartbeat).collect()), Ok(()));
        assert_eq!(take(&mut outgoing), [1, 2, 3, 4]);
        // What is said meanwhile comes after it.
        assert_eq!(link.say(heartbeat(11)), Ok(()));
        let mut seen = take(&mut outgoing);
        while seen.len() < 7 {
            link.can_move_on().await;
            assert_eq!(link.move_on(), Ok(()));
            seen.extend(take(&mut outgoing));
        }
        assert_eq!(seen, (5..=11).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_connection_that_takes_nothing_is_given_up() {
        let (outbox, _outgoing) = mpsc::channel(4);
        let mut link = Link::new(1, outbox);
        assert_eq!(link.say_all((1..=6).map(heartbeat).collect()), Ok(()));
        let mut said = 0;
        while link.say(heartbeat(7)).is_ok() {
            said += 1;
        }
        assert_eq!(said, 4, "as many more as were told again");
        let (outbox, outgoing) = mpsc::channel(4);
        drop(outgoing);
        assert_eq!(Link::new(2, outbox).say(heartbeat(1)), Err(Stuck));
    }

    #[tokio::test]
    async fn what_waits_leaves_before_the_stream_ends() {
        let (outbox, mut outgoing) = mpsc::channel(1);
        let mut link = Link::new(1, outbox);
        assert_eq!(link.say_all(vec![heartbeat(1), heartbeat(2)]), Ok(()));
        assert_eq!(link.say(Kind::Leaving(Leaving::default())), Ok(()));
        let read = async {
            let mut count = 0;
            while outgoing.recv().await.is_some() {
                count += 1;
            }
            count
        };
        let ((), count) = tokio::join!(link.finish(), read);
        assert_eq!(count, 3);
    }
}
