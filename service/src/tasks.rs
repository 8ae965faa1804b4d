//! The only place that spawns tasks: each says what its end means.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::shutdown::Shutdown;

/// What a task's end means.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Its end is normal: it served one connection, one order, one child.
    Finish,
    /// The process cannot live without it: its end, or a panic in it, ends the process, unless a
    /// shutdown is already under way.
    Critical(Shutdown),
}

/// Spawns `future` as a task with a kind and a name for the logs.
#[expect(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub fn spawn<F>(kind: Kind, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let guard = EndGuard { kind, name };
    let task = async move {
        // Dropped at the task's end and also when it unwinds.
        let _guard = guard;
        future.await
    };
    tokio::spawn(task.instrument(tracing::debug_span!("task", name)))
}

struct EndGuard {
    kind: Kind,
    name: &'static str,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let Kind::Critical(shutdown) = &self.kind
            && !shutdown.is_requested()
        {
            shutdown.fail(format!("task `{}` ended", self.name));
        }
    }
}
