//! Decodes many pieces on all cores, and gives what they hold in their order.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, Scope};

/// Ends with the first error.
pub(super) struct InOrder<O, E> {
    threads: Vec<Receiver<Result<O, E>>>,
    next: usize,
    count: usize,
}

/// Starts threads, each of which decodes every so many-th piece until one fails.
pub(super) fn in_order<'scope, I, O, E>(
    scope: &'scope Scope<'scope, '_>,
    pieces: &'scope [I],
    decode: impl Fn(usize, &'scope I) -> Result<O, E> + Copy + Send + 'scope,
) -> io::Result<InOrder<O, E>>
where
    I: Sync,
    O: Send + 'scope,
    E: Send + 'scope,
{
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let count = cores.min(pieces.len());
    let mut threads = Vec::with_capacity(count);
    for first in 0..count {
        let mine = pieces.iter().enumerate().skip(first).step_by(count);
        // Nobody waits: the pieces are all here, so what they hold may be.
        let (sender, decoded) = mpsc::sync_channel(mine.len());
        let named = thread::Builder::new().name("replay".to_owned());
        named.spawn_scoped(scope, move || {
            for (number, piece) in mine {
                let held = decode(number, piece);
                let is_last = held.is_err();
                // Nobody listens any more after an error of another thread.
                if sender.send(held).is_err() || is_last {
                    return;
                }
            }
        })?;
        threads.push(decoded);
    }
    Ok(InOrder { threads, next: 0, count: pieces.len() })
}

impl<O, E> Iterator for InOrder<O, E> {
    type Item = Result<O, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let decoded = self.threads[self.next % self.threads.len()].recv();
        self.next += 1;
        let held = decoded.expect("a thread sends all it has, or panics and with it the scope");
        if held.is_err() {
            self.count = self.next;
        }
        Some(held)
    }
}
