//! The queue as clients see it: lists in pages, watches, groups, requeue, preempt, drain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tonic::{Response, Status};

use common::ids::JobId;
use common::status::JobStatus;
use control::coordinator::{
    After, Answer, Condition, DrainOrder, Group, PreemptOrder, Refusal, Requeue,
};
use proto::convert;
use proto::v1;

use crate::core::Input;
use crate::rpc::clients::{check_request_id, random_suffix, refused, unasked};
use crate::rpc::{Front, STREAM_QUEUE, malformed, no_such_job, say_stopping};
use crate::views::{Cursor, Filter, Page};

/// Ids end in 30 random bits: two tries in a row that collide mean something else is wrong.
const ID_TRIES: usize = 5;

/// Jobs that one job may wait for.
const MAX_AFTER: usize = 64;
const MAX_GROUP: usize = 64;
/// Of a reason and of a worker's name.
const MAX_REASON: usize = 256;
/// No save takes longer.
const MAX_GRACE: Duration = Duration::from_secs(3600);

type Updates = mpsc::Receiver<Result<v1::JobStatus, Status>>;

impl Front {
    /// Asks for a new job under fresh ids until one is free.
    pub(super) async fn ask_for_job(
        &self,
        name: &str,
        input: impl Fn(JobId, oneshot::Sender<Answer>) -> Input,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        for _ in 0..ID_TRIES {
            let job_id = JobId::from_name(name, &random_suffix())
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            match self.core.ask(|reply| input(job_id, reply)).await? {
                Answer::Submitted(job_id) => {
                    return Ok(Response::new(v1::SubmitResponse { job_id: job_id.into() }));
                }
                Answer::Refused(Refusal::IdTaken) => {}
                Answer::Refused(refusal) => return Err(refused(&refusal)),
                answer => return Err(unasked(&answer)),
            }
        }
        Err(Status::internal("no free job id was found"))
    }

    pub(super) async fn requeue(
        &self,
        request: v1::RequeueRequest,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let ended = self.known_job(&request.job_id)?;
        check_request_id(&request.request_id)?;
        let status = self.core.views().status(&ended).ok_or_else(|| no_such_job(&ended))?;
        let v1::RequeueRequest { request_id, from_start, command_secret, .. } = request;
        let knows_secret = self.info.permit.admits(&command_secret);
        self.ask_for_job(&status.row.name, move |job_id, reply| {
            let request_id = request_id.clone();
            let requeue = Requeue { job_id, request_id, from_start, knows_secret };
            Input::Requeue { ended: ended.clone(), requeue, reply }
        })
        .await
    }

    pub(super) async fn preempt(
        &self,
        request: v1::PreemptRequest,
    ) -> Result<Response<v1::PreemptResponse>, Status> {
        let job_id = self.known_job(&request.job_id)?;
        let (reason, grace) = why_and_how_long(request.reason, request.grace_ms)?;
        let order = PreemptOrder { reason, grace };
        match self.core.ask(|reply| Input::Preempt { job_id, order, reply }).await? {
            Answer::Preempted(attempt) => {
                Ok(Response::new(v1::PreemptResponse { attempt: attempt.0 }))
            }
            Answer::Refused(refusal) => Err(refused(&refusal)),
            answer => Err(unasked(&answer)),
        }
    }

    pub(super) async fn drain(
        &self,
        request: v1::DrainRequest,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let v1::DrainRequest { worker, undo, reason, grace_ms, allow } = request;
        let (reason, grace) = why_and_how_long(reason, grace_ms)?;
        if worker.len() > MAX_REASON {
            return Err(Status::invalid_argument(format!("worker: at most {MAX_REASON} bytes")));
        }
        let order = match (allow, undo) {
            (true, _) => DrainOrder::Allow,
            (false, true) => DrainOrder::Undo,
            (false, false) => DrainOrder::Drain { reason, grace },
        };
        match self.core.ask(|reply| Input::Drain { worker, order, reply }).await? {
            Answer::Drained(state) => {
                let state = state.unwrap_or_default().to_owned();
                Ok(Response::new(v1::DrainResponse { state }))
            }
            Answer::Refused(refusal) => Err(refused(&refusal)),
            answer => Err(unasked(&answer)),
        }
    }

    pub(super) fn page_of_jobs(
        &self,
        request: v1::ListJobsRequest,
    ) -> Result<v1::ListJobsResponse, Status> {
        let v1::ListJobsRequest { group, prefix, states, limit, page } = request;
        let states = states.iter().map(|state| convert::job_state("states", state));
        let states = states.collect::<Result<_, _>>().map_err(|error| malformed(&error))?;
        let from = if page.is_empty() { None } else { Some(cursor(&page)?) };
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        let filter = Filter { group, prefix, states };
        let Page { rows, next } = self.core.views().rows(&filter, from, limit);
        Ok(v1::ListJobsResponse {
            jobs: rows.into_iter().map(Into::into).collect(),
            next_page: next
                .map_or_else(String::new, |at| format!("{}/{}", at.submitted_at, at.job_id)),
        })
    }

    /// The present status of a job, then every change, until it is final.
    pub(super) fn follow_job(&self, job_id: JobId) -> Result<Updates, Status> {
        let views = self.core.views();
        let mut status = views.watch(&job_id).ok_or_else(|| no_such_job(&job_id))?;
        let mut board = views.watch_board();
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let (stop, core) = (self.stop.clone(), self.core.clone());
        service::tasks::spawn(service::tasks::Kind::Finish, "watch-job", async move {
            let mut told: Option<Arc<JobStatus>> = None;
            loop {
                board.mark_unchanged();
                status.mark_unchanged();
                let Some(newest) = core.views().status(&job_id) else { return };
                let (is_final, is_waiting) =
                    (newest.row.state.is_final(), newest.waiting.is_some());
                if told.as_ref() != Some(&newest) {
                    // A client that left ends the watch at once, not at the next change.
                    let sent = sender.send(Ok(JobStatus::clone(&newest).into())).await;
                    if sent.is_err() {
                        return;
                    }
                    told = Some(newest);
                }
                if is_final {
                    return;
                }
                tokio::select! {
                    changed = status.changed() => if changed.is_err() { return },
                    changed = board.changed(), if is_waiting => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = stop.cancelled() => return say_stopping(&sender),
                }
            }
        });
        Ok(receiver)
    }
}

/// What an operator says with an order that makes jobs leave; no grace: as configured.
fn why_and_how_long(reason: String, grace_ms: u64) -> Result<(String, Option<Duration>), Status> {
    let grace = Duration::from_millis(grace_ms);
    if grace > MAX_GRACE {
        let text = format!("grace of {} s: at most 3600 s", grace.as_secs());
        return Err(Status::invalid_argument(text));
    }
    if reason.len() > MAX_REASON {
        return Err(Status::invalid_argument(format!("reason: at most {MAX_REASON} bytes")));
    }
    let reason = if reason.is_empty() { "by an operator".to_owned() } else { reason };
    Ok((reason, (!grace.is_zero()).then_some(grace)))
}

fn cursor(page: &str) -> Result<Cursor, Status> {
    let parsed = page.split_once('/').and_then(|(at, id)| {
        Some(Cursor { submitted_at: at.parse().ok()?, job_id: id.parse().ok()? })
    });
    parsed.ok_or_else(|| {
        Status::invalid_argument(format!("page `{page:.120}` is none that an answer named"))
    })
}

/// The group of a submit.
pub(super) fn group(name: String, max_running: u32) -> Result<Option<Group>, Status> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() && max_running == 0 {
        return Ok(None);
    }
    if name.is_empty() || name.len() > MAX_GROUP || !name.chars().all(is_plain) {
        let text = format!("group `{name:.120}` must be 1 to 64 letters, digits, `.`, `_` or `-`");
        return Err(Status::invalid_argument(text));
    }
    Ok(Some(Group { name, max_running: (max_running > 0).then_some(max_running) }))
}

/// The jobs that a submit is to run after.
pub(super) fn after(after: Vec<v1::After>) -> Result<Vec<After>, Status> {
    if after.len() > MAX_AFTER {
        let text = format!("after {} jobs: at most {MAX_AFTER}", after.len());
        return Err(Status::invalid_argument(text));
    }
    let after = after.into_iter().map(|after| {
        let job_id = convert::job_id(&after.job_id).map_err(|error| malformed(&error))?;
        let condition = if after.in_any_way { Condition::Any } else { Condition::Ok };
        Ok(After { job_id, condition })
    });
    after.collect()
}
