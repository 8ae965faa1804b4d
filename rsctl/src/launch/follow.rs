//! Following what was launched: its lines, its end, and Ctrl-C.

use std::pin::pin;
use std::time::Duration;

use common::ids::{AttemptId, JobId};
use common::spec::JobSpec;
use common::status::{JobState, JobStatus};
use proto::v1;
use service::exit::Failure;

use crate::cluster::need::Need;
use crate::cluster::site::Site;
use crate::commands::run::{KILLED_WITHIN, PATIENCE, PLACED_WITHIN, never_placed, with_last_words};
use crate::commands::watch::RECONNECT_TIMEOUT;
use crate::coordinator::{Coordinator, LogQuery};
use crate::follow::{Follower, View};
use crate::interrupts::{Interrupts, interrupted};
use crate::launch::output::Printer;
use crate::launch::request;
use crate::log_reader::LogReader;
use crate::master::Master;
use crate::{commands, render};

/// On a cluster, the last lines may come a moment after the end.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(2);

/// What rsctl says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Talk {
    Usual,
    Little,
}

/// What runs on a private cluster, and where that is.
#[derive(Debug)]
pub(super) struct Private {
    pub(super) site: Site,
    pub(super) spec: JobSpec,
    pub(super) job_toml: String,
}

/// Whose coordinator it is.
#[derive(Debug, Clone, Copy)]
enum Home {
    /// Our own, on this machine or on these hosts: it will never have more than it has.
    Private(&'static str),
    /// It may start anew, and get more workers.
    Shared,
}

impl Home {
    /// How long to go on without it.
    fn patience(self) -> Duration {
        match self {
            Self::Private(_) => PATIENCE,
            Self::Shared => RECONNECT_TIMEOUT,
        }
    }
}

/// On a private cluster; where nothing `is_kept`, the logs go with it.
pub(super) async fn on_private(
    private: Private,
    is_kept: bool,
    lines: Printer,
    talk: Talk,
    interrupts: &mut Interrupts,
) -> Result<JobStatus, Failure> {
    let Private { site, mut spec, job_toml } = private;
    let need = Need::of(&spec.resources);
    let mut cluster = tokio::select! {
        cluster = site.start() => cluster?,
        () = interrupts.next() => return Err(interrupted()),
    };
    if !is_kept {
        spec.job.output_dir = cluster.scratch().to_owned();
    }
    let mut coordinator = Coordinator::connect(cluster.address()).await?;
    let submit = async {
        cluster.ready(&mut coordinator).await?;
        let command_secret = cluster.command_secret();
        let request = v1::SubmitRequest { command_secret, ..request(&spec, job_toml) };
        Ok::<JobId, Failure>(coordinator.submit(request).await?)
    };
    let submitted = tokio::select! {
        id = submit => id,
        () = interrupts.next() => Err(interrupted()),
    };
    let result = match submitted {
        Ok(id) => {
            let home = Home::Private(site.name());
            let mut launched = Launched { home, ..Launched::new(coordinator, id, lines, talk) };
            let status = tokio::select! {
                status = launched.until_final(interrupts) => status,
                error = cluster.broken(need) => Err(error.into()),
            };
            // They send what they still have.
            cluster.stop_workers().await;
            match status {
                Ok(status) => launched.last_lines().await.map(|()| status),
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    let result = result.map_err(|failure| with_last_words(failure, &cluster));
    cluster.stop().await;
    result
}

/// On the workers of a coordinator.
pub(super) async fn on_cluster(
    master: &Master,
    request: v1::SubmitRequest,
    lines: Printer,
    talk: Talk,
    interrupts: &mut Interrupts,
) -> Result<JobStatus, Failure> {
    let mut coordinator = commands::connect_to(master).await?;
    let id = commands::submit::submit(&mut coordinator, request).await?;
    if talk == Talk::Usual {
        render::talk(format_args!("job {id} on the cluster at {}", master.address()));
    }
    let mut launched = Launched::new(coordinator, id, lines, talk);
    let status = launched.until_final(interrupts).await?;
    // Those that come later are in the job's logs.
    let _ = tokio::time::timeout(LAST_LINES_WITHIN, launched.last_lines()).await;
    Ok(status)
}

/// A job whose lines are shown.
#[derive(Debug)]
struct Launched {
    coordinator: Coordinator,
    id: JobId,
    reader: LogReader,
    lines: Printer,
    talk: Talk,
    home: Home,
}

impl Launched {
    fn new(coordinator: Coordinator, id: JobId, lines: Printer, talk: Talk) -> Self {
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let reader = LogReader { coordinator: coordinator.clone(), id: id.clone(), query };
        Self { coordinator, id, reader, lines, talk, home: Home::Shared }
    }

    /// Shows lines until the job is final.
    async fn until_final(&mut self, interrupts: &mut Interrupts) -> Result<JobStatus, Failure> {
        let Self { coordinator, id, reader, lines, talk, home } = self;
        let mut reading = pin!(reader.until_end(lines, home.patience()));
        let mut following = pin!(follow(coordinator, id, *talk, *home, interrupts));
        let mut is_read = false;
        loop {
            tokio::select! {
                read = &mut reading, if !is_read => {
                    read?;
                    is_read = true;
                }
                status = &mut following => return status,
            }
        }
    }

    /// Those that were not there at the end.
    async fn last_lines(&mut self) -> Result<(), Failure> {
        self.reader.query.follow = false;
        self.reader.once(&mut self.lines, None).await?.map_err(Failure::from)
    }
}

/// A first interrupt stops the ranks with SIGTERM, a second kills them.
async fn follow(
    coordinator: &Coordinator,
    id: &JobId,
    talk: Talk,
    home: Home,
    interrupts: &mut Interrupts,
) -> Result<JobStatus, Failure> {
    let mut asking = coordinator.clone();
    let mut follower = Follower { coordinator: coordinator.clone(), patience: home.patience() };
    let mut view = Restarts { talk, seen: AttemptId(0) };
    let never_placed = async {
        match home {
            Home::Private(place) => never_placed(asking.clone(), id, place).await,
            Home::Shared => wait_in_queue(asking.clone(), id, talk).await,
        }
    };
    tokio::select! {
        status = follower.until_final(id, &mut view) => return status,
        failure = never_placed => return Err(failure),
        () = interrupts.next() => {}
    }
    view.talk("stopping all ranks with SIGTERM; Ctrl-C again kills them");
    asking.cancel(id, false).await?;
    tokio::select! {
        status = follower.until_final(id, &mut view) => return status,
        () = interrupts.next() => {}
    }
    asking.cancel(id, true).await?;
    match tokio::time::timeout(KILLED_WITHIN, follower.until_final(id, &mut view)).await {
        Ok(status) => status,
        // The cluster's end takes the ranks with it.
        Err(_) => Err(interrupted()),
    }
}

/// On a cluster a job may have to wait; says once for what.
async fn wait_in_queue(mut coordinator: Coordinator, id: &JobId, talk: Talk) -> Failure {
    tokio::time::sleep(PLACED_WITHIN).await;
    // A coordinator that does not answer is the follower's business.
    if let Ok(status) = coordinator.job(id).await
        && status.row.state == JobState::Queued
        && talk == Talk::Usual
    {
        render::talk(format_args!("it waits: {}", status.row.reason));
    }
    std::future::pending().await
}

/// Says when all ranks start again, and why.
#[derive(Debug)]
struct Restarts {
    talk: Talk,
    seen: AttemptId,
}

impl View for Restarts {
    fn status(&mut self, status: &JobStatus) -> Result<(), Failure> {
        let attempt = status.row.attempt;
        if attempt > self.seen && self.seen > AttemptId(0) {
            let before = status.attempts.iter().rev().find(|one| one.attempt < attempt);
            let why = before.map_or("", |before| before.reason.as_str());
            self.talk(&format!("attempt {attempt} starts: {why}"));
        }
        self.seen = attempt.max(self.seen);
        Ok(())
    }

    fn talk(&mut self, text: &str) {
        if self.talk == Talk::Usual {
            render::talk(text);
        }
    }
}
