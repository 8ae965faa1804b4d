//! What the front holds: a bounded queue into the loop, and the views.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use common::ids::JobId;
use common::slurm::allocation::AllocationName;
use common::slurm::pool::{PoolName, PoolStatus};
use common::status::Explanation;
use control::coordinator::{
    AllocationNews, Answer, CancelMode, ConnectionId, DrainOrder, PoolOrder, PreemptOrder, Requeue,
    Submission, WorkerHello, WorkerMessage,
};
use proto::v1;

use crate::core::links::Link;
use crate::views::Views;

/// What the loop takes.
pub(crate) enum Input {
    Submit {
        job_id: JobId,
        submission: Box<Submission>,
        reply: oneshot::Sender<Answer>,
    },
    Cancel {
        job_id: JobId,
        mode: CancelMode,
        reply: oneshot::Sender<Answer>,
    },
    Requeue {
        ended: JobId,
        requeue: Requeue,
        reply: oneshot::Sender<Answer>,
    },
    Preempt {
        job_id: JobId,
        order: PreemptOrder,
        reply: oneshot::Sender<Answer>,
    },
    Drain {
        worker: String,
        order: DrainOrder,
        reply: oneshot::Sender<Answer>,
    },
    Pool {
        name: PoolName,
        order: PoolOrder,
        reply: oneshot::Sender<Answer>,
    },
    Pools {
        reply: oneshot::Sender<Vec<PoolStatus>>,
    },
    Hello {
        connection: ConnectionId,
        hello: Box<WorkerHello>,
        link: Link,
    },
    Worker {
        connection: ConnectionId,
        message: WorkerMessage,
    },
    Dropped {
        connection: ConnectionId,
    },
    /// What SLURM says of an allocation.
    Allocation {
        name: AllocationName,
        news: AllocationNews,
    },
    /// A message of the shell's own to a worker by name; says whether it was sent.
    Order {
        worker: String,
        order: v1::CoordinatorMessage,
        reply: oneshot::Sender<bool>,
    },
    /// None: there is no such job.
    Explain {
        job_id: JobId,
        reply: oneshot::Sender<Option<Explanation>>,
    },
    /// Answered when the loop comes to it: how far behind is it?
    Probe {
        reply: oneshot::Sender<()>,
    },
}

impl Input {
    pub(crate) const KINDS: [&str; 14] = [
        "submit",
        "cancel",
        "preempt",
        "requeue",
        "drain",
        "pool",
        "pools",
        "hello",
        "worker",
        "dropped",
        "allocation",
        "order",
        "explain",
        "probe",
    ];

    /// One of [`Self::KINDS`].
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::Cancel { .. } => "cancel",
            Self::Preempt { .. } => "preempt",
            Self::Requeue { .. } => "requeue",
            Self::Drain { .. } => "drain",
            Self::Pool { .. } => "pool",
            Self::Pools { .. } => "pools",
            Self::Hello { .. } => "hello",
            Self::Worker { .. } => "worker",
            Self::Dropped { .. } => "dropped",
            Self::Allocation { .. } => "allocation",
            Self::Order { .. } => "order",
            Self::Explain { .. } => "explain",
            Self::Probe { .. } => "probe",
        }
    }
}

/// The coordinator is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is stopping")]
pub(crate) struct Stopping;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle {
    inputs: mpsc::Sender<Input>,
    views: Arc<Views>,
    connections: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(inputs: mpsc::Sender<Input>, views: Arc<Views>) -> Self {
        Self { inputs, views, connections: Arc::default() }
    }

    pub(crate) fn views(&self) -> &Views {
        &self.views
    }

    /// A number that no other stream of this life has.
    pub(crate) fn new_connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits for room in the loop's queue. Cancel-safe: the input is queued or it is not.
    pub(crate) async fn send(&self, input: Input) -> Result<(), Stopping> {
        self.inputs.send(input).await.map_err(|_| Stopping)
    }

    /// Sends an input and waits for its outcome, which is durable when it comes. Once queued the
    /// input takes effect, also when the caller is cancelled.
    pub(crate) async fn ask<T>(
        &self,
        input: impl FnOnce(oneshot::Sender<T>) -> Input,
    ) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.send(input(reply)).await?;
        answer.await.map_err(|_| Stopping)
    }
}
