//! A job in an allocation from its submit to its end, whoever ends it: the job itself, a person,
//! SLURM with a notice, or a fault.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::Instant;

use common::exit::ExitCode;
use common::ids::JobId;
use common::status::{JobState, JobStatus};
use service::exit::Failure;

use crate::coordinator::Coordinator;
use crate::follow::{Follower, View};
use crate::slurm::signals::{Signals, Told};
use crate::slurm::site::{Broken, Site};

/// The coordinator is on this machine: when it is gone, it is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// All workers are there, so a job that is still queued after this time waits for what never comes.
const PLACED_WITHIN: Duration = Duration::from_secs(3);
/// A cancelled job has the coordinator's grace of 10 s to save.
const CANCELLED_WITHIN: Duration = Duration::from_secs(30);
/// When it need not save.
const KILLED_WITHIN: Duration = Duration::from_secs(3);
/// Between the end of the workers' grace and their goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(10);
/// The last status may still be on its way when the workers are gone.
const LAST_STATUS_WITHIN: Duration = Duration::from_secs(1);

/// How it ended, where nothing failed on the way.
#[derive(Debug)]
pub(crate) enum Ended {
    Final(JobStatus),
    /// The nodes are taken away; the job goes on from its newest checkpoint when it is called again.
    Preempted(Option<JobStatus>),
    /// As [`Self::Preempted`], where it is not for us to call it again.
    Terminated,
    /// Somebody cancelled it, and it did not live to say so.
    Cancelled,
}

/// What was asked of a running job, and until when it is to be done.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Nothing,
    Leave { until: Instant },
    End { until: Instant },
    Cancel { until: Instant },
}

impl Asked {
    /// Resolves when the time is over.
    async fn overdue(self) {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Leave { until } | Self::End { until } | Self::Cancel { until } => {
                tokio::time::sleep_until(until).await;
            }
        }
    }

    /// What it is that is over already.
    fn or(self, told: Told) -> Self {
        let until = Instant::now();
        match (self, told) {
            (Self::Cancel { .. }, _) | (_, Told::Cancel | Told::CancelAtOnce) => {
                Self::Cancel { until }
            }
            (_, Told::End) => Self::End { until },
            (Self::Nothing, Told::Notice) => Self::Leave { until },
            (asked, Told::Notice) => asked,
        }
    }

    /// The end of a job that did not tell its own; None where nobody asked for it.
    fn ended(self, status: Option<JobStatus>) -> Option<Ended> {
        match self {
            Self::Nothing => None,
            Self::Leave { .. } => Some(Ended::Preempted(status)),
            Self::End { .. } => Some(Ended::Terminated),
            Self::Cancel { .. } => Some(Ended::Cancelled),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Following<'a> {
    pub(crate) site: &'a mut Site,
    pub(crate) signals: &'a mut Signals,
    pub(crate) coordinator: Coordinator,
    pub(crate) job: &'a JobId,
    pub(crate) notice_grace: Duration,
}

impl Following<'_> {
    pub(crate) async fn until_it_ends(mut self, view: &mut dyn View) -> Result<Ended, Failure> {
        let coordinator = self.coordinator.clone();
        let mut follower = Follower { coordinator, patience: PATIENCE };
        let mut asked = Asked::Nothing;
        loop {
            tokio::select! {
                // Signals first: what ends at the same time ends because of them.
                biased;
                told = self.signals.next() => asked = self.on_told(told, asked, view).await,
                status = follower.until_final(self.job, view) => match status {
                    Ok(status) => return Ok(Ended::Final(status)),
                    // SLURM ends all processes of a job at once, the coordinator too.
                    Err(failure) => return asked.ended(None).ok_or(failure),
                },
                broken = self.site.broken() => {
                    let broken = broken?;
                    return self.on_broken(broken, asked, &mut follower, view).await;
                }
                failure = never_placed(self.coordinator.clone(), self.job) => return Err(failure),
                () = asked.overdue() => {
                    let bug = || Failure::new(ExitCode::Bug, anyhow!("overdue, and nothing was asked"));
                    return asked.ended(None).ok_or_else(bug);
                }
            }
        }
    }

    /// What was told last counts, unless it says less: nobody takes a cancel back.
    async fn on_told(&mut self, told: Told, asked: Asked, view: &mut dyn View) -> Asked {
        match (told, asked) {
            (Told::Notice, Asked::Nothing) => Asked::Leave { until: self.announce("notice", view) },
            (Told::End, Asked::Nothing) => Asked::End { until: self.announce("SIGTERM", view) },
            (Told::End, Asked::Leave { until }) => Asked::End { until },
            (Told::Cancel, Asked::Nothing | Asked::Leave { .. } | Asked::End { .. }) => {
                view.talk(
                    "cancelling: the ranks finish their step and save; Ctrl-C again stops at once",
                );
                self.cancel(false, view).await;
                Asked::Cancel { until: Instant::now() + CANCELLED_WITHIN }
            }
            (Told::CancelAtOnce, _) => {
                view.talk("stopping at once");
                self.cancel(true, view).await;
                Asked::Cancel { until: Instant::now() + KILLED_WITHIN }
            }
            (Told::Notice | Told::End | Told::Cancel, asked) => asked,
        }
    }

    /// Until when the workers have left.
    fn announce(&self, why: &str, view: &mut dyn View) -> Instant {
        let grace = humantime::format_duration(self.notice_grace);
        view.talk(&format!("{why}: the job saves and leaves its nodes within {grace}"));
        self.site.announce();
        Instant::now() + self.notice_grace + GOODBYE_WITHIN
    }

    /// SLURM may have told the coordinator to end, too; then everything ends without it.
    async fn cancel(&mut self, now: bool, view: &mut dyn View) {
        if let Err(error) = self.coordinator.cancel(self.job, now).await {
            view.talk(&service::exit::chain(&error));
        }
    }

    /// The workers or the coordinator have ended before the job.
    async fn on_broken(
        &mut self,
        broken: Broken,
        asked: Asked,
        follower: &mut Follower,
        view: &mut dyn View,
    ) -> Result<Ended, Failure> {
        let last = follower.until_final(self.job, view);
        let asked = tokio::select! {
            biased;
            // SLURM's signal to them may overtake the one to us.
            told = self.signals.next() => asked.or(told),
            last = tokio::time::timeout(LAST_STATUS_WITHIN, last) => match last {
                Ok(Ok(status)) => return Ok(Ended::Final(status)),
                _ => asked,
            },
        };
        // Workers end well only when they are told to leave, by us or by SLURM.
        let has_left = matches!(&broken, Broken::Step(status) if status.success());
        let status = self.coordinator.job(self.job).await.ok();
        match asked {
            Asked::Nothing if has_left => Ok(Ended::Preempted(status)),
            _ => asked.ended(status).ok_or_else(|| self.site.failure(broken)),
        }
    }
}

/// Resolves only when the job waits for what this allocation will never have.
async fn never_placed(mut coordinator: Coordinator, id: &JobId) -> Failure {
    tokio::time::sleep(PLACED_WITHIN).await;
    // A coordinator that does not answer is the follower's business.
    if let Ok(status) = coordinator.job(id).await
        && status.row.state == JobState::Queued
    {
        let why = anyhow!("this allocation cannot run the job: {}", status.row.reason);
        return Failure::new(ExitCode::BadConfiguration, why);
    }
    std::future::pending().await
}
