//! The end of the worker: trainers first, then a goodbye, then what must be kept.

use std::time::Duration;

use proto::v1::coordinator_message::Kind as Said;
use proto::v1::worker_message::Kind;
use proto::v1::{Leaving, Withdrawing};
use service::shutdown::Reason;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{Inputs, Node};
use crate::config::Config;
use crate::local_job::{LocalJob, Phase};
use crate::trainer_process::Order;
use crate::uplink::LinkEvent;

/// For the goodbye, the last lines and the disk together.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);

/// When leaving was forced.
const FORCED_GOODBYE_DEADLINE: Duration = Duration::from_millis(300);

impl Node {
    /// Trainers finish their step, save and leave, within the grace.
    pub(super) fn begin_to_leave(&mut self) {
        let Config { stop_grace, notice_grace, .. } = self.config;
        let grace = if self.shutdown.is_announced() { notice_grace } else { stop_grace };
        self.withdraw(grace);
        let living = self.jobs.values().filter(|job| job.is_alive()).count();
        if living > 0 {
            info!(jobs = living, grace = ?grace, "waiting for trainers to stop");
        }
        self.stop_preparing();
        self.jobs.values().for_each(|job| job.order_all(|| Order::StopGracefully { grace }));
        let note = format!("worker `{}` is leaving: its trainers stop", self.config.name);
        let notes: Vec<_> = self
            .jobs
            .values_mut()
            .filter(|job| job.is_alive())
            .map(|job| job.on_notes(vec![note.clone()]))
            .collect();
        notes.into_iter().for_each(|kind| self.say(kind));
    }

    pub(super) fn kill_all(&mut self) {
        self.withdraw(Duration::ZERO);
        self.stop_preparing();
        self.jobs.values().for_each(|job| job.order_all(|| Order::Kill));
    }

    /// Tells the coordinator before the first trainer ends, so that it knows why they end.
    fn withdraw(&mut self, grace: Duration) {
        self.is_leaving = true;
        let grace_ms = grace.as_millis().try_into().unwrap_or(u64::MAX);
        let withdrawing = Withdrawing { reason: self.why_leaving(), grace_ms };
        self.withdrawing = Some(withdrawing.clone());
        self.say(Kind::Withdrawing(withdrawing));
    }

    fn why_leaving(&self) -> String {
        match self.shutdown.reason() {
            Some(Reason::Requested(why) | Reason::Failed(why)) => why,
            None => "end".to_owned(),
        }
    }

    fn stop_preparing(&mut self) {
        for job in self.jobs.values_mut() {
            if let Phase::Preparing { stop } = &mut job.phase {
                *stop = true;
            }
        }
    }

    /// Everything that is known reaches the coordinator or the disk.
    pub(super) async fn leave(&mut self, inputs: &mut Inputs) {
        debug_assert!(!self.jobs.values().any(LocalJob::is_alive), "trainers are gone first");
        let grace =
            if self.shutdown.is_forced() { FORCED_GOODBYE_DEADLINE } else { GOODBYE_DEADLINE };
        let deadline = Instant::now() + grace;
        self.say(Kind::Leaving(Leaving { reason: self.why_leaving() }));
        if let Some(link) = self.link.take().filter(|link| link.is_welcome) {
            let number = link.number;
            let goodbye = async {
                // The stream ends after its last message; the coordinator then ends its own side.
                link.finish().await;
                while let Some(event) = inputs.links.recv().await {
                    match event {
                        LinkEvent::Down { link } if link == number => break,
                        LinkEvent::Said { message, .. } => {
                            if let Some(Said::Ends(ends)) = message.kind {
                                self.on_acknowledged(&ends);
                            }
                        }
                        _ => {}
                    }
                }
            };
            if timeout_at(deadline, goodbye).await.is_err() {
                warn!("the coordinator did not answer the goodbye");
            }
            self.flush_bulk(deadline).await;
        }
        self.background.iter().for_each(tokio::task::JoinHandle::abort);
        self.tools.spool.persist();
        let kept = timeout_at(Instant::now() + GOODBYE_DEADLINE, self.outcomes.flush());
        if kept.await.is_err() {
            warn!("the disk of the state folder is too slow: outcomes may be lost");
        }
        info!("worker down");
    }

    /// The bulk connection goes on sending by itself; this waits for its acknowledgements.
    async fn flush_bulk(&self, deadline: Instant) {
        let poll = Duration::from_millis(10);
        while !self.tools.spool.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(poll).await;
        }
    }
}
